#!/bin/sh
# The whole way in small, on any computer: the nine plays in 1,024 tokens of our own, then 200 steps of a network of
# four layers, with evaluations, samples and checkpoints. About a minute on two cores.
#
#     sh runs/cpu_smoke.sh [FOLDER] [more options of train_gpt2]
set -eu
out=${1:-smoke}
[ $# -gt 0 ] && shift
python=${PYTHON:-python}
export PYTHONUTF8=1

if [ ! -e "$out/shards" ]; then
    "$python" - "$out" <<'END'
import json
import sys
from pathlib import Path

from zerohero.data import load_shakespeare
from zerohero.tokenizer import RegexTokenizer

out, text = Path(sys.argv[1]), load_shakespeare()
out.mkdir(parents=True, exist_ok=True)
tokenizer = RegexTokenizer()
tokenizer.train(text, 1023)
tokenizer.register_special_tokens({"<|endoftext|>": 1023})
tokenizer.save(out / "plays")
speeches = text.split("\n\n")  # a document: twenty speeches that follow one another
documents = ["\n\n".join(speeches[i : i + 20]) for i in range(0, len(speeches), 20)]
lines = "".join(json.dumps({"text": document}) + "\n" for document in documents)
(out / "plays.jsonl").write_text(lines, encoding="utf-8")
END
    "$python" -m zerohero.prepare_shards "$out/plays.jsonl" --out "$out/shards" --tokenizer "$out/plays.model" \
        --validation-fraction 0.1
fi
exec "$python" -m zerohero.train_gpt2 --preset cpu-smoke --data "$out/shards" --out "$out/run" --resume "$@"
