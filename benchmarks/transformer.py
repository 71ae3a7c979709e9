"""A training step of the transformer of chapter 7, beside the straightforward torch code of the same network.

The straightforward side is written as in Karpathy's lectures and nanoGPT: eager float32, attention as softmax of masked
scores, nn.Dropout, AdamW as torch gives it. "fused" is the same with scaled_dot_product_attention. Ours is `train`, in
float32 and, where the processor multiplies faster in it, in bfloat16, eager and compiled. All start from the same
weights, draw the same batches and take turns; the median counts. With dropout off, all must report the same losses:
within 1e-4 in float32, within 0.02 in bfloat16. All threads. With --bound, the straightforward step takes turns with its
matrix products and nothing else: what is left when all the rest costs nothing, so their ratio bounds what float32 allows.

    python benchmarks/transformer.py                # results/transformer_speed.json and results/transformer_curves.json
    python benchmarks/transformer.py --name laptop  # results/transformer_speed-laptop.json, one more processor
    python benchmarks/transformer.py --bound        # results/transformer_bound.json
    python benchmarks/transformer.py --quick        # two steps of each to try it, nothing is recorded
"""

import argparse
import copy
import dataclasses
import functools
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from _record import processor, times_in_turns, write_record
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from zerohero.data import CharTokenizer, load_shakespeare, random_batch, write_file
from zerohero.training import train
from zerohero.transformer import CharGPT, CharGPTConfig

SEED, RATE, DECAY, BETAS, CLIP = 1337, 1e-3, 0.1, (0.9, 0.99), 1.0
SMALL = CharGPTConfig(block_size=64, n_layer=4, n_head=4, n_embd=128, dropout=0.0)
LARGE = CharGPTConfig(block_size=256, n_layer=6, n_head=6, n_embd=384, dropout=0.2)
EXACT, NEAR = 1e-4, 0.02  # how far two loss curves may be apart: float32, bfloat16


@dataclasses.dataclass
class Contest:
    name: str
    config: CharGPTConfig
    batch_size: int
    steps: int  # of training in a turn
    rounds: int  # turns of each contestant
    compared: int  # steps over which the losses are compared


CONTESTS = [
    Contest("nanoGPT's CPU preset", SMALL, batch_size=12, steps=60, rounds=5, compared=60),
    Contest("10.7 million parameters", LARGE, batch_size=16, steps=2, rounds=3, compared=3),
]
WARMUP, CURVE = 20, 300  # steps in which the rate rises; of the first contest for the two curves


# ---- the straightforward side ----


class PlainAttention(nn.Module):
    def __init__(self, config, fused):
        super().__init__()
        self.n_head, self.fused, self.p = config.n_head, fused, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.attn_dropout, self.resid_dropout = nn.Dropout(config.dropout), nn.Dropout(config.dropout)
        past = torch.ones(config.block_size, config.block_size).tril()
        self.register_buffer("past", past, persistent=False)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (z.view(B, T, self.n_head, -1).transpose(1, 2) for z in self.c_attn(x).split(C, dim=2))
        if self.fused:
            p = self.p if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        else:
            scores = q @ k.transpose(-2, -1) * (1.0 / math.sqrt(k.size(-1)))
            scores = scores.masked_fill(self.past[:T, :T] == 0, float("-inf"))
            y = self.attn_dropout(F.softmax(scores, dim=-1)) @ v
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C)))


class PlainMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.gelu = nn.GELU()
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(self.gelu(self.c_fc(x))))


class PlainBlock(nn.Module):
    def __init__(self, config, fused):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(config.n_embd, bias=False), PlainAttention(config, fused)
        self.ln_2, self.mlp = nn.LayerNorm(config.n_embd, bias=False), PlainMLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class PlainGPT(nn.Module):
    """The network of the two presets and nothing else, with the parameter names of GPT-2's checkpoint."""

    def __init__(self, config, fused):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "drop": nn.Dropout(config.dropout),
                "h": nn.ModuleList(PlainBlock(config, fused) for _ in range(config.n_layer)),
                "ln_f": nn.LayerNorm(config.n_embd, bias=False),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, idx, targets):
        parts = self.transformer
        x = parts.drop(parts.wte(idx) + parts.wpe(torch.arange(idx.shape[1])))
        for block in parts.h:
            x = block(x)
        logits = self.lm_head(parts.ln_f(x))
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))


