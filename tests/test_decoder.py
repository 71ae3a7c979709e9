"""Passes over a few tokens in machine code: the same logits, keys and values as torch's."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kv_cache import MODELS, N, V, lively, seeded

from zerohero.batching import Engine, Request, generate_batch
from zerohero.beam import beam_search
from zerohero.kv_cache import KVCache, cached_logits
from zerohero.quantization import IntLinear, for_inference
from zerohero.sampling import Sampler
from zerohero.speculative import generate_speculative
from zerohero.transformer import CharGPT, CharGPTConfig

code = pytest.importorskip("zerohero.inference_jit", reason="numba is not installed")
import zerohero.decoder as decoder  # noqa: E402
from zerohero.decoder import Decoder, for_decoding  # noqa: E402
from zerohero.inference_jit import as_arrays  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
NEAR = {"float32": 2e-5, "bfloat16": 0.15, "int8": 2e-5}  # of logits of about 3
ACTIVATIONS = {
    f"{activation}, {norm}": lively(
        CharGPT(CharGPTConfig(V, N, 2, 2, 16, activation=activation, norm=norm, bias=bias, tied=bias), seeded())
    )
    for activation, norm, bias in (
        ("gelu", "layer", True),
        ("gelu_tanh", "layer", False),
        ("relu", "rms", True),
        ("relu2", "layer", True),
        ("swiglu", "rms", False),
    )
}
ALL = {**MODELS, **ACTIVATIONS}


@pytest.fixture(scope="module")
def ready():
    """Each model in each precision: without and with a decoder."""
    pairs = {}
    for name, model in ALL.items():
        for precision in NEAR:
            fast = for_decoding(model, precision)
            plain = copy.copy(fast)  # the same weights, and torch's operations
            plain.few = None
            assert isinstance(fast.few, Decoder)
            pairs[name, precision] = plain, fast
    return pairs


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("precision", NEAR)
def test_logits_and_cache_are_those_of_torch(ready, name, precision):
    """35 random texts in pieces of few tokens in a random row, for each of 30 models: about a thousand cases."""
    (plain, fast), rng = ready[name, precision], random.Random(f"{name} {precision}")
    calls = []
    for case in range(35):
        n, B = rng.randint(1, N), rng.choice((1, 1, 2, 3))
        text, first = torch.randint(V, (B, n), generator=seeded(case)), rng.randint(0, 1)
        caches, done = [KVCache(plain, B + 1), KVCache(fast, B + 1)], 0
        while done < n:
            piece = text[:, done : done + rng.randint(1, 5)]
            a, b = (
                cached_logits(model, piece, cache, first_row=first, every=True)
                for model, cache in zip((plain, fast), caches)
            )
            calls.append(piece.numel())
            assert a.dtype == b.dtype == torch.float32
            torch.testing.assert_close(b, a, rtol=0, atol=NEAR[precision])
            done += piece.shape[1]
        for what in ("keys", "values"):
            a, b = (getattr(cache, what) for cache in caches)
            assert a.dtype == b.dtype
            torch.testing.assert_close(b, a, rtol=0.02 if precision == "bfloat16" else 0, atol=NEAR[precision])
        assert caches[0].lengths == caches[1].lengths
    assert min(calls) == 1 and max(calls) > Decoder.most


@pytest.mark.parametrize("precision", NEAR)
def test_the_inference_code_is_what_runs(ready, precision, monkeypatch):
    _, fast = ready["rope", precision]
    seen = []
    whole = Decoder.through_blocks
    monkeypatch.setattr(Decoder, "through_blocks", lambda self, x, *rest: seen.append(len(x)) or whole(self, x, *rest))
    cache = KVCache(fast)
    for n in (5, 4, 1, 2):
        cached_logits(fast, [[1] * n], cache)
    assert seen == [4, 1, 2]


@settings(max_examples=60)
@given(st.data())
def test_rows_of_different_lengths_are_each_as_alone(ready, data):
    plain, fast = ready[data.draw(st.sampled_from(sorted(ALL))), "float32"]
    B = data.draw(st.integers(1, 4))
    cache, texts = KVCache(fast, B), [[] for _ in range(B)]
    for _ in range(3):
        size = st.integers(1, 3 if B < 3 else 1)
        pieces = [[data.draw(st.integers(0, V - 1)) for _ in range(data.draw(size))] for _ in range(B)]
        got = cached_logits(fast, pieces, cache)
        for b, piece in enumerate(pieces):
            texts[b] += piece
            with torch.no_grad():
                expected = plain(torch.tensor([texts[b]]))[0][0, -1]
            torch.testing.assert_close(got[b], expected[: got.shape[1]].float(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_texts_are_the_same_also_when_the_window_jumps(ready, name):
    plain, fast = ready[name, "float32"]
    for sampler in (Sampler(0), Sampler(0.8, top_k=5)):
        texts = []
        for model in (plain, fast):
            request = Request([3, 1, 4], 3 * N, sampler, generator=seeded(5))
            Engine(model, 1).run([request])
            texts.append(request.tokens)
        assert texts[0] == texts[1] and len(texts[0]) == 3 * N
        together = generate_batch(fast, [[3, 1, 4], [1, 5]], 3 * N, sampler=sampler, seeds=[5, 6])
        assert together[0].tokens == texts[0]


def test_guesses_and_beams_are_the_same(ready):
    (plain, fast), (_, draft) = ready["rope", "float32"], ready["learned", "float32"]
    for gamma in (1, 3, 5):
        told = [
            generate_speculative(model, draft, [2, 7], 11, gamma=gamma, generator=seeded(1)) for model in (plain, fast)
        ]
        assert told[0].tokens == told[1].tokens and told[0].accepted == told[1].accepted
    a, b = (beam_search(model, [2, 7], 6, beams=3) for model in (plain, fast))
    assert [text for _, text in a] == [text for _, text in b]


def test_weights_are_not_copied(ready):
    for precision in NEAR:
        _, fast = ready["padded", precision]
        matrix, linear = fast.few.blocks[0].c_fc, fast.transformer.h[0].mlp.c_fc
        held = linear.q if precision == "int8" else linear.weight
        assert matrix.numbers.ctypes.data == held.data_ptr()
        assert matrix.numbers.itemsize == {"float32": 4, "bfloat16": 2, "int8": 1}[precision]


def test_a_model_with_a_weight_that_is_no_number_says_so():
    broken = copy.deepcopy(MODELS["rope"])
    with torch.no_grad():
        broken.transformer.h[1].mlp.c_fc.weight[3, 2] = float("nan")
    fast = for_decoding(broken)
    assert cached_logits(fast, [[1]], KVCache(fast)).isnan().all()
    with pytest.raises(ValueError, match="logits hold nan"):
        Engine(fast, 1).run([Request([1], 3)])


@pytest.mark.parametrize("precision", ["float16", "int4"])
def test_what_it_cannot_do_is_left_to_torch(precision):
    model = lively(CharGPT(CharGPTConfig(V, N, 1, 2, 32), seeded()))
    ready, same = for_decoding(model, precision), for_inference(model, precision)
    assert getattr(ready, "few", None) is None
    idx = torch.randint(V, (1, 9), generator=seeded())
    with torch.no_grad():
        assert torch.equal(ready(idx)[0], same(idx)[0])
    with pytest.raises(ValueError, match="precision must be one of"):
        for_decoding(model, "int2")


def test_without_numba(monkeypatch):
    monkeypatch.setattr(decoder, "inference_code", lambda: None)
    for precision in NEAR:
        ready = for_decoding(MODELS["learned"], precision)
        assert getattr(ready, "few", None) is None
        assert cached_logits(ready, [[1, 2]], KVCache(ready)).shape == (1, V)


def test_every_word_of_16_bits_is_the_bfloat16_that_torch_sees():
    words = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    (numbers,) = as_arrays(words[:, None])
    zeros, ones = np.zeros(len(numbers), np.float32), np.ones(len(numbers), np.float32)
    out = np.empty((1, len(numbers)), np.float32)
    code.multiply(np.ones((1, 1), np.float32), code.Matrix(numbers, ones, zeros), out, False)
    torch.testing.assert_close(torch.from_numpy(out[0]), words.float() + 0.0, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=80)
@given(
    rows=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    half=st.integers(1, 17),
    heads=st.integers(1, 3),
    rotary=st.booleans(),
    words=st.booleans(),
    size=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 999),
)
def test_attention_is_that_of_torch(rows, half, heads, rotary, words, size, seed):
    D, S, generator = 2 * half, 12, seeded(seed)
    dtype = torch.bfloat16 if words else torch.float32
    keys, values = (torch.randn(3, heads, S, D, generator=generator).to(dtype) for _ in range(2))
    positions, taken = [], {b: int(torch.randint(0, 8, (1,), generator=generator)) for b in range(3)}
    for b in rows:  # each next one of its row
        positions.append(taken[b])
        taken[b] += 1
    qkv = size * torch.randn(len(rows), 3, heads, D, generator=generator)
    angles = torch.randn(S, half, generator=generator) if rotary else torch.empty(0, 0)
    cos, sin = angles.cos(), angles.sin()
    expected_keys, expected_values, q = keys.clone(), values.clone(), qkv[:, 0].clone()
    for n, (b, at) in enumerate(zip(rows, positions)):
        k = qkv[n, 1].clone()
        if rotary:
            for z in (q[n], k):
                x, y = z[:, :half].clone(), z[:, half:].clone()
                z[:, :half], z[:, half:] = x * cos[at] - y * sin[at], y * cos[at] + x * sin[at]
        expected_keys[b, :, at], expected_values[b, :, at] = k.to(dtype), qkv[n, 2].to(dtype)
    where = np.array(rows), np.array(positions)
    found = code.attend(qkv.clone().numpy(), *as_arrays(keys, values), *where, cos.numpy(), sin.numpy())
    bound = {"rtol": 0.01, "atol": 1e-6} if words and rotary else {"rtol": 1e-5, "atol": 1e-5 * size}
    torch.testing.assert_close(keys, expected_keys, **bound)
    assert torch.equal(values, expected_values)
    for n, (b, at) in enumerate(zip(rows, positions)):
        seen = (z[b, :, : at + 1].float()[None] for z in (keys, values))
        y = F.scaled_dot_product_attention(q[n][None, :, None], *seen)
        torch.testing.assert_close(torch.from_numpy(found[n]), y.flatten(), rtol=2e-4, atol=2e-5 * max(1, size))


@given(st.integers(1, 5), st.integers(1, 70), st.booleans(), st.sampled_from([1e-3, 1.0, 1e4]), st.integers(0, 99))
def test_norms_are_those_of_torch(rows, width, rms, size, seed):
    generator = seeded(seed)
    x = size * torch.randn(rows, width, generator=generator) + size
    gain, shift = torch.randn(2, width, generator=generator)
    found = code.normalise(x.numpy(), code.Norm(gain.numpy(), shift.numpy()), rms)
    width = (width,)
    expected = F.rms_norm(x, width, gain, 1e-5) + shift if rms else F.layer_norm(x, width, gain, shift, 1e-5)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", code.ACTIVATIONS)
def test_activations_are_those_of_torch(kind):
    h = torch.tensor([-1e4, -30.0, -3.0, -1.0, -1e-3, 0.0, 1e-3, 0.5, 2.0, 9.0, 88.0, 1e4]).repeat(3, 1)
    h[1] *= -0.7
    half = h.shape[1] // 2
    expected = {
        "gelu": lambda: F.gelu(h),
        "gelu_tanh": lambda: F.gelu(h, approximate="tanh"),
        "relu": lambda: F.relu(h),
        "relu2": lambda: F.relu(h).square(),
        "swiglu": lambda: F.silu(h[:, :half]) * h[:, half:],
    }[kind]()
    found = code.activate(h.numpy(), code.ACTIVATIONS.index(kind))
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
    nan = np.full((1, 2), np.nan, np.float32)
    assert np.isnan(code.activate(nan, code.ACTIVATIONS.index(kind))).all()


def test_input_that_does_not_lie_in_one_piece(ready):
    plain, fast = ready["rope", "float32"]
    idx, caches = torch.randint(V, (2, 2), generator=seeded()), [KVCache(m, 2) for m in (plain, fast)]
    a, b = (cached_logits(model, idx, cache) for model, cache in zip((plain, fast), caches))
    torch.testing.assert_close(b, a, rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", NEAR)
def test_tokens_that_are_none_are_refused_and_the_cache_stays(ready, precision):
    _, fast = ready["learned", precision]
    cache = KVCache(fast)
    for wrong in (-1, V):
        with pytest.raises(IndexError, match=f"numbered from 0 to {V - 1}; these go from {wrong} to {wrong}"):
            cached_logits(fast, [[wrong]], cache)
        assert cache.lengths == [0]


def test_a_copy_works_and_a_second_preparation_is_refused(ready):
    for precision in NEAR:
        _, fast = ready["rope", precision]
        twin = copy.deepcopy(fast)
        a, b = (cached_logits(model, [[1, 2]], KVCache(model)) for model in (fast, twin))
        assert torch.equal(a, b)
        for again in (for_decoding, for_inference):
            for prepared in (fast, twin):
                with pytest.raises(ValueError, match="made ready for inference before"):
                    again(prepared, precision)
    with pytest.raises(ValueError, match="made ready for inference before"):
        for_decoding(for_inference(MODELS["rope"]))


def test_a_layer_of_8_bits_keeps_its_scales_exact_whatever_its_type():
    linear = torch.nn.Linear(8, 5).requires_grad_(False)
    whole = IntLinear(linear.bfloat16())
    x = torch.randn(2, 8, generator=seeded())
    expected = F.linear(x, whole.rows(), whole.bias.float())
    torch.testing.assert_close(whole(x), expected, rtol=1e-5, atol=1e-5)
    halved = copy.deepcopy(whole).bfloat16()
    torch.testing.assert_close(halved(x), expected, rtol=0.02, atol=0.02)
