"""How far a CPU comes in the minutes that nanoGPT's CPU preset takes, and how soon it is where the preset ends.

The preset (4 layers, 4 heads, 128 wide, 64 characters of context, batches of 12, AdamW, 2,000 steps in float32) is one
configuration of the chapter's model. Ours is another: twice the context, rotary positions, squared ReLU, and Muon for
the matrices, in bfloat16 where this machine computes it faster. It gets as many steps as fit into the time of the
preset; a second schedule, half as long, is to reach the preset's loss. Same text; losses in nats per character over all
pieces of the whole validation part that do not overlap, with each model's own context and with 64 characters.

    python benchmarks/transformer_cpu.py           # results/transformer_cpu.json
    python benchmarks/transformer_cpu.py --quick   # a few steps to try it, nothing is recorded
"""

import argparse
import dataclasses
import statistics
import sys
import time

import torch
from _record import processor, write_record

from zerohero.data import CharTokenizer, load_shakespeare, random_batch
from zerohero.training import train, validation_loss
from zerohero.transformer import CharGPT, CharGPTConfig

SEED, STEPS = 1337, 2000
TARGET, PRESET_LOSS = 1.70, 1.88  # nats: to reach in the preset's time, and in half of it
MARGIN = 0.05  # part of the time that is kept in reserve

PRESET = CharGPTConfig(block_size=64, n_layer=4, n_head=4, n_embd=128, dropout=0.0)
PRESET_TRAINING = {"lr": 1e-3, "warmup": 100, "least": 0.1, "weight_decay": 0.1, "betas": (0.9, 0.99), "clip": 1.0}
OURS = dataclasses.replace(PRESET, block_size=128, positions="rotary", activation="relu2")
OURS_TRAINING = {"lr": 3e-3, "muon_lr": 0.02, "least": 0.0}


@dataclasses.dataclass
class Trainer:
    """Trains a new model of `config` on `tokens`, with batches of `batch_size` and the `options` of `train`."""

    config: CharGPTConfig
    batch_size: int
    tokens: torch.Tensor
    options: dict

    def __call__(self, steps, **more):
        model = CharGPT(self.config, torch.Generator().manual_seed(SEED))
        history = train(
            model,
            self.batch,
            steps,
            **{"seed": SEED, "every": steps, "progress": sys.stderr.isatty(), **self.options, **more},
        )
        return model, history

    def batch(self, generator):
        return random_batch(self.tokens, self.config.block_size, self.batch_size, generator=generator)

    def seconds_per_step(self, precision, steps):
        """The median of `steps` steps, after three that do not count."""
        starts = []

        def batch(generator):
            starts.append(time.perf_counter())
            return self.batch(generator)

        model = CharGPT(self.config, torch.Generator().manual_seed(SEED))
        options = {**self.options, "precision": precision, "warmup": 0, "progress": False}
        train(model, batch, steps + 4, **options)
        return statistics.median(b - a for a, b in zip(starts[3:], starts[4:]))


def loss_at(model, tokens, block_size):
    """The validation loss of `model` when it sees at most `block_size` characters."""
    config = model.config
    model.config = dataclasses.replace(config, block_size=block_size)
    try:
        return validation_loss(model, tokens)
    finally:
        model.config = config


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few steps of each, nothing is recorded")
    arguments = parser.parse_args()
    steps, tries = (12, 3) if arguments.quick else (STEPS, 12)
    text = load_shakespeare()
    tokenizer = CharTokenizer(text)
    tokens = torch.tensor(tokenizer.encode(text))
    n = int(0.9 * len(tokens))
    training, validation = tokens[:n], tokens[n:]
    if arguments.quick:
        validation = validation[:5000]

    configs = (dataclasses.replace(config, vocab_size=len(tokenizer)) for config in (PRESET, OURS))
    preset, ours = (
        Trainer(config, size, training, options)
        for config, size, options in zip(configs, (12, 16), (PRESET_TRAINING, OURS_TRAINING))
    )
    took = {precision: ours.seconds_per_step(precision, tries) for precision in (torch.float32, torch.bfloat16)}
    precision = min(took, key=took.get)
    print("our step:", ", ".join(f"{1000 * t:.1f} ms in {str(p).removeprefix('torch.')}" for p, t in took.items()))

    rows = []
    print(f"{'':24}{'precision':>10}{'steps':>7}{'tokens':>12}{'seconds':>9}{'validation':>12}{'at 64':>8}")

    def record(name, trainer, steps, precision, **more):
        model, history = trainer(steps, precision=precision, **more)
        own = validation_loss(model, validation)
        at_64 = own if model.config.block_size == 64 else loss_at(model, validation, 64)
        row = {
            "run": name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "precision": str(precision).removeprefix("torch."),
            "batch_size": trainer.batch_size,
            "block_size": model.config.block_size,
            "steps": steps,
            "tokens": history.tokens,
            "seconds": round(history.seconds, 2),
            "validation": round(own, 4),
            "validation_at_64": round(at_64, 4),
        }
        rows.append(row)
        cells = f"{row['precision']:>10}{steps:7,}{history.tokens:12,}{history.seconds:9.1f}{own:12.4f}{at_64:8.4f}"
        print(f"{name:24}{cells}", flush=True)
        return row

    base = record("nanoGPT's CPU preset", preset, steps, torch.float32)
    fit = max(2, int((1 - MARGIN) * base["seconds"] / took[precision]))
    short = fit // 2
    same = record("ours, the same time", ours, fit, precision, warmup=round(0.05 * fit))
    soon = record("ours, the same loss", ours, short, precision, warmup=round(0.05 * short))

    in_time, in_half = same["seconds"] <= base["seconds"], soon["seconds"] <= base["seconds"] / 2
    goals = {
        f"at most {TARGET:.2f} in the preset's time": in_time and same["validation"] <= TARGET,
        f"at most {PRESET_LOSS:.2f} in half of it": in_half and soon["validation"] <= PRESET_LOSS,
        "the loss that the preset had here in half of it": in_half and soon["validation"] <= base["validation"],
    }
    for goal, met in goals.items():
        print(f"{goal}: {'yes' if met else 'no'}")
    if arguments.quick:
        return
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "processor": processor()}
    milliseconds = {str(p).removeprefix("torch."): round(1000 * t, 2) for p, t in took.items()}
    what = "validation loss in nats per character after a time of training, one run each"
    write_record("transformer_cpu", what, 1, rows, **facts, our_step_milliseconds=milliseconds, goals=goals)


if __name__ == "__main__":
    main()
