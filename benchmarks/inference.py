"""Tokens per second of chapter 10, each way beside a named peer, in turns.

GPT-2's 124M shape with random weights, two threads or as many as torch takes. `transformers` is its `generate` with the
same weights; it must write the same tokens in float32. Speculation takes a draft and a target that were trained on the
plays (benchmarks/speculative_pair.py), prompt lookup SmolLM2, which is asked to repeat a text. `of_limit` is the part of
the machine's bandwidth, measured by reading a large tensor, that reading the weights once for each token takes.

    python benchmarks/inference.py                  # results/inference.json, about fifteen minutes
    python benchmarks/inference.py --only float32 batch   # some of its parts again
    python benchmarks/inference.py --device cuda    # results/inference-cuda.json: the shapes gpt2-large and gpt2-xl
    python benchmarks/inference.py --quick          # few tokens of a small model to try it, nothing is recorded
"""

import argparse
import datetime
import functools
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from _record import processor, times_in_turns, write_record
from speculative_pair import characters, pair
from torch import nn

from zerohero.batching import Engine, Request, generate_batch
from zerohero.decoder import Decoder, for_decoding
from zerohero.gguf import chat_prompt, load_smollm2
from zerohero.gpt2 import GPT, GPT_SIZES, GPTConfig
from zerohero.inference import generate
from zerohero.kv_cache import KVCache, cached_logits
from zerohero.quantization import for_inference, weight_bytes
from zerohero.sampling import Sampler
from zerohero.speculative import PromptLookup, Speculation, generate_speculative

SEED, GREEDY = 1337, Sampler(temperature=0)
TASKS = {
    "repeat": "Repeat the following text exactly, and add nothing:\n\nThe tide tables for the harbour are printed twice a "
    "year. In the first column stands the day, in the second the hour of high water, and in the third its height above "
    "the mark at the lighthouse. Ships that draw more than four metres have to wait for the second half of the flood, and "
    "the pilot decides which of them goes first.",
    "correct": "Correct the grammar of this text:\n\nYesterday I go to the market with my sister. We buyed apples, bread and "
    "a big cheese. The man at the stand were very friendly and he telled us a story about his dog. Then it begin to rain, "
    "so we runned home and eated the cheese.",
}
ASKED = {  # at least, and hoped for
    "float32": (1.7, 2.3),
    "bfloat16": (2.0, 3.0),
    "int8": (1.5, 2.0),
    "cache": (8.0, None),
    "batch": (5.0, 8.0),
    "continuous": (1.5, 2.0),
    "speculative": (1.3, 1.7),
    "lookup": (1.5, 2.5),
}


def bandwidth(gigabytes=1, tries=8):
    """Bytes per second at which this machine reads a tensor that no cache holds."""
    numbers, best = torch.ones(gigabytes * 2**28), 0.0
    for _ in range(tries):
        begin = time.perf_counter()
        numbers.sum()
        best = max(best, numbers.nbytes / (time.perf_counter() - begin))
    return best


def gpt2(config):
    return GPT(config, torch.Generator().manual_seed(SEED)).eval()


def prompt(n, V, seed=SEED):
    rng = random.Random(seed)
    return [rng.randrange(V) for _ in range(n)]


