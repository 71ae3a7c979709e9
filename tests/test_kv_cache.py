"""The cache of keys and values: what it changes is time, and nothing else."""

import random
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zerohero import kv_cache
from zerohero.gpt2 import GPT, GPTConfig
from zerohero.inference import generate
from zerohero.kv_cache import KVCache, cached_logits, window_start
from zerohero.transformer import CharGPT, CharGPTConfig

pytestmark = pytest.mark.usefixtures("one_thread")
V, N = 23, 16
# how far logits may be apart: rounding, in numbers of about 3
NEAR = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 0.15}


def lively(model):
    """Larger weights, so that each token matters for the logits."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(8)
    return model.eval()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


MODELS = {
    "learned": GPT(GPTConfig(V, N, 2, 2, 16), seeded()),
    "rope": GPT(GPTConfig(V, N, 2, 4, 32, pos="rope", norm="rms", mlp="swiglu", bias=False), seeded()),
    "characters": CharGPT(CharGPTConfig(V, N, 2, 2, 16, dropout=0.3), seeded()),
    "rotary characters": CharGPT(CharGPTConfig(V, N, 2, 2, 16, positions="rotary", activation="relu2"), seeded()),
    "padded": GPT(GPTConfig(V + 9, N, 1, 2, 16, used_vocab=V), seeded()),
}
MODELS = {name: lively(model) for name, model in MODELS.items()}


@pytest.fixture(scope="module")
def models():
    """Each model in each precision."""
    return {(name, dtype): copy_in(model, dtype) for name, model in MODELS.items() for dtype in NEAR}


def copy_in(model, dtype):
    other = type(model)(model.config)
    other.load_state_dict(model.state_dict())
    return other.to(dtype).eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", NEAR, ids=str)
def test_cached_logits_are_those_without_a_cache(models, name, dtype):
    """67 random texts, cut at random places, for each of 15 models: about a thousand cases."""
    model, rng = models[name, dtype], random.Random(f"{name} {dtype}")
    for case in range(67):
        n, B = rng.randint(1, N), rng.randint(1, 3)
        text = torch.randint(V, (B, n), generator=seeded(case))
        cuts = sorted(rng.sample(range(1, n), rng.randint(0, n - 1)))
        cache, first = KVCache(model, B + 2), rng.randint(0, 2)
        pieces = [
            cached_logits(model, text[:, a:b], cache, first_row=first, every=True).view(B, b - a, V)
            for a, b in zip([0, *cuts], [*cuts, n])
        ]
        with torch.no_grad():
            expected = model(text)[0].float()
        assert pieces[0].dtype == torch.float32
        torch.testing.assert_close(torch.cat(pieces, 1), expected, rtol=0, atol=NEAR[dtype])
        assert cache.lengths == [n if first <= b < first + B else 0 for b in range(B + 2)]
        assert cache.keys.dtype == dtype


@settings(max_examples=60)
@given(st.data())
def test_rows_of_different_lengths_are_each_as_alone(data):
    model = MODELS[data.draw(st.sampled_from(sorted(MODELS)))]
    B = data.draw(st.integers(1, 4))
    size = st.integers(1, 5)
    pieces = [[data.draw(st.lists(st.integers(0, V - 1), min_size=n, max_size=n)) for n in
               data.draw(st.lists(size, min_size=B, max_size=B))] for _ in range(3)]  # fmt: skip
    cache = KVCache(model, B)
    code = None if data.draw(st.booleans(), "without machine code") else kv_cache.inference_code()
    with mock.patch.object(kv_cache, "inference_code", lambda: code):
        together = [cached_logits(model, rows, cache, every=True).split([len(row) for row in rows]) for rows in pieces]
        last = cached_logits(model, [[b] for b in range(B)], cache)
    for b in range(B):
        text = [i for rows in pieces for i in rows[b]] + [b]
        with torch.no_grad():
            expected = model(torch.tensor([text]))[0][0]
        got = torch.cat([*(step[b] for step in together), last[b : b + 1]])
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
        assert cache.lengths[b] == len(text)


def test_only_the_last_logits_are_made_unless_all_are_wanted():
    model, text = MODELS["learned"], torch.randint(V, (2, 7), generator=seeded())
    every = cached_logits(model, text, KVCache(model, 2), every=True)
    last = cached_logits(model, text, KVCache(model, 2))
    assert every.shape == (14, V) and last.shape == (2, V)
    torch.testing.assert_close(last, every.view(2, 7, V)[:, -1], rtol=0, atol=1e-6)


def test_rows_are_copied_shortened_and_put_in_order():
    model = MODELS["rope"]
    texts = torch.randint(V, (3, 6), generator=seeded())
    cache = KVCache(model, 3)
    cached_logits(model, texts, cache)
    cache.copy_row(2, 0)
    cache.copy_row(1, 2, 4)
    cache.truncate(1, 2)
    assert cache.lengths == [6, 2, 4]
    now = [texts[2], texts[1, :2], texts[1, :4]]
    cache.keep_rows([2, 0, 2])
    now = [now[2], now[0], now[2]]
    assert cache.lengths == [4, 6, 4]
    got = cached_logits(model, [[1], [1], [1]], cache)
    for row, text in zip(got, now):
        with torch.no_grad():
            expected = model(torch.cat((text, torch.tensor([1])))[None])[0][0, -1]
        torch.testing.assert_close(row, expected, rtol=0, atol=2e-5)
    cache.truncate(0, 100)
    assert cache.lengths[0] == 5  # longer it does not become


def test_memory_grows_with_the_text_up_to_the_context():
    model = MODELS["learned"]
    big = GPT(GPTConfig(V, 256, 2, 2, 16), seeded()).eval()
    cache, sizes = KVCache(big, 2), []
    for _ in range(256):
        cached_logits(big, torch.zeros(2, 1, dtype=torch.long), cache)
        sizes.append(cache.keys.shape[3])
    assert sorted(set(sizes)) == [64, 128, 256] and sizes == sorted(sizes)
    assert cache.bytes == 2 * 2 * 2 * 256 * 16 * 4  # keys and values, layers, rows, places, C, bytes
    with pytest.raises(ValueError, match=r"257 tokens do not fit into a context of 256"):
        cached_logits(big, torch.zeros(2, 1, dtype=torch.long), cache)
    assert KVCache(model, 1).bytes == 0


@settings(max_examples=300)
@given(n=st.integers(1, 500), block_size=st.integers(1, 60), data=st.data())
def test_the_window_is_the_definition(n, block_size, data):
    slide = data.draw(st.integers(1, block_size))
    start = window_start(n, block_size, slide)
    assert start % slide == 0 and 0 < n - start <= block_size
    if start:
        assert n - (start - slide) > block_size  # a jump less would not do
    assert window_start(n, block_size) == window_start(n, block_size, max(1, block_size // 4))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("slide", [None, 1, 5, N])
def test_texts_far_beyond_the_context_are_those_without_a_cache(name, slide):
    model, prompts = MODELS[name], [[3], list(range(N - 1)), list(range(V)) * 2]
    for settings_ in ({"temperature": 0}, {"temperature": 0.9, "top_k": 12}):
        texts, notes = zip(
            *(
                generate(model, prompts, 40, generator=seeded(5), slide=slide, cache=c, logprobs=True, **settings_)
                for c in (True, False)
            )
        )
        assert texts[0] == texts[1]
        assert [len(t) for t in texts[0]] == [len(p) + 40 for p in prompts]
        torch.testing.assert_close(torch.tensor(notes[0]), torch.tensor(notes[1]), rtol=0, atol=2e-5)


def test_a_window_that_moves_with_each_token_is_chapter_7s():
    model, text = MODELS["characters"], torch.randint(V, (2, 5), generator=seeded())
    expected = model.generate(text, 40, temperature=0)
    assert torch.equal(generate(model, text, 40, temperature=0, slide=1), expected)


def test_wrong_input_is_named():
    model = MODELS["learned"]
    with pytest.raises(ValueError, match="at least one row, not 0"):
        KVCache(model, 0)
    with pytest.raises(ValueError, match=r"Rows of \[1, 0\] tokens"):
        cached_logits(model, [[1], []], KVCache(model, 2))
    with pytest.raises(ValueError, match="for a cache of 2 rows"):
        cached_logits(model, torch.zeros(2, 1, dtype=torch.long), KVCache(model, 2), first_row=1)
    with pytest.raises(ValueError, match="slide must be from 1 to 16, not 0"):
        window_start(3, 16, 0)
    cache = KVCache(model, 1)
    cached_logits(model, torch.zeros(1, 10, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="17 tokens do not fit"):
        cached_logits(model, torch.zeros(1, 7, dtype=torch.long), cache)
    with pytest.raises(IndexError, match=r"numbered from 0 to 22; these go from 3 to 23"):
        cached_logits(model, [[3, 23]], cache)
    with pytest.raises(ValueError, match=r"Expected tokens \(B, T\), got shape \(3,\)"):
        cached_logits(model, torch.zeros(3, dtype=torch.long), cache)
    with pytest.raises(ValueError, match=r"Rows of \[\] tokens"):
        cached_logits(model, [], cache)
    with pytest.raises(ValueError, match="Row 0 holds 10 tokens; 11 of them cannot be copied"):
        cache.copy_row(0, 0, 11)
    assert cache.lengths == [10]  # nothing is lost
    cache.truncate(0, -1)
    assert cache.lengths == [0]
