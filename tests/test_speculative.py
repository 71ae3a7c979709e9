"""zerohero.speculative: what is written is what the target would have written, and drafts only make it sooner."""

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zerohero import speculative
from zerohero.batching import Request
from zerohero.kv_cache import window_start
from zerohero.sampling import Sampler, draw_index
from zerohero.speculative import PromptLookup, accept, generate_speculative, speculate
from zerohero.transformer import CharGPT, CharGPTConfig

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = Sampler(temperature=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(seed=0, V=7, block_size=16, layers=1, positions="learned", scale=20.0):
    """A small model in float64 whose logits differ by some units, so that no two of them are as good as equal."""
    config = CharGPTConfig(V, block_size, layers, 2, 8, dropout=0.0, positions=positions)
    model = CharGPT(config, seeded(seed)).double().eval().requires_grad_(False)
    for p in model.parameters():
        p.mul_(scale if p.ndim == 2 else 1.0)
    return model


def markov(seed, V=5):
    """A model that looks at nothing but the last token: attention adds nothing, and there are no positions. Returns it
    with its probabilities (V, V)."""
    model = tiny(seed, V, block_size=64, positions="rotary", scale=16.0)
    model.transformer.h[0].attn.c_proj.weight.zero_()
    logits, _ = model(torch.arange(V)[:, None])
    return model.float(), logits[:, 0].softmax(-1)


def alone(model, ids, n, sampler=GREEDY, stop=()):
    """What `model` writes by itself: every token from the whole of its window, without any cache."""
    text, N = list(ids), model.config.block_size
    for _ in range(n):
        window = text[window_start(len(text), N) :]
        logits = model(torch.tensor([window]))[0][0, -1].float()
        text.append(sampler.draw(logits, ids, text[len(ids) :]))
        if text[-1] in stop:
            break
    return text[len(ids) :]


def chi_squared(counts, p):
    """Pearson's sum, and a bound for it that chance passes about once in 30,000 times (Wilson and Hilferty 1931)."""
    n, df = sum(counts.values()), sum(x > 0 for x in p) - 1
    assert all(p[i] > 0 for i in counts), "drawn, though impossible"
    total = sum((counts[i] - n * x) ** 2 / (n * x) for i, x in enumerate(p) if x > 0)
    return total, df * (1 - 2 / (9 * df) + 4 * math.sqrt(2 / (9 * df))) ** 3


class Guesses:
    """A draft that always guesses what it is told to."""

    def __init__(self, tokens):
        self.tokens = tokens

    def propose(self, text, most):
        return self.tokens[:most]


# the rule


@pytest.mark.parametrize("seed", range(4))
def test_accepted_or_not_a_token_has_the_targets_probabilities(seed):
    g = seeded(seed)
    p, q = (torch.softmax(2 * torch.randn(8, generator=g), -1) for _ in range(2))
    p[2] = 0.0  # what the target never says
    q[5] = 0.0  # what the draft never guesses
    p, q = p / p.sum(), q / q.sum()
    guesses = torch.multinomial(q, 25_000, replacement=True, generator=g).tolist()
    counts = Counter(accept(p, q, token, g) for token in guesses)
    total, bound = chi_squared(counts, p.tolist())
    assert total < bound


def test_guesses_alone_would_not_pass_that_test():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.45, 0.35, 0.2])
    g = seeded()
    counts = Counter(draw_index(q, g) for _ in range(25_000))
    total, bound = chi_squared(counts, p.tolist())
    assert total > bound


def test_a_certain_guess_is_accepted_as_often_as_the_target_says_it():
    p, g = torch.tensor([0.2, 0.5, 0.0, 0.3]), seeded()
    for guess in range(4):
        counts = Counter(accept(p, None, guess, g) for _ in range(10_000))
        total, bound = chi_squared(counts, p.tolist())
        assert total < bound