def peer(model, dtype):
    """The same model in transformers: a function of a prompt and a number of new tokens."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    theirs.generation_config.eos_token_id = theirs.generation_config.pad_token_id = None

    def write(ids, new):
        ids = torch.tensor([ids])
        with torch.no_grad():
            out = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new)
        return out[0, ids.shape[1] :].tolist()

    return write


def ours(model):
    def write(ids, new):
        request = Request(ids, new, GREEDY)
        Engine(model, 1).run([request])
        return request.tokens

    return write


def race(sides, ids, new, rounds, bytes_of):
    """A row for each of `sides`, functions of a prompt and a number of tokens, the first of which is the peer. The memory
    takes part, since its rate changes from minute to minute."""
    for write in sides.values():
        write(ids, 3)  # allocates, compiles
    speeds, calls = [], {name: functools.partial(write, ids, new) for name, write in sides.items()}
    whole, texts = times_in_turns({**calls, "memory": lambda: speeds.append(bandwidth())}, rounds)
    del whole["memory"], texts["memory"]
    speed = statistics.median(speeds)
    first, _ = times_in_turns({name: functools.partial(write, ids, 1) for name, write in sides.items()}, rounds)
    rows, base = [], next(iter(sides))
    for name, total in whole.items():
        each = (total - first[name]) / (new - 1)
        row = {
            "side": name,
            "tokens_per_second": round(1000 / each, 1),
            "first_token_milliseconds": round(first[name], 1),
            "ratio": round(whole[base] / total, 2),
        }
        row["weight_megabytes"] = round(bytes_of[name] / 1e6)
        row["of_limit"] = round(bytes_of[name] / (each / 1000) / speed, 2)
        rows.append(row)
    rows[0]["gigabytes_per_second"] = round(speed / 1e9, 1)
    return rows, texts


def cache_megabytes(model, length, rows=1):
    engine = Engine(model, rows)
    engine.run([Request([i] * length, 1, GREEDY) for i in range(rows)])
    return round(engine.cache.bytes / 1e6, 1)


# ---- the parts ----


def part_float(precision, options):
    config, V = options.config, options.config.n_tokens
    model, dtype = gpt2(config), getattr(torch, precision)
    packed, few, plain = for_inference(model, precision), for_decoding(model, precision), model.to(dtype)
    sides = {"transformers": peer(model, dtype), "plain": ours(plain), "packed": ours(packed), "ours": ours(few)}
    size = sum(p.nbytes for p in plain.parameters())
    bytes_of = {"transformers": size, "plain": size, "packed": weight_bytes(packed), "ours": weight_bytes(few)}
    rows, texts = race(sides, prompt(16, V), options.new, options.rounds, bytes_of)
    if precision == "float32":
        assert all(text == texts["transformers"] for text in texts.values()), "another text than transformers'"
    for row in rows[1:]:
        row["cache_megabytes"] = cache_megabytes(plain, 16 + options.new)
    return rows


def part_int8(options):
    config, model = options.config, gpt2(options.config)
    ways = {f"ours, {p}": for_decoding(model, p) for p in ("bfloat16", "int8", "int4")}
    bytes_of = {name: weight_bytes(way) for name, way in ways.items()}
    sides = {name: ours(way) for name, way in ways.items()}
    rows, _ = race(sides, prompt(16, config.n_tokens), options.new, options.rounds, bytes_of)
    for row in rows:
        row["cache_megabytes"] = cache_megabytes(ways[row["side"]], 16 + options.new)
    return rows


def compiled_step(model):
    """A step of one token through a plain model, in which torch.compile has made one function of all that lies between
    two looks at the cache."""
    import torch._dynamo
    import torch._inductor.config

    torch._inductor.config.freezing = True  # packs the weights, as they do not change
    torch._dynamo.config.recompile_limit = 4 * len(model.transformer.h)  # the blocks have the same code
    torch._dynamo.reset()
    parts = model.transformer
    before = [torch.compile(nn.Sequential(block.ln_1, block.attn.c_attn)) for block in parts.h]
    after = [torch.compile(lambda x, y, b=b: (x := x + b.attn.c_proj(y)) + b.mlp(b.ln_2(x))) for b in parts.h]
    last = torch.compile(nn.Sequential(parts.ln_f, model.lm_head))

    def step(token, cache):
        at, H = cache.lengths[0], model.config.n_head
        cache.reserve(at + 1)
        x = parts.wte(token) + parts.wpe.weight[at]
        layers = zip(before, after, cache.keys[:, 0], cache.values[:, 0])
        for enter, leave, keys, values in layers:
            q, k, v = enter(x).view(3, H, -1)
            keys[:, at], values[:, at] = k, v
            found = F.scaled_dot_product_attention(q[None, :, None], keys[None, :, : at + 1], values[None, :, : at + 1])
            x = leave(x, found.reshape(1, -1))
        cache.lengths[0] += 1
        return last(x).float()

    return torch.no_grad()(step)


def part_compile(options):
    """One step after 80 tokens: torch's own layers, what torch.compile makes of them, packed matrices, and a Decoder."""
    rows, text = [], [prompt(80, options.config.n_tokens)]
    token = torch.tensor([5])
    for precision in ("float32", "bfloat16"):
        plain = gpt2(options.config).to(getattr(torch, precision))
        models = {"plain": plain, "torch.compile": plain}
        models |= {"packed": for_inference(plain, precision), "decoder": for_decoding(plain, precision)}
        steps, logits, calls, seconds = {}, {}, {}, {}
        for name, model in models.items():
            cache = KVCache(model)
            cached_logits(model, text, cache)
            steps[name] = functools.partial(cached_logits, model)
            begin = time.perf_counter()
            try:
                if name == "torch.compile":
                    steps[name] = compiled_step(model)
                logits[name] = steps[name](token if name == "torch.compile" else token[None], cache)
            except Exception as error:  # no C++ compiler, of which torch complains in several ways
                rows.append({"side": f"{precision}, {name}", "failed": str(error).splitlines()[0]})
                continue
            seconds[name] = time.perf_counter() - begin

            def call(step=steps[name], idx=token if name == "torch.compile" else token[None], cache=cache):
                cache.truncate(0, 80)
                step(idx, cache)

            calls[name] = call
        far = max((logits[name] - logits["plain"]).abs().max().item() for name in logits)
        assert far < (1e-4 if precision == "float32" else 0.2), f"other logits, by {far}"
        times, _ = times_in_turns(calls, 10 * options.rounds)
        rows += [{"side": f"{precision}, {name}", "milliseconds": round(t, 2)} for name, t in times.items()]
        if "torch.compile" in seconds:
            rows[-3]["compile_seconds"] = round(seconds["torch.compile"], 1)
    return rows


