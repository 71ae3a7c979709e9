"""From parquet to shards, beside tiktoken that only encodes; and what the loader takes.

tiktoken gets all documents as a list of strings and gives lists of ids: `encode_ordinary_batch` with as many threads as
there are workers, its tokenizer made before the clock starts. `zerohero.prepare_shards` gets a parquet file, makes its
tokenizer, and leaves shards on the disk, read back and verified; only its machine code is compiled before. They take turns in
one process and are compared: the shards hold exactly tiktoken's ids. Two texts of 100 and 50 MB: the nine plays' speeches, shuffled again and again (seed 0)
into documents of twenty, in which words repeat more than they do on the web; and the made-up text of benchmarks/tokenizer.py
with its 300,000 rare words, in documents of 3,000 characters, in which they repeat less. Processes instead of threads are
measured with Python's encoder, which needs them, on a tenth of the plays.

The loader reads batches of 16 windows of 1,024 tokens from those shards; memory is measured by tests/test_shards.py.

    python benchmarks/shards.py           all of it, and results/shards.json
    python benchmarks/shards.py 0.1       a tenth of each text, which is only printed
"""

import contextlib
import importlib.metadata
import io
import os
import random
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import torch
from _record import processor, times_in_turns, write_record
from pyarrow import parquet
from tokenizer import english_like, gpt2_of_tiktoken

from zerohero import prepare_shards
from zerohero.data import load_shakespeare
from zerohero.shard_files import map_shard, read_header
from zerohero.shards import ShardLoader, shuffled

WORKERS, ROUNDS = 2, 3
OURS, OURS_BY_TIKTOKEN, TIKTOKEN, ALONE = (
    "zerohero, machine code, parquet to shards",
    "zerohero, tiktoken's encoder, parquet to shards",
    "tiktoken, list to lists",
    "zerohero, machine code, one worker",
)


def play_documents(size):
    """Documents of twenty speeches, from the plays shuffled as often as it takes."""
    speeches, rng, documents, filled = load_shakespeare().split("\n\n"), random.Random(0), [], 0
    while filled < size:
        rng.shuffle(speeches)
        documents += ["\n\n".join(speeches[i : i + 20]) for i in range(0, len(speeches), 20)]
        filled = sum(map(len, documents))
    return documents


def made_up_documents(size):
    text = english_like(size)
    return [text[i : i + 3000] for i in range(0, len(text), 3000)]


def prepared(path, folder, numbers, kind=None, workers=WORKERS, jit="1"):
    """Prepares shards of the parquet file `path` in a folder of their own; the folder."""
    out = folder / f"out-{next(numbers)}"
    usual = prepare_shards.choose_encoder
    os.environ["ZEROHERO_JIT"] = jit
    prepare_shards.choose_encoder = lambda tokenizer, workers, _: usual(tokenizer, workers, 1 << 40, kind)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            prepare_shards.prepare([str(path), "--out", str(out), "--workers", str(workers)])
    finally:
        prepare_shards.choose_encoder = usual
    return out


def ids_of(out):
    return {
        split: np.concatenate([np.array(map_shard(p, read_header(p))) for p in sorted(out.glob(f"{split}_*.bin"))])
        for split in ("train", "validation")
    }


def check(out, documents, lists, end_of_text=50256):
    """The shards hold the ids that tiktoken found, document after document."""
    found, places, total = ids_of(out), {"train": 0, "validation": 0}, 0
    for ids in lists:
        split = "validation" if places["validation"] < 0.01 * total else "train"
        begin = places[split]
        end = begin + 1 + len(ids)
        assert found[split][begin] == end_of_text and np.array_equal(found[split][begin + 1 : end], ids)
        places[split], total = end, total + 1 + len(ids)
    assert places == {split: len(row) for split, row in found.items()}
    return total - len(lists)


