"""zerohero.sampling: every setting against a slow reference that is written from its definition."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from zerohero import sampling
from zerohero.sampling import PLAIN, Sampler, check_logits, draw_index, draw_rows

INF = float("inf")
pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def reference(sampler, logits, prompt=(), output=()):
    """The probabilities in plain Python, definition by definition, and the distances to the thresholds."""
    logits, margins = list(logits), [1.0]
    for i in {*prompt, *output}:
        r = sampler.repetition_penalty
        logits[i] = logits[i] / r if logits[i] > 0 else logits[i] * r
    for i in output:
        logits[i] -= sampler.frequency_penalty
    for i in set(output):
        logits[i] -= sampler.presence_penalty
    everyone, best = range(len(logits)), max(logits)
    if sampler.temperature == 0:
        return [float(i == logits.index(best)) for i in everyone], margins
    p = normalised([math.exp((x - best) / sampler.temperature) for x in logits])
    if sampler.top_k is not None:
        p = normalised([x if sum(y > z for y in logits) < sampler.top_k else 0 for x, z in zip(p, logits)])
    if sampler.top_p is not None and sampler.top_p < 1:
        before, kept = 0.0, [0.0] * len(p)
        for i in sorted(everyone, key=lambda i: -p[i]):
            if before < sampler.top_p:
                kept[i] = p[i]
            margins.append(abs(before - sampler.top_p))
            before += p[i]
        p = normalised(kept)
    if sampler.min_p is not None:
        margins += [abs(x / max(p) - sampler.min_p) for x in p if x and x < max(p)]
        p = normalised([x if x >= sampler.min_p * max(p) else 0 for x in p])
    return p, margins


def normalised(weights):
    return [x / sum(weights) for x in weights]


def probabilities(sampler, logits, prompt=(), output=()):
    return sampler.log_probabilities(torch.tensor(logits), prompt, output).exp()


def chances(*p):
    return [math.log(x) if x else -INF for x in p]


# quarters are exact in float32, so that ties are ties there too
quarters = st.integers(-24, 24).map(lambda n: n / 4)


@st.composite
def cases(draw):
    V = draw(st.integers(1, 12))
    logits = draw(st.lists(quarters | st.just(-INF), min_size=V, max_size=V))
    assume(max(logits) > -INF)
    tokens = st.lists(st.integers(0, V - 1), max_size=6)
    penalties = {
        "repetition_penalty": draw(st.sampled_from([1.0, 0.5, 1.25, 2.0])),
        "presence_penalty": draw(st.sampled_from([0.0, 0.5, -0.25])),
        "frequency_penalty": draw(st.sampled_from([0.0, 0.125, -0.5])),
    }
    cuts = {}
    temperature = draw(st.just(0.0) | st.sampled_from([0.1, 0.7, 1.0, 3.0]))
    if temperature:
        cuts = {
            "top_k": draw(st.none() | st.integers(1, 14)),
            "top_p": draw(st.none() | st.floats(0.01, 1)),
            "min_p": draw(st.none() | st.floats(0, 1)),
        }
    return Sampler(temperature, **cuts, **penalties), logits, draw(tokens), draw(tokens)


@settings(max_examples=1000)
@given(cases())
@example((Sampler(top_k=2), [1.0, 1.0, 1.0, 0.0], [], []))
@example((Sampler(top_k=2, top_p=0.6, min_p=0.9), [2.0, 1.75, 1.5, -INF], [], []))
@example(
    (Sampler(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.125), [2.0, -2.0, 0.0], [1], [0, 0])
)
def test_distribution_of_the_definition(case):
    expected, margins = reference(*case)
    assume(min(margins) > 1e-5)  # where rounding does not decide
    sampler, logits, *history = case
    ours = sampler.log_probabilities(torch.tensor(logits), *history)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.tolist(), chances(*expected), atol=2e-5, rtol=1e-5)


# ---- cases to check by hand ----

HALF = chances(0.5, 0.3, 0.2)


@pytest.mark.parametrize(
    "sampler, expected",
    [
        (PLAIN, (0.5, 0.3, 0.2)),
        (Sampler(0), (1, 0, 0)),
        (Sampler(0.5), (25 / 38, 9 / 38, 4 / 38)),  # the squares
        (Sampler(top_k=1), (1, 0, 0)),
        (Sampler(top_k=2), (5 / 8, 3 / 8, 0)),
        (Sampler(top_k=3), (0.5, 0.3, 0.2)),
        (Sampler(top_k=99), (0.5, 0.3, 0.2)),
        (Sampler(top_p=0.4), (1, 0, 0)),  # less than the first has: it alone
        (Sampler(top_p=0.6), (5 / 8, 3 / 8, 0)),  # the second crosses, and stays
        (Sampler(top_p=0.81), (0.5, 0.3, 0.2)),
        (Sampler(top_p=1), (0.5, 0.3, 0.2)),
        (Sampler(min_p=0), (0.5, 0.3, 0.2)),
        (Sampler(min_p=0.5), (5 / 8, 3 / 8, 0)),  # at least 0.25
        (Sampler(min_p=1), (1, 0, 0)),
        (Sampler(top_k=2, top_p=0.6), (1, 0, 0)),  # of the two, the first has 0.625
        (Sampler(0.5, top_p=0.6), (1, 0, 0)),  # cooled first
        (Sampler(2, min_p=0.6), probabilities(Sampler(2), HALF).tolist()),  # sqrt(0.4) > 0.6
        (Sampler(1e-6), (1, 0, 0)),
    ],
    ids=repr,
)
def test_three_tokens(sampler, expected):
    torch.testing.assert_close(probabilities(sampler, HALF), torch.tensor(expected, dtype=torch.float32))
    turned = probabilities(sampler, HALF[::-1]).tolist()[::-1]  # where a token stands in the vocabulary plays no role
    torch.testing.assert_close(turned, [float(x) for x in expected], atol=1e-6, rtol=1e-5)


def test_ties():
    equal = [0.0] * 4
    assert probabilities(Sampler(top_k=1), equal).tolist() == [0.25] * 4  # none has a better claim
    assert probabilities(Sampler(top_p=0.6), equal).count_nonzero() == 3  # as few as suffice
    assert probabilities(Sampler(min_p=1), equal).tolist() == [0.25] * 4
    assert probabilities(Sampler(0), equal).tolist() == [1, 0, 0, 0]


def test_temperature_goes_from_greedy_to_uniform():
    logits = torch.randn(20, generator=seeded())
    entropy = [-(p * p.exp()).nansum() for p in (Sampler(t).log_probabilities(logits) for t in (0.05, 0.5, 1, 2, 50))]
    assert entropy == sorted(entropy)
    assert Sampler(1e-6).log_probabilities(logits).argmax() == logits.argmax()
    torch.testing.assert_close(Sampler(1e9).log_probabilities(logits).exp(), torch.full((20,), 0.05))


def test_penalties_by_hand():
    logits = torch.tensor([2.0, -2.0, 0.0, 1.0])
    repetition = Sampler(repetition_penalty=2.0)
    assert repetition.penalised(logits, [0, 0], [1]).tolist() == [1, -4, 0, 1]  # once, however often it occurs
    subtracting = Sampler(presence_penalty=0.5, frequency_penalty=0.25)
    assert subtracting.penalised(logits, [3, 3], [0, 0, 1]).tolist() == [1, -2.75, 0, 1]  # the prompt does not count
    both = Sampler(repetition_penalty=2.0, presence_penalty=0.5)
    assert both.penalised(logits, [], [0]).tolist() == [0.5, -2, 0, 1]  # divided, then reduced
    assert logits.tolist() == [2, -2, 0, 1]  # as they were
    assert Sampler(0, frequency_penalty=2).draw(logits, [0] * 9, [0]) == 3


@pytest.mark.parametrize("setting", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
@pytest.mark.parametrize("padding", [-1, 4])
def test_padding_is_not_penalised_but_refused(setting, padding):
    with pytest.raises(ValueError, match=rf"from 0 to 3, not for .*{padding}.*padding"):
        Sampler(**{setting: 1.5}).log_probabilities(torch.zeros(4), [0], [0, padding])
    PLAIN.log_probabilities(torch.zeros(4), [0], [padding])  # where nobody looks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    logits = torch.randn(50, generator=seeded()).to(dtype)
    sampler = Sampler(0.8, 20, 0.9, 0.05, 1.2, 0.1, 0.1)
    ours = sampler.log_probabilities(logits, [1], [2, 3])
    assert ours.dtype == torch.float32 and torch.equal(ours, sampler.log_probabilities(logits.float(), [1], [2, 3]))


def test_large_vocabulary():
    """top_p sorts only what may be kept; here is the same with everything sorted."""
    V, g = 50257, seeded()
    steep = -1.2 * torch.arange(1, V + 1).log()[torch.randperm(V, generator=g)]
    for logits in (steep, 0.3 * torch.randn(V, generator=g)):
        for top_p in (0.1, 0.9, 0.999):
            p, order = logits.double().softmax(-1).sort(descending=True)
            many = int((p.cumsum(-1) < top_p).sum()) + 1
            ours = Sampler(top_p=top_p).log_probabilities(logits)
            kept = ours > -INF
            assert abs(int(kept.sum()) - many) <= 2  # rounding
            assert kept[order[: max(1, many - 2)]].all() and abs(ours.double().exp().sum() - 1) < 1e-4


# ---- drawing ----


@settings(max_examples=300)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 1000))
def test_draw_index_inverts_the_running_sums(p, seed):
    p = [x if x > 1e-6 else 0.0 for x in p]
    assume(sum(p))
    place = torch.rand((), dtype=torch.float64, generator=seeded(seed)).item() * sum(p)
    sums = [sum(p[: i + 1]) for i in range(len(p))]
    assume(min(abs(place - s) for s in sums) > 1e-9)
    expected = next(i for i, s in enumerate(sums) if place < s)
    assert draw_index(torch.tensor(p, dtype=torch.float64), seeded(seed)) == expected


@pytest.mark.parametrize("place", [0.0, 1 - 2.0**-53])
@pytest.mark.parametrize("p, ends", [([0.0, 0.0, 0.3, 0.0, 0.7, 0.0], (2, 4)), ([1.0], (0, 0)), ([1e-30, 0.0], (0, 0))])
def test_both_ends_of_the_line(monkeypatch, place, p, ends):
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.tensor(place, dtype=torch.float64))
    assert draw_index(torch.tensor(p)) == ends[place > 0.5]


def test_rounding_beyond_the_last_token(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.tensor(1.0, dtype=torch.float64))
    assert draw_index(torch.tensor([0.2, 0.8, 0.0])) == 1


def test_rare_tokens_behind_a_sure_one(monkeypatch):
    """In float32 nothing lies between 1 and 1.00000012, a place for a hundred of these tokens."""
    rare = 1e-9
    place = (1 + 500.5 * rare) / (1 + 1000 * rare)
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.tensor(place, dtype=torch.float64))
    assert draw_index(torch.tensor([1.0] + [rare] * 1000)) == 501


@pytest.mark.parametrize(
    "sampler", [PLAIN, Sampler(1.5), Sampler(top_k=4), Sampler(top_p=0.8), Sampler(0.7, 5, 0.9, 0.1, 1.5)], ids=repr
)
def test_draws_have_the_distribution(sampler):
    g, logits, history, n = seeded(1), torch.randn(6, generator=seeded(2)), ([0, 1], [1, 3]), 20_000
    p = sampler.log_probabilities(logits, *history).exp()
    found = Counter(sampler.draw(logits, *history, g) for _ in range(n))
    likely = [i for i in range(6) if p[i] > 0]
    assert found.keys() <= set(likely)  # what is filtered out is never drawn
    chi_squared = sum((found[i] - n * p[i]) ** 2 / (n * p[i]) for i in likely)
    assert chi_squared < 20.5  # 5 degrees of freedom or fewer: once in a thousand seeds


def test_one_number_for_each_token():
    g, logits = seeded(), torch.randn(9, generator=seeded(1))
    Sampler(0.7, 5, 0.9).draw(logits, generator=g)
    one = seeded()
    torch.rand((), dtype=torch.float64, generator=one)
    assert torch.equal(g.get_state(), one.get_state())
    Sampler(0).draw(logits, generator=g)  # takes none
    assert torch.equal(g.get_state(), one.get_state())


def test_global_generator():
    state = torch.get_rng_state()
    try:
        torch.manual_seed(5)
        ours = [draw_index(torch.ones(50)) for _ in range(5)]
        assert len(set(ours)) > 1
        torch.manual_seed(5)
        assert [draw_index(torch.ones(50)) for _ in range(5)] == ours
    finally:
        torch.set_rng_state(state)


MIXED = [PLAIN, Sampler(0), Sampler(0.7, top_p=0.9), Sampler(0, repetition_penalty=2.0), Sampler(presence_penalty=1.0)]


@pytest.mark.parametrize("samplers", [MIXED, [Sampler(0)] * 5, [PLAIN] * 5], ids=["mixed", "greedy", "plain"])
def test_rows_do_not_know_of_each_other(samplers):
    logits = torch.randn(5, 30, generator=seeded())
    histories = [([b], [b + 1, b + 2]) for b in range(5)]
    prompts, outputs = zip(*histories)
    together = draw_rows(samplers, logits, prompts, outputs, [seeded(b) for b in range(5)])
    alone = [samplers[b].draw(logits[b], *histories[b], seeded(b)) for b in range(5)]
    assert together == alone and all(type(i) is int for i in together)
    backwards = draw_rows(
        samplers[::-1], logits.flip(0), prompts[::-1], outputs[::-1], [seeded(b) for b in reversed(range(5))]
    )
    assert backwards[::-1] == alone


def test_greedy_rows_with_penalties():
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    samplers = [Sampler(0), Sampler(0, presence_penalty=2.0)]
    assert draw_rows(samplers, logits, [[], []], [[0], [0]], [None, None]) == [0, 1]


# ---- what is refused ----


@pytest.mark.parametrize("broken", [[0, float("nan"), 1], [0, INF, 1], [-INF] * 3], ids=repr)
@pytest.mark.parametrize("sampler", [PLAIN, Sampler(0), Sampler(top_p=0.5), Sampler(0, presence_penalty=1)], ids=repr)
def test_broken_logits(sampler, broken):
    logits = torch.tensor([[0.0, 0.0, 0.0], broken, [0.0, 0.0, 0.0]])
    for call in (
        lambda: sampler.log_probabilities(logits[1]),
        lambda: sampler.draw(logits[1]),
        lambda: draw_rows([sampler] * 3, logits, [[]] * 3, [[]] * 3, [None] * 3),
        lambda: check_logits(logits),
    ):
        with pytest.raises(ValueError, match=r"no token to choose.*weights"):
            call()


def test_one_text_at_a_time():
    for call in (PLAIN.draw, PLAIN.log_probabilities, Sampler(0).draw):
        with pytest.raises(ValueError, match=r"not \(2, 3\).*draw_rows"):
            call(torch.zeros(2, 3))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": -0.1}, "temperature must be 0, or a number from 1e-6 on, not -0.1"),
        ({"temperature": 1e-9}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": INF}, "temperature"),
        ({"top_k": 0}, "top_k must be a whole number from 1 on, not 0"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, not 0"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"min_p": -0.1}, "min_p must be from 0 to 1, not -0.1"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0"),
        ({"repetition_penalty": INF}, "repetition_penalty"),
        ({"presence_penalty": INF}, "presence_penalty must be a number"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty must be a number"),
        ({"temperature": 0, "top_k": 5}, "Temperature 0 .* leave them out"),
        ({"temperature": 0, "top_p": 0.5}, "Temperature 0"),
        ({"temperature": 0, "min_p": 0.5}, "Temperature 0"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**options)


def test_names():
    assert sampling.PLAIN == Sampler() and not PLAIN.penalises and Sampler(frequency_penalty=0.1).penalises
