"""A training step of GPT-2 124M, beside the straightforward torch code of the same network, and what each speed-up gives.

The straightforward side is nanoGPT's way: eager float32, attention as softmax of masked scores, all logits at once,
AdamW as torch gives it. Ours is `zerohero.gpt2.GPT`: the fused attention kernel, the loss in chunks, fused AdamW; in
float32 and, where the processor multiplies faster in it, in bfloat16, beside the straightforward network under
autocast; compiled where there is a compiler. All start from the same weights, see the same batches and take turns, step
by step. They must report the same losses: within 1e-3 in float32, within 0.05 in bfloat16.

The peak is measured: the fastest of many products of matrices. `of_peak` is the part of it that a step reached,
counting the whole T x T of attention as every MFU does; `floor_milliseconds` is what the products that have to be
computed, half of attention only, would take at the peak. No float32 step can be faster.

Then each speed-up is introduced alone, and attention is timed with and without its matrix, its memory counted.

    python benchmarks/gpt2.py                 # results/gpt2_speed.json
    python benchmarks/gpt2.py --name laptop   # results/gpt2_speed-laptop.json, one more processor
    python benchmarks/gpt2.py --only alone    # one of its parts again: step, alone, attention, gpu
    python benchmarks/gpt2.py --device cuda --micro-batch 16 32 64   # results/gpt2_speed-cuda.json, all on the GPU
    python benchmarks/gpt2.py --quick         # a small network to try it, nothing is recorded
"""

import argparse
import dataclasses
import datetime
import gc
import json
import os
import shutil
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from _record import processor, write_record
from torch import nn
from transformer import PlainGPT, has_bfloat16

from zerohero.data import load_shakespeare
from zerohero.gpt2 import GPT, GPTConfig, flops_per_token, make_optimizer, peak_flops
from zerohero.kernels import flash_attention, linear_cross_entropy
from zerohero.tokenizer import GPT2Tokenizer
from zerohero.transformer import CausalSelfAttention

SEED, RATE, DECAY, BETAS, CLIP = 1337, 1e-4, 0.1, (0.9, 0.95), 1.0
CONFIG = GPTConfig(vocab_size=50304, used_vocab=50304, bias=False)  # no row is padding: both sides count all of them
EXACT, NEAR = 1e-3, 0.05  # how far losses may be apart: float32, bfloat16
LENGTHS = (256, 512, 1024, 2048, 4096)  # of the windows for attention
PARTS = ("step", "alone", "attention", "gpu")
NOT_MEASURED = "not measured"


class Plain(PlainGPT):
    """The straightforward network of chapter 7's benchmark with GPT-2's GELU, on any device; `chunked` takes our loss."""

    def __init__(self, config, fused=False, chunked=False):
        super().__init__(config, fused)
        self.chunked = chunked
        for block in self.transformer.h:
            block.mlp.gelu = nn.GELU(approximate="tanh")

    def forward(self, idx, targets):
        parts = self.transformer
        x = parts.drop(parts.wte(idx) + parts.wpe(torch.arange(idx.shape[1], device=idx.device)))
        for block in parts.h:
            x = block(x)
        x, targets = parts.ln_f(x), targets.reshape(-1)
        if self.chunked:
            return None, linear_cross_entropy(x.flatten(0, 1), self.lm_head.weight, targets)
        logits = self.lm_head(x)
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets)


class Ours(GPT):
    """`GPT` that is asked for its loss only."""

    def forward(self, idx, targets):
        return super().forward(idx, targets, return_logits=False)


# ---- one contestant ----


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Side:
    """A network that takes training steps on batches it is handed, and notes what each took and its loss."""

    def __init__(self, model, device, *, precision=torch.float32, compiled=False, fused_adamw=True, matmul="highest"):
        self.model, self.device, self.precision, self.matmul = model.to(device), device, precision, matmul
        self.forward = torch.compile(model) if compiled else model
        self.optimizer = make_optimizer(model, RATE, DECAY, BETAS)
        if not fused_adamw:
            groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in self.optimizer.param_groups]
            self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS)
        self.milliseconds, self.losses = [], []

    def step(self, x, y):
        torch.set_float32_matmul_precision(self.matmul)
        gc.collect()
        wait(self.device)
        begin = time.perf_counter()
        with torch.autocast(self.device.type, self.precision, self.precision != torch.float32):
            _, loss = self.forward(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.item())
        wait(self.device)
        self.milliseconds.append(1000 * (time.perf_counter() - begin))
        torch.set_float32_matmul_precision("highest")


