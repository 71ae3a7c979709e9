"""zerohero.beam: with enough beams every text is tried, with one it is greedy, and between them it is as defined."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zerohero.beam import beam_search
from zerohero.transformer import CharGPT, CharGPTConfig

V = 4
pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_model(seed=0, size=1.0, **options):
    sizes = {"vocab_size": V, "block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 8, "dropout": 0.0}
    model, g = CharGPT(CharGPTConfig(**{**sizes, **options})).eval(), seeded(seed + 1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * size + (p.ndim == 1))
    return model


@torch.no_grad()
def log_probabilities(model, text):
    return model(torch.tensor([text]))[0][0, -1].log_softmax(-1).tolist()


def score_of(model, ids, text):
    """The log-probability of `text` after `ids`, from a pass of the model without a cache."""
    with torch.no_grad():
        logp = model(torch.tensor([ids + text]))[0][0].log_softmax(-1)
    return sum(logp[len(ids) - 1 + i, token].item() for i, token in enumerate(text))


def ends(text, stop):
    return any(text[-len(s) :] == list(s) for s in stop)


def every_text(n, stop):
    """All texts of n tokens, and the shorter ones that a stop ends; none goes on after a stop."""
    for size in range(1, n + 1):
        for text in map(list, itertools.product(range(V), repeat=size)):
            if (size == n or ends(text, stop)) and not any(ends(text[:i], stop) for i in range(1, size)):
                yield text


def best_of_all(model, ids, n, length_penalty, stop):
    found = [(score_of(model, ids, text) / len(text) ** length_penalty, text) for text in every_text(n, stop)]
    return sorted(found, key=lambda pair: -pair[0])


def slow_beams(model, ids, n, beams, length_penalty=0.0, stop=()):
    """The definition, without cache or rows: rank all longer texts, go down until enough of them go on."""
    going, done = [(0.0, [])], []
    for _ in range(n):
        longer = [
            (score + x, [*text, i]) for score, text in going for i, x in enumerate(log_probabilities(model, ids + text))
        ]
        going = []
        for pair in sorted(longer, key=lambda pair: -pair[0]):
            if len(going) < beams:
                (done if ends(pair[1], stop) else going).append(pair)
    fair = [(score / len(text) ** length_penalty, text) for score, text in done + going]
    return sorted(fair, key=lambda pair: -pair[0])[:beams]


def assert_same(ours, expected):
    assert [text for _, text in ours] == [text for _, text in expected]
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in expected], abs=1e-4)


STOPS = [(), ([2],), ([1], [2], [3]), ([0, 1], [2])]


@pytest.mark.parametrize("stop", STOPS, ids=repr)
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_enough_beams_find_the_best_of_all(positions, length_penalty, stop):
    for seed in range(3):
        model = random_model(seed, positions=positions)
        ours = beam_search(model, [1, 0], 4, beams=V**3, length_penalty=length_penalty, stop=stop)
        expected = best_of_all(model, [1, 0], 4, length_penalty, stop)[: V**3]
        assert len(ours) == len(expected)
        assert_same(ours[:20], expected[:20])


@settings(max_examples=100)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 5), st.sampled_from([0.0, 3.0]), st.sampled_from(STOPS))
def test_fewer_beams_are_the_definition(seed, beams, n, penalty, stop):
    model, ids = random_model(seed), [seed % V, 2, 0]
    ours = beam_search(model, ids, n, beams=beams, length_penalty=penalty, stop=stop)
    assert_same(ours, slow_beams(model, ids, n, beams, penalty, stop))


def test_one_beam_is_greedy():
    ended = 0
    for seed in range(10):
        model = random_model(seed)
        greedy = model.generate(torch.tensor([[0, 3]]), 8, temperature=0)[0, 2:].tolist()
        [(score, text)] = beam_search(model, [0, 3], 8, beams=1)
        assert text == greedy and score == pytest.approx(score_of(model, [0, 3], text), abs=1e-4)
        [(_, text)] = beam_search(model, [0, 3], 8, beams=1, stop=[2])
        assert text == greedy[: greedy.index(2) + 1 if 2 in greedy else 8]
        ended += 2 in greedy
    assert 1 <= ended <= 9


def test_greedy_misses_what_beams_find():
    found = 0
    for seed in range(20):
        model = random_model(seed)
        one, many = (beam_search(model, [0], 6, beams=b)[0][0] for b in (1, 64))
        found += many > one + 1e-3
    assert found >= 3


def test_length_penalty_favours_longer_texts():
    """A stop shortens; dividing by the length makes up for it."""
    lengths = []
    for penalty in (0.0, 1.0, 4.0):
        best = [beam_search(random_model(s), [0], 6, beams=16, length_penalty=penalty, stop=[1])[0] for s in range(10)]
        lengths.append(sum(len(text) for _, text in best))
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_stop_is_a_token_or_several():
    model = random_model(1)
    assert beam_search(model, [0], 4, stop=[2]) == beam_search(model, [0], 4, stop=[[2]])
    for _, text in beam_search(model, [0], 5, beams=8, stop=[[2, 1], 3]):
        assert len(text) == 5 or text[-1] == 3 or text[-2:] == [2, 1]


def test_ends_do_not_crowd_out_what_goes_on():
    """Three of four tokens end a text, and the search still finds the fourth."""
    for seed in range(20):
        model = random_model(seed)
        ours = beam_search(model, [0], 4, beams=1, length_penalty=3.0, stop=[1, 2, 3])
        assert_same(ours, slow_beams(model, [0], 4, 1, 3.0, ([1], [2], [3])))


def test_every_beam_can_end():
    """With all tokens as stops there is nothing to go on with."""
    found = beam_search(random_model(1), [0], 5, beams=3, stop=range(V))
    assert len(found) == 3 and all(len(text) == 1 for _, text in found)


def test_mode_and_prompt_stay_as_they_were():
    model, ids = random_model(1, dropout=0.5).train(), [0, 1]
    first = beam_search(model, ids, 4)
    assert model.training and ids == [0, 1] and first == beam_search(model, torch.tensor(ids), 4)


def test_nothing_to_do():
    assert beam_search(random_model(), [0], 0, length_penalty=1.0) == [(0.0, [])]


def test_up_to_the_end_of_the_context():
    model = random_model(2)
    assert_same(beam_search(model, [0, 1], 11, beams=2), slow_beams(model, [0, 1], 11, 2))  # the last needs no room
    with pytest.raises(ValueError, match="14 tokens.*context of 12"):
        beam_search(model, [0, 1], 12)


@pytest.mark.parametrize(
    "ids, options, message",
    [
        ([], {}, "prompt is empty"),
        ([0, V], {}, "0 to 3"),
        ([0, -1], {}, "0 to 3"),
        ([0], {"beams": 0}, "beams must be at least 1, not 0"),
        ([0], {"stop": [[]]}, "empty"),
    ],
)
def test_refused(ids, options, message):
    with pytest.raises(ValueError, match=message):
        beam_search(random_model(), ids, 3, **options)


def test_broken_model():
    model = random_model()
    with torch.no_grad():
        model.lm_head.weight[1] = float("nan")
    with pytest.raises(ValueError, match="no token to choose"):
        beam_search(model, [0], 3)