def part_cache(options):
    """800 new tokens; once, since without a cache they take minutes, and in bfloat16, which is the faster way for both.
    That the texts are the same is a matter of float32, and of tests/test_kv_cache.py."""
    plain, ids = gpt2(options.config), torch.tensor([prompt(16, options.config.n_tokens)])
    models = {False: for_inference(plain, "bfloat16"), True: for_decoding(plain, "bfloat16")}  # the better for each
    new = 800 if options.new > 8 else options.new
    rows = []
    for name, cache in (("no cache", False), ("cache", True)):
        model, seconds = models[cache], []
        for n in (1, 1, 1, new):
            begin = time.perf_counter()
            generate(model, ids, n, temperature=0, cache=cache)
            seconds.append(time.perf_counter() - begin)
        row = {"side": name, "tokens_per_second": round(new / seconds[-1], 1)}
        row["ratio"] = round(row["tokens_per_second"] / (rows or [row])[0]["tokens_per_second"], 2)
        row["first_token_milliseconds"] = round(1000 * statistics.median(seconds[:3]), 1)
        row["weight_megabytes"] = round(weight_bytes(model) / 1e6)
        row["cache_megabytes"] = cache_megabytes(model, 16 + new) if cache else 0
        rows.append(row)
    return rows


def part_batch(options):
    """16 prompts of 8 to 128 tokens: one after the other and together by the same model, and one after the other by the
    model that is made for that."""
    V, n, new = options.config.n_tokens, 16, options.new
    rng = random.Random(SEED)
    prompts = [prompt(rng.randint(8, 128), V, i) for i in range(n)]
    rows = []
    for precision in ("float32", "bfloat16"):
        plain = gpt2(options.config)
        packed = for_inference(plain, precision)
        ways = {
            "one at a time": (packed, 1),
            "one at a time, decoder": (for_decoding(plain, precision), 1),
            f"{n} at once": (packed, n),
        }

        def write(way, new=new, ways=ways):
            model, at_once = ways[way]
            return [r.tokens for r in generate_batch(model, prompts, new, rows=at_once, sampler=GREEDY)]

        write(f"{n} at once")
        calls = {way: functools.partial(write, way) for way in ways}
        times, texts = times_in_turns(calls, max(1, options.rounds // 2))
        first, _ = times_in_turns({k: functools.partial(f, 1) for k, f in calls.items()}, options.rounds)
        if precision == "float32":
            assert all(text == texts["one at a time"] for text in texts.values()), "another text in a batch"
        rows += [
            {
                "side": f"{precision}, {way}",
                "tokens_per_second": round(1000 * n * new / times[way], 1),
                "ratio": round(times["one at a time"] / times[way], 2),
                # one at a time, the last one waits for all others; this is without that wait
                "first_token_milliseconds": round(first[way] / (n if at_once == 1 else 1), 1),
                "weight_megabytes": round(weight_bytes(model) / 1e6),
                "cache_megabytes": cache_megabytes(model, 128 + new, at_once),
            }
            for way, (model, at_once) in ways.items()
        ]
    return rows


def part_continuous(options):
    """64 requests that want between 8 and 256 new tokens, 16 rows."""
    V, model = options.config.n_tokens, for_inference(gpt2(options.config), "float32")
    rng = random.Random(SEED)
    prompts = [prompt(rng.randint(8, 64), V, i) for i in range(64)]
    most = [min(options.new * 2, 256, 8 + int(rng.expovariate(1 / 56))) for _ in prompts]

    waits = {}

    def write(side, size, at_once):
        """`at_once` requests are handed to an engine together, the next ones when these are done."""
        requests = [Request(ids, n, GREEDY) for ids, n in zip(prompts, size)]
        begin, first = time.perf_counter(), {}
        for i in range(0, len(requests), at_once):
            engine = Engine(model, 16)
            for request in requests[i : i + at_once]:
                engine.add(request)
            while engine.waiting or engine.active:
                for request, _ in engine.step():
                    first.setdefault(request, time.perf_counter() - begin)
        waits[side] = statistics.mean(first.values())
        return [r.tokens[:n] for r, n in zip(requests, most)]

    # in a static batch all rows go on until the longest is done
    longest = [max(most[i - i % 16 :][:16]) for i in range(len(most))]
    ways = {"static": (longest, 16), "static, finished rows leave": (most, 16), "continuous": (most, len(most))}
    sides = {side: functools.partial(write, side, *how) for side, how in ways.items()}
    times, texts = times_in_turns(sides, max(1, options.rounds // 2))
    assert texts["static"] == texts["continuous"], "another text"
    return [
        {
            "side": name,
            "tokens_per_second": round(1000 * sum(most) / t, 1),
            "ratio": round(times["static"] / t, 2),
            "first_token_milliseconds": round(1000 * waits[name]),
            "weight_megabytes": round(weight_bytes(model) / 1e6),
            "cache_megabytes": cache_megabytes(model, max(map(len, prompts)) + max(most), 16),
            "requests": len(prompts),
            "shortest_and_longest": [min(most), max(most)],
        }
        for name, t in times.items()
    ]


def few_or_many(model, precision="float32"):
    """Of a model, the copy that is the faster one for passes over so many tokens."""
    few, many = for_decoding(model, precision), for_inference(model, precision)
    return lambda tokens: few if tokens <= Decoder.most else many


def part_speculative(options):
    """Texts of 200 characters, from the trained target alone and with its draft, which writes one at a time. A pass of
    the target over guesses has one token more than there are guesses."""
    (target, draft, facts), (tokenizer, *_) = pair(), characters()
    targets, draft = few_or_many(target), for_decoding(draft)
    rows, new = [], min(200, 4 * options.new)
    starts = ["ROMEO:\n", "First Citizen:\n", "KING RICHARD II:\nMy lord, ", "O, what a day "]

    def write(sampler, gamma, new=new):
        """Of each start, how the guesses fared; none for a text without guesses."""
        told = []
        for seed, start in enumerate(starts):
            generator, ids = torch.Generator().manual_seed(seed), tokenizer.encode(start)
            target = targets(gamma + 1)
            if gamma:
                settings = {"gamma": gamma, "sampler": sampler, "generator": generator}
                told.append(generate_speculative(target, draft, ids, new, **settings))
            else:
                Engine(target, 1).run([Request(ids, new, sampler, generator=generator)])
        return told

    guesses = {"cached decode": 0, **{f"{g} guesses": g for g in (2, 3, 4, 6)}}
    for what, sampler in (("temperature 1", Sampler()), ("greedy", GREEDY)):
        calls = {name: functools.partial(write, sampler, gamma) for name, gamma in guesses.items()}
        times, told = times_in_turns(calls, 5 * options.rounds)  # each takes a second or two only
        first, _ = times_in_turns({k: functools.partial(f, new=1) for k, f in calls.items()}, options.rounds)
        for name, t in times.items():
            model = targets(guesses[name] + 1)
            size = weight_bytes(model) + (weight_bytes(draft) if told[name] else 0)
            row = {
                "side": f"{what}, {name}",
                "tokens_per_second": round(1000 * len(starts) * new / t, 1),
                "ratio": round(times["cached decode"] / t, 2),
                "first_token_milliseconds": round(first[name] / len(starts), 1),
                "weight_megabytes": round(size / 1e6, 1),
                "cache_megabytes": round(
                    cache_megabytes(model, new) + (cache_megabytes(draft, new) if told[name] else 0), 1
                ),
            }
            if told[name]:
                row["acceptance"] = round(sum(x.accepted for x in told[name]) / sum(x.drafted for x in told[name]), 3)
                row["tokens_per_pass"] = round(len(starts) * new / sum(x.passes for x in told[name]), 2)
            rows.append(row)
    return [*rows, {"side": "models", **facts}]


def part_lookup(options):
    """SmolLM2 repeats a passage of some 70 words, not quite exactly, and corrects the grammar of one."""
    plain, tokenizer = load_smollm2()
    models, rows = few_or_many(plain), []
    new = 96 if options.new > 8 else 8
    for task, words in TASKS.items():
        ids, told = chat_prompt(tokenizer, words), {}

        def write(gamma, new=new, ids=ids, told=told):
            if not gamma:
                request = Request(ids, new, GREEDY, [tokenizer.end])
                Engine(models(1), 1).run([request])
                return request.tokens
            told[gamma] = generate_speculative(
                models(gamma + 1), PromptLookup(), ids, new, gamma=gamma, sampler=GREEDY, stop=[tokenizer.end]
            )
            return told[gamma].tokens

        guesses = {"cached decode": 0, **{f"{g} guesses": g for g in (3, 6, 9)}}
        times, texts = times_in_turns({k: functools.partial(write, g) for k, g in guesses.items()}, options.rounds)
        first, _ = times_in_turns({k: functools.partial(write, g, 1) for k, g in guesses.items()}, options.rounds)
        assert all(text == texts["cached decode"] for text in texts.values()), "another text with guesses"
        for name, t in times.items():
            row = {
                "side": f"{task}, {name}",
                "tokens_per_second": round(1000 * len(texts[name]) / t, 1),
                "ratio": round(times["cached decode"] / t, 2),
                "first_token_milliseconds": round(first[name]),
                "weight_megabytes": round(weight_bytes(models(guesses[name] + 1)) / 1e6),
                "cache_megabytes": cache_megabytes(plain, len(ids) + new),
            }
            if guesses[name]:
                write(guesses[name])
                how: Speculation = told[guesses[name]]
                row |= {"acceptance": round(how.acceptance, 3), "tokens_per_pass": round(how.tokens_per_pass, 2)}
            else:
                row["text"] = tokenizer.decode(texts[name])
            rows.append(row)
    return rows


def part_roofline(options):
    """Operations per second of one pass over 1 to 512 tokens, for each precision."""
    rows, model = [], gpt2(options.config)
    size = sum(p.numel() for p in model.parameters())
    for precision in ("float32", "bfloat16", "int8", "int4"):
        ways = few_or_many(model, precision)
        for T in (1, 4, 16, 64, 256, 512):
            if T < options.config.block_size and not (precision == "int8" and T > 16):
                way = ways(T)
                cache, text = KVCache(way), [prompt(T, options.config.n_tokens)]

                def run(way=way, cache=cache, text=text):
                    cache.truncate(0, 0)
                    cached_logits(way, text, cache, every=True)

                run()
                times, _ = times_in_turns({"pass": run}, 3 * options.rounds)
                rate = 2 * size * T / (times["pass"] / 1000)
                row = {"side": precision, "tokens": T, "milliseconds": round(times["pass"], 2)}
                rows.append(
                    {**row, "gigaflops": round(rate / 1e9, 1), "weight_megabytes": round(weight_bytes(way) / 1e6)}
                )
    return rows


def on_gpu(options):
    """The shapes of gpt2-large and gpt2-xl: with and without a cache, and with gpt2's shape as a draft."""
    rows, device = [], torch.device(options.device)
    new, ids = 800 if options.new > 8 else 8, prompt(16, 50257)
    text = torch.tensor([ids], device=device)

    def clock(write, *models):
        write(*models, 4)
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        result = write(*models, new)
        torch.cuda.synchronize(device)
        return new / (time.perf_counter() - begin), result

    for name in ("gpt2-large", "gpt2-xl"):
        model = gpt2(GPTConfig(50257, 1024, **GPT_SIZES[name])).to(device)
        draft = gpt2(GPTConfig(50257, 1024, **GPT_SIZES["gpt2"])).to(device)
        for precision in ("float32", "float16", "bfloat16"):
            target, guesses = for_inference(model, precision), for_inference(draft, precision)
            plain, _ = clock(lambda m, n: generate(m, text, n, temperature=0, cache=False), target)
            cached, _ = clock(lambda m, n: generate(m, text, n, temperature=0), target)
            guessed, told = clock(lambda m, d, n: generate_speculative(m, d, ids, n, sampler=GREEDY), target, guesses)
            for side, rate in (("no cache", plain), ("cache", cached), ("speculative", guessed)):
                ratio = round(rate / plain, 2)
                rows.append(
                    {
                        "model": name,
                        "precision": precision,
                        "side": side,
                        "tokens_per_second": round(rate, 1),
                        "ratio": ratio,
                    }
                )
            rows[-1]["acceptance"] = round(told.acceptance, 3)
    return rows


PARTS = {
    "float32": functools.partial(part_float, "float32"),
    "bfloat16": functools.partial(part_float, "bfloat16"),
    "int8": part_int8,
    "batch": part_batch,
    "continuous": part_continuous,
    "speculative": part_speculative,
    "lookup": part_lookup,
    "roofline": part_roofline,
    "compile": part_compile,
    "cache": part_cache,
}


def best_ratio(part, rows):
    wanted = {"float32": "ours", "bfloat16": "ours", "int8": "ours, int8", "continuous": "continuous"}.get(part)
    rows = [row for row in rows if "ratio" in row and not row["side"].startswith("greedy")]  # greedy texts are loops
    if part == "batch":
        rows = [row for row in rows if row["side"].endswith("at once")]
    return max(row["ratio"] for row in rows if wanted is None or row["side"] == wanted)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--name", help="of the processor, for a record beside the first one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a small model and few tokens, nothing is recorded")
    options = parser.parse_args()
    options.config = GPTConfig(50257, 1024)
    options.new, options.rounds = 128, 3
    if options.quick:
        options.config, options.new, options.rounds = GPTConfig(512, 128, 2, 4, 128), 8, 1
    what = "tokens per second of inference, medians of turns"
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "processor": processor()}
    if options.device != "cpu":
        rows = on_gpu(options)
        print(*rows, sep="\n")
        if not options.quick:
            facts["gpu"] = torch.cuda.get_device_name(options.device)
            write_record("-".join(filter(None, ["inference-cuda", options.name])), what, 1, rows, **facts)
        return
    name = "-".join(filter(None, ["inference", options.name]))
    path = Path(__file__).resolve().parents[1] / "results" / f"{name}.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    same = old.get("processor") == facts["processor"] and old.get("threads") == facts["threads"]
    rows, measured = (old["rows"], old["measured"]) if same else ({}, {})
    speed = bandwidth()
    print(f"{facts['processor']}, {facts['threads']} threads, reads {speed / 1e9:.1f} GB/s")
    for part in options.only:
        rows[part], measured[part] = PARTS[part](options), datetime.date.today().isoformat()
        print(f"\n{part}", *rows[part], sep="\n  ", flush=True)
        if part in ASKED:
            least, hoped = ASKED[part]
            print(f"  best {best_ratio(part, rows[part])}, asked {least}, hoped for {hoped}", flush=True)
        if not options.quick:
            asked = {p: {"asked": ASKED[p], "reached": best_ratio(p, rows[p])} for p in ASKED if p in rows}
            facts |= {"measured": measured, "gigabytes_per_second": round(speed / 1e9, 1), "asked": asked}
            write_record(
                name, what, options.rounds, rows, **facts, gpu="not measured: no GPU here", cores=os.cpu_count()
            )


if __name__ == "__main__":
    main()