def take_turns(sides, batches, warmup):
    """Each side takes a step on each batch, and all take the same step before anyone takes the next; the first `warmup`
    steps, which allocate and compile, count for the losses only."""
    for x, y in batches:
        for side in sides.values():
            side.step(x, y)
    for side in sides.values():
        del side.milliseconds[:warmup]


def check_losses(sides, base):
    """The largest distance of each side's losses from those of `base`; all must be small."""
    apart = {}
    for name, side in sides.items():
        apart[name] = max(abs(a - b) for a, b in zip(sides[base].losses, side.losses))
        limit = EXACT if side.precision == torch.float32 and side.matmul == "highest" else NEAR
        assert apart[name] <= limit, f"{name} computes other losses, {apart[name]:.5f} away"
    return apart


def has_compiler():
    return bool(shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++") or shutil.which("cl"))


def measured_peak(device, precision, tries=30):
    """Operations per second of the fastest of `tries` products for each of two shapes: square, and that of a GPT-2 layer."""
    best = 0.0
    for n, k, m in ((8192, 8192, 8192) if device.type == "cuda" else (2048, 2048, 2048), (1024, 768, 3072)):
        a, b = (torch.randn(shape, device=device).to(precision) for shape in ((n, k), (k, m)))
        for _ in range(tries):
            wait(device)
            begin = time.perf_counter()
            a @ b
            wait(device)
            best = max(best, 2 * n * k * m / (time.perf_counter() - begin))
    return best


def goals(rows, gpus):
    """What was asked of the step, and whether it was reached: True, False, or that it could not be measured here."""
    speed = {row["side"]: row["milliseconds"] for row in rows if row["milliseconds"] != NOT_MEASURED}
    ours = [time for name, time in speed.items() if name.startswith("ours")]
    low = [row for row in rows if row["side"].startswith("ours, bfloat16") and row["side"] in speed]
    mfus = [row["mfu"] for row in gpus if "mfu" in row]
    reached = {"3 times as fast as the straightforward step": speed["straightforward"] >= 3 * min(ours)}
    autocast = "1.3 times as fast as the straightforward step under autocast to bfloat16"
    part, mfu = "0.65 of the bfloat16 peak", "45 % MFU on a GPU"
    reached[autocast] = reached[part] = reached[mfu] = NOT_MEASURED
    if low:
        reached[autocast] = speed["straightforward, autocast"] >= 1.3 * min(ours)
        reached[part] = max(row["of_peak"] for row in low) >= 0.65
    if mfus:
        reached[mfu] = max(mfus) >= 0.45
    return reached


# ---- the three tables ----


def whole_step(config, batches, device, precisions, warmup, compiled):
    """All ways to take the whole step, with what they reached of the measured peak."""
    start = Ours(config, torch.Generator().manual_seed(SEED)).state_dict()

    def made(model):
        model.load_state_dict(start)
        return model

    def masked(model):
        for block in model.transformer.h:
            block.attn.__class__ = CausalSelfAttention  # which, in training on a CPU, holds all scores
        return model

    sides = {"straightforward": Side(made(Plain(config)), device, fused_adamw=False)}
    for precision in precisions:
        low, name = precision != torch.float32, f"ours, {str(precision).removeprefix('torch.')}"
        if low:
            sides["straightforward, autocast"] = Side(
                made(Plain(config)), device, precision=precision, fused_adamw=False
            )
        sides[name] = Side(made(Ours(config)), device, precision=precision)
        if low and device.type == "cpu":
            sides[f"{name}, masked attention"] = Side(masked(made(Ours(config))), device, precision=precision)
        if compiled:
            sides[f"{name}, compiled"] = Side(made(Ours(config)), device, precision=precision, compiled=True)
    before = {p: measured_peak(device, p) for p in precisions}
    take_turns(sides, batches, warmup)
    apart = check_losses(sides, "straightforward")
    peaks = {p: max(before[p], measured_peak(device, p)) for p in precisions}
    tokens = batches[0][0].numel()
    counted, needed = (
        tokens * sum(flops_per_token(config, config.block_size, causal=causal).values()) for causal in (False, True)
    )
    rows, base = [], statistics.median(sides["straightforward"].milliseconds)
    print(f"{'':36}{'ms a step':>10}{'best':>10}{'tokens/s':>10}{'ratio':>7}{'of peak':>9}  losses apart")
    for name, side in sides.items():
        median, best, peak = statistics.median(side.milliseconds), min(side.milliseconds), peaks[side.precision]
        row = {
            "side": name,
            "milliseconds": round(median, 1),
            "best": round(best, 1),
            "tokens_per_second": round(1000 * tokens / median),
            "ratio": round(base / median, 2),
            "ratio_of_best": round(min(sides["straightforward"].milliseconds) / best, 2),
            "of_peak": round(counted / (peak * median / 1000), 3),
            "of_peak_at_best": round(counted / (peak * best / 1000), 3),
            "floor_milliseconds": round(1000 * needed / peak, 1),
            "losses_apart": float(f"{apart[name]:.1e}"),
        }
        rows.append(row)
        print(
            f"{name:36}{median:10.1f}{best:10.1f}{row['tokens_per_second']:10,}{row['ratio']:7.2f}"
            f"{row['of_peak']:9.3f}  {apart[name]:.1e}",
            flush=True,
        )
    if torch.bfloat16 not in precisions:
        for name in ("straightforward, autocast", "ours, bfloat16"):
            rows.append({"side": name, "milliseconds": NOT_MEASURED, "why": "no instructions for bfloat16 here"})
            print(f"{name:36}{NOT_MEASURED:>20}: no instructions for bfloat16 here")
    gigaflops = {str(p).removeprefix("torch."): round(peak / 1e9, 1) for p, peak in peaks.items()}
    return rows, gigaflops


def each_alone(config, batch, device, bfloat16, rounds, compiled):
    """Every speed-up alone, beside the straightforward step and in turns with it. All steps start from the same weights,
    so that all losses must be the same; only those of the smaller vocabulary are of another network."""
    odd = dataclasses.replace(config, vocab_size=config.vocab_size - 47, used_vocab=None)  # 50,257 of 50,304
    weights = Ours(config, torch.Generator().manual_seed(SEED)).state_dict()
    cut = {name: p[: odd.vocab_size] if len(p) == config.vocab_size else p for name, p in weights.items()}
    changes = {
        "matmul precision": ({}, {"matmul": "high" if device.type == "cuda" else "medium"}) if bfloat16 else None,
        "bfloat16": ({}, {"precision": torch.bfloat16}) if bfloat16 else None,
        "compile": ({}, {"compiled": True}) if compiled else None,
        "fused attention": ({"fused": True}, {}),
        "padded vocabulary": ({}, {}),
        "fused AdamW": ({}, {"fused_adamw": True}),
        "chunked loss": ({"chunked": True}, {}),
    }

    def step(side, state):
        side.model.load_state_dict(state)
        side.step(*batch)

    base, rows = Side(Plain(config), device, fused_adamw=False), []
    step(base, weights)
    for name, change in changes.items():
        if change is None:
            why = "no compiler" if name == "compile" else "no instructions for bfloat16 here"
            rows.append({"speed_up": name, "milliseconds": NOT_MEASURED, "why": why})
            print(f"{name:36}{NOT_MEASURED:>20}: {why}")
            continue
        network, how = change
        padding = name == "padded vocabulary"  # is in the base already, so what it is compared with lacks it
        side = Side(Plain(odd if padding else config, **network), device, **{"fused_adamw": False, **how})
        base.milliseconds.clear()
        step(side, cut if padding else weights)
        side.milliseconds.clear()
        for _ in range(rounds):
            step(base, weights)
            step(side, cut if padding else weights)
        apart = None if padding else check_losses({"straightforward": base, name: side}, "straightforward")[name]
        without, with_it = (side, base) if padding else (base, side)
        pair = [statistics.median(each.milliseconds) for each in (without, with_it)]
        row = {"speed_up": name, "milliseconds_without": round(pair[0], 1), "milliseconds": round(pair[1], 1)}
        row["ratio"] = round(pair[0] / pair[1], 3)
        row["ratio_of_best"] = round(min(without.milliseconds) / min(with_it.milliseconds), 3)
        row["losses_apart"] = apart if apart is None else float(f"{apart:.1e}")
        rows.append(row)
        print(f"{name:36}{pair[0]:10.1f}{pair[1]:10.1f}{row['ratio']:7.2f}{row['ratio_of_best']:7.2f}", flush=True)
    return rows


def masked_attention(q, k, v):
    T = q.shape[2]
    scores = q @ k.mT / q.shape[-1] ** 0.5
    past = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
    return scores.masked_fill(~past, float("-inf")).softmax(-1) @ v


def peak_bytes(call, device):
    """The most memory that `call()` held at a time, beyond what was there before."""
    if device.type == "cuda":
        wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    held = most = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def attention_table(lengths, device, rounds):
    """Attention forward and backward, one window of 12 heads, float32: milliseconds and memory."""
    ways = {
        "masked softmax": masked_attention,
        "flash_attention": flash_attention,
        "scaled_dot_product_attention": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    }
    rows = []
    for T in lengths:
        generator, times = torch.Generator().manual_seed(SEED), {way: [] for way in ways}
        qkv = [torch.randn(1, 12, T, 64, generator=generator).to(device).requires_grad_() for _ in range(3)]
        d_y, found = torch.randn(1, 12, T, 64, generator=generator).to(device), {}

        def once(function, qkv=qkv, d_y=d_y):
            y = function(*qkv)
            return y.detach(), *torch.autograd.grad(y, qkv, d_y)

        for _ in range(rounds + 1):
            for way, function in ways.items():
                wait(device)
                begin = time.perf_counter()
                found[way] = once(function)
                wait(device)
                times[way].append(1000 * (time.perf_counter() - begin))
        for way, function in ways.items():
            apart = max((a - b).abs().max().item() for a, b in zip(found[way], found["masked softmax"]))
            assert apart < 1e-3, f"{way} computes something else, {apart:.5f} away"
            took = statistics.median(times[way][1:])
            row = {"T": T, "way": way, "milliseconds": round(took, 2), "best": round(min(times[way][1:]), 2)}
            row["peak_bytes"] = peak_bytes(lambda function=function: once(function), device)
            rows.append({**row, "apart": float(f"{apart:.1e}")})
            print(f"{T:6} {way:30}{took:10.1f} ms{row['peak_bytes'] / 1e6:10.1f} MB", flush=True)
    return rows


def gpu_rows(config, micro_batches, batches_of, device, steps):
    """The fast step on a GPU for each micro-batch, with all logits at once and in chunks: tokens/s and MFU."""
    if device.type != "cuda":
        return [{"side": "124M on one GPU", "tokens_per_second": NOT_MEASURED, "why": "no such GPU here"}]
    rows, peak = [], peak_flops(device) or measured_peak(device, torch.bfloat16)
    for size in micro_batches:
        for loss, network in (("all logits", lambda c: Plain(c, fused=True)), ("chunked", Ours)):
            side = None  # the memory of the last one is free again
            gc.collect()
            torch.cuda.empty_cache()
            torch.compiler.reset()  # else it would compile for batches of any size
            side = Side(network(config), device, precision=torch.bfloat16, compiled=True, matmul="high")
            row = {"side": "124M on one GPU", "micro_batch": size, "loss": loss}
            torch.cuda.reset_peak_memory_stats(device)
            try:
                take_turns({"": side}, batches_of(size, steps + 5), warmup=5)
            except torch.cuda.OutOfMemoryError:
                rows.append({**row, "tokens_per_second": NOT_MEASURED, "why": "out of memory"})
                print(f"micro-batch {size}, {loss}: out of memory", flush=True)
                continue
            speed = 1000 * size * config.block_size / statistics.median(side.milliseconds)
            mfu = speed * sum(flops_per_token(config, config.block_size).values()) / peak
            memory = torch.cuda.max_memory_allocated(device)
            rows.append({**row, "tokens_per_second": round(speed), "mfu": round(mfu, 3), "peak_bytes": memory})
            print(f"micro-batch {size}, {loss}: {speed:,.0f} tokens/s, MFU {mfu:.1%}", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", help="of the processor, for a record beside the first one")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--micro-batch", type=int, nargs="+", default=[16, 32], help="windows of a step on a GPU")
    parser.add_argument("--steps", type=int, help="that count, of each side")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts; the others stay as recorded")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--quick", action="store_true", help="a small network to try it, nothing is recorded")
    options = parser.parse_args()
    device, config = torch.device(options.device), CONFIG
    if options.quick:
        sizes = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 128, "vocab_size": 512, "used_vocab": 512}
        config = dataclasses.replace(config, **sizes)
    gpu = device.type == "cuda"
    bfloat16 = torch.cuda.is_bf16_supported() if gpu else has_bfloat16()
    precisions = (torch.float32, torch.bfloat16) if bfloat16 else (torch.float32,)
    compiled = not options.eager and (gpu or has_compiler())
    steps = options.steps or (10 if gpu else 3)
    text = load_shakespeare()[:500_000]
    tokens = torch.tensor(GPT2Tokenizer().encode(text)) % (config.vocab_size - 47)
    generator = torch.Generator().manual_seed(SEED)

    def batches_of(size, count):
        T = config.block_size
        starts = torch.randint(len(tokens) - T, (count, size, 1), generator=generator)
        pieces = tokens[starts + torch.arange(T + 1)].to(device)
        return [(piece[:, :-1], piece[:, 1:]) for piece in pieces]

    size, warmup = (8, 3) if gpu else (1, 1)
    name = "-".join(filter(None, ["gpt2_speed", "cuda" if gpu else "", options.name]))
    path, record = Path(__file__).resolve().parents[1] / "results" / f"{name}.json", {}
    if set(options.only) != set(PARTS):  # the others stay as they are
        record = json.loads(path.read_text()) if path.exists() else {}
    quick, today = options.quick, datetime.date.today().isoformat()
    if "step" in options.only:
        print(f"one step, batch of {size} x {config.block_size}, {torch.get_num_threads()} threads")
        batches = batches_of(size, steps + warmup)
        record["rows"], record["peak_gigaflops"] = whole_step(config, batches, device, precisions, warmup, compiled)
    if "alone" in options.only:
        print(f"\n{'each alone, ms a step':36}{'without':>10}{'with':>10}{'ratio':>7}{'best':>7}")
        rounds, batch = 1 if quick else min(steps, 3), batches_of(size, 1)[0]
        record["alone"] = each_alone(config, batch, device, bfloat16, rounds, compiled)
    if "attention" in options.only:
        print("\nattention")
        record["attention"] = attention_table(LENGTHS[:2] if quick else LENGTHS, device, 1 if quick else 3)
    if "gpu" in options.only:
        record["gpu"] = gpu_rows(config, options.micro_batch, batches_of, device, steps)
    if quick:
        return
    done = [part for part in options.only if gpu or part != "gpu"]
    record["measured"] = {**record.get("measured", {}), **dict.fromkeys(done, today)}
    rounds = {"step": steps, "alone": min(steps, 3), "attention": 3, "gpu": steps}
    record["rounds"] = {**record.get("rounds", {}), **{part: rounds[part] for part in done}}
    if {"rows", "gpu"} <= record.keys():
        record["goals"] = goals(record["rows"], record["gpu"])
        for goal, answer in record["goals"].items():
            print(f"{goal}: {answer if answer == NOT_MEASURED else 'yes' if answer else 'no'}")
    facts = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": torch.cuda.get_device_name(device) if gpu else processor(),
        "batch": [size, config.block_size],
        "gigaflop_per_token": round(sum(flops_per_token(config, config.block_size).values()) / 1e9, 4),
    }
    own = ("measured", "peak_gigaflops", "alone", "attention", "gpu", "goals")
    facts |= {key: record[key] for key in own if key in record}
    what = "milliseconds per training step of GPT-2 124M: medians, and the best"
    write_record(name, what, record["rounds"], record.get("rows", []), **facts)


if __name__ == "__main__":
    main()