def row(name, documents, folder, numbers):
    """One text: everybody's seconds and tokens per second."""
    path = folder / f"{name}.parquet"
    parquet.write_table(pyarrow.table({"text": documents}), path, row_group_size=1000)
    encoding, size = gpt2_of_tiktoken(), sum(len(text.encode()) for text in documents)
    contestants = {
        TIKTOKEN: lambda: encoding.encode_ordinary_batch(documents, num_threads=WORKERS),
        OURS: partial(prepared, path, folder, numbers),
        OURS_BY_TIKTOKEN: partial(prepared, path, folder, numbers, "tiktoken"),
        ALONE: partial(prepared, path, folder, numbers, None, 1),
    }
    times, results = times_in_turns(contestants, ROUNDS)
    tokens = check(results[OURS], documents, results[TIKTOKEN])
    assert all(np.array_equal(a, b) for a, b in zip(ids_of(results[OURS]).values(), ids_of(results[ALONE]).values()))
    assert all(
        np.array_equal(a, b) for a, b in zip(ids_of(results[OURS]).values(), ids_of(results[OURS_BY_TIKTOKEN]).values())
    )
    print(f"\n{name}: {size / 1e6:.1f} MB, {len(documents):,} documents, {tokens:,} tokens, {WORKERS} threads")
    found = {"work": f"{name}, {size / 1e6:.0f} MB", "tokens": tokens, "workers": WORKERS, "rounds": ROUNDS}
    for contestant, time in times.items():
        ratio = times[TIKTOKEN] / time
        print(f"{contestant:50} {time / 1000:7.2f} s {tokens / time / 1000:7.2f} M tokens/s {ratio:6.2f}")
        found[contestant] = {
            "seconds": round(time / 1000, 3),
            "million tokens per second": round(tokens / time / 1000, 3),
            "times as fast as tiktoken": round(ratio, 2),
        }
    return found, results[OURS]


def python_row(documents, folder, numbers):
    """Python's encoder in one process and in two."""
    path = folder / "python.parquet"
    parquet.write_table(pyarrow.table({"text": documents}), path, row_group_size=1000)
    contestants = {
        f"{n} process{'es' * (n > 1)}": partial(prepared, path, folder, numbers, "Python", n, "0") for n in (1, WORKERS)
    }
    times, _ = times_in_turns(contestants, 1)
    size = sum(map(len, documents))
    print(f"\nPython's encoder, {size / 1e6:.1f} MB: {', '.join(f'{n} {t / 1000:.2f} s' for n, t in times.items())}")
    return {"work": f"Python's encoder, plays, {size / 1e6:.0f} MB"} | {
        n: {"seconds": t / 1000} for n, t in times.items()
    }


def loader_row(out):
    loader = ShardLoader(out, 16, 1024)
    places = np.arange(16)
    contestants = {
        "batch of 16 x 1,024": lambda: [loader.next_batch() for _ in range(200)],
        "its shuffle among 10 billion tokens": lambda: [shuffled(places, 9_765_624, 1337, 0) for _ in range(200)],
    }
    times, _ = times_in_turns(contestants, 5)
    times = {name: time / 200 for name, time in times.items()}
    print(f"\nloader: {', '.join(f'{name} {time:.3f} ms' for name, time in times.items())}")
    return {"work": "loader, one process"} | {name: {"milliseconds": round(time, 4)} for name, time in times.items()}


def main():
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1
    torch.set_num_threads(1)
    numbers = iter(range(1000))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        plays = play_documents(int(100e6 * share))
        warm = folder / "warm.parquet"
        parquet.write_table(pyarrow.table({"text": plays[:100]}), warm)
        prepared(warm, folder, numbers)  # compiles
        rows = [row("plays", plays, folder, numbers)]
        rows.append(row("made-up text", made_up_documents(int(50e6 * share)), folder, numbers))
        records = [found for found, _ in rows]
        records.append(loader_row(rows[0][1]))
        records.append(python_row(plays[: len(plays) // 10], folder, numbers))
    if share == 1:
        versions = {name: importlib.metadata.version(name) for name in ("numba", "numpy", "pyarrow", "tiktoken")}
        write_record("shards", "preparing shards", ROUNDS, records, processor=processor(), versions=versions)


if __name__ == "__main__":
    main()