@given(st.lists(st.floats(0.0, 1.0, width=32), min_size=2, max_size=9), st.integers(0, 2**32))
def test_where_both_agree_every_guess_is_accepted(weights, seed):
    p = torch.tensor(weights) + 1e-3
    p, g = p / p.sum(), seeded(seed)
    for token in range(len(p)):
        assert accept(p, p.clone(), token, g) == token


def test_a_refusal_with_nothing_left_draws_from_the_target():
    p, g = torch.tensor([0.25, 0.75]), seeded()
    q = 2 * p  # as rounding would have it, only more so: half of all guesses are refused
    counts = Counter(accept(p, q, draw_index(q, g), g) for _ in range(10_000))
    total, bound = chi_squared(counts, p.tolist())
    assert total < bound


def test_a_refused_token_is_not_drawn_again():
    p, q, g = torch.tensor([0.0, 0.5, 0.5]), torch.tensor([1.0, 0.0, 0.0]), seeded()
    assert {accept(p, q, 0, g) for _ in range(200)} == {1, 2}


# whole texts, drawn


@pytest.mark.long
@pytest.mark.parametrize("sampler", [Sampler(), Sampler(temperature=0.8, top_k=3)], ids=["plain", "filtered"])
def test_texts_follow_the_targets_distribution(sampler):
    (model, p), (draft, q) = markov(1), markov(2)
    V, g, pairs, drafted, accepted = len(p), seeded(), Counter(), 0, 0
    p, q = (torch.stack([sampler.log_probabilities(row).exp() for row in z.log()]) for z in (p, q))
    for _ in range(6):
        told = generate_speculative(model, draft, [0], 400, sampler=sampler, generator=g)
        pairs.update(itertools.pairwise([0, *told.tokens]))
        drafted, accepted = drafted + told.drafted, accepted + told.accepted
    assert 0 < accepted < drafted
    followers = [Counter({b: pairs[a, b] for b in range(V) if pairs[a, b]}) for a in range(V)]
    judged = [a for a in range(V) if sum(followers[a].values()) >= 100]
    assert len(judged) >= 2
    for a in judged:
        total, bound = chi_squared(followers[a], p[a].tolist())
        assert total < bound


def test_a_model_that_drafts_for_itself_is_never_refused_and_tokens_are_as_many_as_expected():
    model = tiny(3, block_size=128)
    told = generate_speculative(model, model, [1, 2], 101, gamma=4, generator=seeded())
    assert told.accepted == told.drafted and told.acceptance == 1
    assert told.passes == math.ceil(101 / 5) and told.tokens_per_pass == 101 / 21


def test_guesses_are_accepted_as_often_as_the_distributions_agree():
    """The share of first guesses that stand is the sum of min(p, q), given the token before."""
    (model, p), (draft, q) = markov(1), markov(2)
    agree = torch.minimum(p[3], q[3]).sum().item()
    g, n = seeded(), 1500
    told = [generate_speculative(model, draft, [3], 2, gamma=1, generator=g) for _ in range(n)]
    share = sum(t.accepted for t in told) / n
    assert sum(t.drafted for t in told) == n
    assert abs(share - agree) < 4 * math.sqrt(agree * (1 - agree) / n)


def test_a_seed_decides_and_torchs_own_generator_is_left_alone():
    model, draft, state = tiny(1), tiny(2), torch.get_rng_state()
    a, b, c = (
        generate_speculative(model, draft, [1], 40, sampler=Sampler(1.3), generator=seeded(s)).tokens for s in (5, 5, 6)
    )
    assert a == b != c
    assert torch.equal(torch.get_rng_state(), state)


