"""All context windows of the names, three letters long: the plain loop against `context_windows`.

python benchmarks/data.py
"""

import torch
from _record import times_in_turns, write_record

from zerohero.data import CharTokenizer, context_windows, load_names

ROUNDS = 7


def windows_by_loop(names, block_size, tokenizer):
    X, Y = [], []
    for name in names:
        context = [0] * block_size
        for target in [*tokenizer.encode(name), 0]:
            X.append(context)
            Y.append(target)
            context = [*context[1:], target]
    return torch.tensor(X), torch.tensor(Y)


def main():
    names = load_names()
    tokenizer = CharTokenizer("".join(names), boundary=".")
    contestants = {
        "loop": lambda: windows_by_loop(names, 3, tokenizer),
        "context_windows": lambda: context_windows(names, 3, tokenizer),
    }
    median, windows = times_in_turns(contestants, ROUNDS)
    if not all(map(torch.equal, windows["loop"], windows["context_windows"])):
        raise SystemExit("The windows differ.")
    n = len(windows["loop"][1])
    rows = [
        {"way": way, "milliseconds": round(t, 1), "ratio": round(median["loop"] / t, 1)} for way, t in median.items()
    ]
    for row in rows:
        print("{way:16} {milliseconds:8.1f} ms {ratio:6.1f} x".format(**row))
    write_record("data", f"{n} context windows of 3 letters", ROUNDS, rows)


if __name__ == "__main__":
    main()