def descend(model, forward, batch, steps, *, precision=torch.float32, **options):
    """The usual loop, with a rate that rises for WARMUP steps; `options` go to AdamW."""
    matrices, vectors = ([p for p in model.parameters() if (p.ndim >= 2) == many] for many in (True, False))
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, **options)
    generator, losses = torch.Generator().manual_seed(SEED), []
    model.train()
    for step in range(steps):
        x, y = batch(generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP)
        with torch.autocast("cpu", precision, precision != torch.float32):
            _, loss = forward(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    return losses


class Products(TorchDispatchMode):
    """Records the operands of every matrix product while it is on."""

    def __init__(self):
        super().__init__()
        self.operands = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            self.operands.append(args)
        return function(*args, **kwargs or {})


def products_alone(config, batch):
    """A function of a number of steps that multiplies what straightforward steps multiply, and nothing else."""
    model = PlainGPT(config, fused=False)
    with Products() as seen:
        descend(model, model, batch, 1)
    operands = [[each.detach().clone() for each in pair] for pair in seen.operands]
    step = [(left, right, left @ right) for left, right in operands]

    def contestant(steps):
        for _ in range(steps):
            for left, right, out in step:
                torch.matmul(left, right, out=out)

    return contestant


# ---- side by side ----


def has_bfloat16(n=256):
    """Whether products of matrices are no slower in bfloat16 here than in float32; without support they take far longer."""
    seconds = {}
    for precision in (torch.float32, torch.bfloat16):
        a, times = torch.randn(n, n).to(precision), []
        for _ in range(7):
            begin = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - begin)
        seconds[precision] = min(times)
    return seconds[torch.bfloat16] <= seconds[torch.float32]


def batches(contest, tokens):
    """What draws a batch of the contest's size, given a generator."""
    return functools.partial(random_batch, tokens, contest.config.block_size, contest.batch_size)


def contestants(contest, config, tokens, precisions=(torch.float32, torch.bfloat16), compiled=False):
    """A dict of functions of a number of steps, each of which trains from the same weights and returns the losses."""
    start, batch = CharGPT(config, torch.Generator().manual_seed(SEED)), batches(contest, tokens)

    def plain(fused):
        def contestant(steps):
            model = PlainGPT(config, fused)
            model.load_state_dict(start.state_dict())
            return descend(model, model, batch, steps)

        return contestant

    def ours(precision):
        # with all of the rate left at the end, it is the same in every step after the warm-up
        even = {"lr": RATE, "warmup": WARMUP, "least": 1.0, "weight_decay": DECAY, "betas": BETAS, "clip": CLIP}

        def contestant(steps):
            options = {**even, "seed": SEED, "every": steps, "precision": precision, "progress": False}
            return train(copy.deepcopy(start), lambda g: batch(generator=g), steps, **options).losses

        return contestant

    def ours_compiled(precision):
        model = copy.deepcopy(start)
        forward = torch.compile(model)  # once: `train` would begin with an empty compiler in every turn

        def contestant(steps):
            model.load_state_dict(start.state_dict())
            return descend(model, forward, batch, steps, precision=precision, fused=True)

        return contestant

    sides = {"straightforward": plain(False), "fused": plain(True)}
    for precision in precisions:
        name = f"ours, {str(precision).removeprefix('torch.')}"
        sides[name] = ours(precision)
        if compiled:
            sides[f"{name}, compiled"] = ours_compiled(precision)
    return sides


def compare(name, losses):
    """The largest distance of each curve from the straightforward one; all must be small."""
    apart = {}
    for side, curve in losses.items():
        apart[side] = max(abs(a - b) for a, b in zip(losses["straightforward"], curve))
        limit = NEAR if "bfloat16" in side else EXACT
        assert apart[side] <= limit, f"{name}: {side} computes other losses, {apart[side]:.5f} away"
    return apart