# whole texts, greedy


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    prompt=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    n=st.integers(0, 40),
    gamma=st.integers(1, 6),
    sizes=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    positions=st.sampled_from(["learned", "rotary"]),
    lookup=st.booleans(),
)
def test_greedy_text_is_the_targets_own_through_any_overflow(seed, prompt, n, gamma, sizes, positions, lookup):
    model = tiny(seed, block_size=sizes[0], layers=2, positions=positions)
    draft = PromptLookup() if lookup else tiny(seed + 1, block_size=sizes[1], positions=positions)
    told = generate_speculative(model, draft, prompt, n, gamma=gamma, sampler=GREEDY)
    assert told.tokens == alone(model, prompt, n)
    assert len(told.tokens) == n == told.accepted + told.passes
    assert told.accepted <= told.drafted <= gamma * told.passes
    assert told.finished == "length"


def test_penalties_count_the_guesses_that_stand_before():
    sampler = Sampler(temperature=0, repetition_penalty=1.4, presence_penalty=0.5, frequency_penalty=0.3)
    for seed in range(8):
        model = tiny(seed, block_size=64)
        for draft in (model, tiny(seed + 50, block_size=64), PromptLookup()):
            told = generate_speculative(model, draft, [1, 2, 1, 2], 40, sampler=sampler)
            assert told.tokens == alone(model, [1, 2, 1, 2], 40, sampler)
            assert draft is not model or told.accepted == told.drafted  # they count for the draft as well


def test_wrong_guesses_cost_nothing_but_the_guess():
    model = tiny(4, block_size=64)
    right = alone(model, [1], 30)
    wrong = Guesses([(right[0] + 1) % 7] * 4)
    told = generate_speculative(model, wrong, [1], 30, sampler=GREEDY)
    assert told.tokens == right


def test_each_token_is_looked_at_once(monkeypatch):
    """The target sees the prompt once and, in each pass, its guesses and the token before them; nothing is computed
    again after a refusal."""
    model, looked = tiny(1, block_size=200), []
    original = speculative.cached_logits

    def counting(model_, idx, cache, **options):
        if model_ is model:
            looked.append(len(idx[0]))
        return original(model_, idx, cache, **options)

    monkeypatch.setattr(speculative, "cached_logits", counting)
    told = generate_speculative(
        model, tiny(2, block_size=200), [1, 2, 3], 100, sampler=Sampler(1.5), generator=seeded()
    )
    assert told.accepted < told.drafted
    assert sum(looked) == 3 - 1 + told.drafted + told.passes


# stops


@pytest.mark.parametrize("place", [0, 1, 2, 3, 6])
def test_an_end_token_within_an_accepted_run_ends_the_text(place):
    model = tiny(1, block_size=64)
    right = alone(model, [0], 12)
    guesses = Guesses(right)  # all of the first run is right
    end = right[: place + 1]
    told = generate_speculative(model, guesses, [0], 12, gamma=8, sampler=GREEDY, stop=[end])
    assert told.tokens == end and told.finished == "stop" and told.passes == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_stop_of_one_token_ends_the_text_where_the_target_alone_would(seed):
    model, draft = tiny(seed, block_size=32), tiny(seed + 1, block_size=32)
    for end in range(7):
        told = generate_speculative(model, draft, [0], 30, sampler=GREEDY, stop=[end])
        assert told.tokens == alone(model, [0], 30, stop=[end])
        assert told.finished == ("stop" if told.tokens[-1] == end else "length")


# prompt lookup


def looked_up(text, longest, shortest):
    """The definition: the longest end of the text that occurred before, at its latest place; where that was followed
    by too little, the text goes on with its guesses as if they were part of it. Six guesses."""
    n = len(text)
    for size in range(longest, shortest - 1, -1):
        places = [i for i in range(n - size) if text[i : i + size] == text[n - size :]]
        if places and size < n:
            longer, place = list(text), places[-1] + size
            for i in range(6):
                longer.append(longer[place + i])
            return longer[n:]
    return []


@settings(max_examples=300)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=14), st.integers(1, 4), st.integers(0, 3))
def test_lookup_is_its_definition(text, shortest, more):
    lookup = PromptLookup(longest=shortest + more, shortest=shortest)
    assert lookup.propose(text, 6) == looked_up(text, shortest + more, shortest)