def write_bound(tokens, config, contest):
    """Measures and records how much of a straightforward step its matrix products are."""
    sides = {
        "straightforward": contestants(contest, config, tokens, precisions=())["straightforward"],
        "matrix products alone": products_alone(config, batches(contest, tokens)),
    }
    for run in sides.values():
        run(5)
    turns = {side: functools.partial(run, contest.steps) for side, run in sides.items()}
    milliseconds, _ = times_in_turns(turns, contest.rounds)
    rows = [{"side": side, "milliseconds": round(total / contest.steps, 2)} for side, total in milliseconds.items()]
    bound = rows[0]["milliseconds"] / rows[1]["milliseconds"]
    print(*rows, f"float32 allows {bound:.2f} times as fast", sep="\n")
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "processor": processor()}
    what = "milliseconds per training step of nanoGPT's CPU preset, medians of turns"
    write_record("transformer_bound", what, contest.rounds, rows, **facts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", help="of the processor, for a record beside the first one")
    parser.add_argument("--bound", action="store_true", help="only how much of a step its matrix products are")
    parser.add_argument("--quick", action="store_true", help="two steps of each, nothing is recorded")
    options = parser.parse_args()
    text = load_shakespeare()
    tokenizer = CharTokenizer(text)
    tokens = torch.tensor(tokenizer.encode(text))[: int(0.9 * len(text))]

    if options.bound:
        return write_bound(tokens, dataclasses.replace(SMALL, vocab_size=len(tokenizer)), CONTESTS[0])

    rows, precisions = [], (torch.float32, torch.bfloat16) if has_bfloat16() else (torch.float32,)
    for contest in CONTESTS:
        if options.quick:
            contest = dataclasses.replace(contest, steps=2, rounds=1, compared=2)
        config = dataclasses.replace(contest.config, vocab_size=len(tokenizer))
        calm = dataclasses.replace(config, dropout=0.0)
        sides = contestants(contest, calm, tokens, precisions, compiled=True)
        apart = compare(contest.name, {side: run(contest.compared) for side, run in sides.items()})
        if config.dropout:
            sides = contestants(contest, config, tokens, precisions, compiled=True)
            for run in sides.values():
                run(1)  # buffers are allocated and code is compiled before the clock starts
        turns = {side: functools.partial(run, contest.steps) for side, run in sides.items()}
        milliseconds, _ = times_in_turns(turns, contest.rounds)
        print(f"\n{contest.name}: batches of {contest.batch_size} x {config.block_size}, dropout {config.dropout}")
        print(f"{'':26}{'ms a step':>10}{'tokens/s':>10}{'ratio':>7}  losses apart over {contest.compared} steps")
        for side, total in milliseconds.items():
            step, ratio = total / contest.steps, milliseconds["straightforward"] / total
            speed = 1000 * contest.batch_size * config.block_size / step
            print(f"{side:26}{step:10.1f}{speed:10,.0f}{ratio:7.2f}  {apart[side]:.1e}")
            row = {
                "contest": contest.name,
                "side": side,
                "milliseconds": round(step, 2),
                "tokens_per_second": round(speed),
            }
            rows.append({**row, "ratio": round(ratio, 2), "losses_apart": float(f"{apart[side]:.1e}")})

    curves = {}
    if torch.bfloat16 in precisions:
        config = dataclasses.replace(SMALL, vocab_size=len(tokenizer))
        sides, steps = contestants(CONTESTS[0], config, tokens), 4 if options.quick else CURVE
        curves = {side: sides[side](steps) for side in ("straightforward", "ours, bfloat16")}
        distance = [abs(a - b) for a, b in zip(*curves.values())]
        mean = sum(distance) / steps
        print(f"\nover {steps} steps, losses in bfloat16 are at most {max(distance):.4f} away, {mean:.4f} on average")
        assert max(distance) <= NEAR, "bfloat16 learns something else"
    if options.quick:
        return
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "processor": processor()}
    rounds = [contest.rounds for contest in CONTESTS]
    name = f"transformer_speed-{options.name}" if options.name else "transformer_speed"
    write_record(name, "milliseconds per training step, medians of turns", rounds, rows, **facts)
    if curves and not options.name:
        content = {side: [round(loss, 4) for loss in curve] for side, curve in curves.items()}
        path = Path(__file__).resolve().parents[1] / "results" / "transformer_curves.json"
        write_file(path, json.dumps(content).encode() + b"\n")


if __name__ == "__main__":
    main()