def test_lookup_by_hand():
    text = [5, 6, 7, 8, 9, 5, 6]
    assert PromptLookup().propose(text, 3) == [7, 8, 9]
    assert PromptLookup().propose([1, 2, 3], 3) == []
    assert PromptLookup().propose([4, 4], 3) == [4, 4, 4]
    assert PromptLookup(longest=3, shortest=3).propose(text, 3) == []


def test_lookup_needs_few_passes_where_a_text_repeats_itself():
    model = tiny(0, block_size=256)
    told = generate_speculative(model, PromptLookup(), [1], 120, gamma=8, sampler=GREEDY)
    assert told.tokens == alone(model, [1], 120)
    assert told.passes < 60  # greedy text of a tiny model runs in circles


def test_drawn_with_lookup_a_text_follows_the_targets_distribution():
    model, p = markov(1)
    V, g, pairs = len(p), seeded(), Counter()
    for _ in range(12):
        told = generate_speculative(model, PromptLookup(), [0], 400, generator=g)
        pairs.update(itertools.pairwise([0, *told.tokens]))
    for a in range(V):
        counts = Counter({b: pairs[a, b] for b in range(V) if pairs[a, b]})
        if sum(counts.values()) >= 200:
            total, bound = chi_squared(counts, p[a].tolist())
            assert total < bound


# the door


def test_the_iterator_is_lazy_and_gives_the_same():
    model, draft = tiny(1), tiny(2)
    request = Request([1, 2], 20, GREEDY)
    tokens = speculate(model, draft, request)
    first = next(tokens)
    assert request.tokens == [first]
    assert [first, *tokens] == request.tokens == alone(model, [1, 2], 20)


def test_a_tensor_of_one_row_is_a_text():
    model, draft = tiny(1), tiny(2)
    a = generate_speculative(model, draft, torch.tensor([[1, 2]]), 9, sampler=GREEDY)
    assert a.tokens == generate_speculative(model, draft, [1, 2], 9, sampler=GREEDY).tokens
    with pytest.raises(ValueError, match="One text at a time"):
        generate_speculative(model, draft, torch.tensor([[1], [2]]), 9)


def test_dropout_is_off_and_modes_are_as_before():
    model, draft = tiny(1), tiny(1)
    for m in (model.train(), draft.train()):
        m.transformer.h[0].mlp.dropout = 0.5
    told = generate_speculative(model, draft, [1], 12, sampler=GREEDY)
    assert model.training and draft.training
    assert told.accepted == told.drafted and told.tokens == alone(model.eval(), [1], 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": []}, "prompt is empty"),
        ({"ids": [7]}, "numbered from 0 to 6; the prompt has 7"),
        ({"gamma": 0}, "at least 1: 0"),
        ({"max_new_tokens": -1}, "Cannot make -1"),
        ({"draft": tiny(V=8)}, "they have 8 and 7 of"),
        ({"stop": [[]]}, "stop is empty"),
    ],
)
def test_errors_say_what_is_wrong(change, message):
    given_ = {"model": tiny(1), "draft": tiny(2), "ids": [1], "max_new_tokens": 4, **change}
    with pytest.raises(ValueError, match=message):
        generate_speculative(**given_)


@pytest.mark.parametrize("sampler", [GREEDY, Sampler(), Sampler(top_k=2)])
def test_logits_that_are_no_numbers_are_told(sampler):
    model = tiny(1)
    model.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="no token to choose"):
        generate_speculative(model, Guesses([1, 2]), [1], 4, sampler=sampler, generator=seeded())


@pytest.mark.parametrize(("longest", "shortest"), [(0, 0), (2, 0), (1, 2)])
def test_lookup_needs_something_to_match(longest, shortest):
    with pytest.raises(ValueError, match="at least 1 token"):
        PromptLookup(longest, shortest)
