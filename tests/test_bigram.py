"""zerohero.bigram: the counted and the learned table, their losses and their samples."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zerohero import data
from zerohero.bigram import CountBigram, NeuralBigram, sample_names
from zerohero.data import CharTokenizer, context_windows, load_names

TOKENIZER = CharTokenizer("abc", boundary=".")


def test_reference_numbers_of_the_lectures_names():
    if not (data.data_folder() / data.NAMES["makemore"].file).is_file():
        pytest.skip("the lectures' names.txt is not in the data folder (ZEROHERO_DATA)")
    names = load_names("makemore")
    tokenizer = CharTokenizer("".join(names), boundary=".")
    model = CountBigram(names, tokenizer)
    count = {pair: model.counts[tuple(tokenizer.encode(pair))].item() for pair in ("n.", "a.", "an")}
    assert model.counts.sum() == 228_146 and count == {"n.": 6763, "a.": 6640, "an": 5438}
    assert round(model.loss(names), 5) == 2.45401
    assert round(CountBigram(names, tokenizer, smoothing=1).loss(names), 5) == 2.45458


@given(st.lists(st.text("abc", max_size=5), min_size=1), st.sampled_from([0.0, 0.1, 1.0, 50.0]))
def test_counting(names, smoothing):
    model = CountBigram(names, TOKENIZER, smoothing)
    table = torch.zeros(4, 4)
    for name in names:
        for a, b in zip("." + name, name + "."):
            table[TOKENIZER.encode(a)[0], TOKENIZER.encode(b)[0]] += 1
    assert torch.equal(model.counts, table.long())
    assert torch.allclose(model.probabilities.sum(1), torch.ones(4, dtype=torch.float64))
    surprises = torch.cat([model.surprise(name) for name in names])
    assert math.isclose(model.loss(names), surprises.mean().item(), rel_tol=1e-9, abs_tol=1e-12)


def test_the_impossible_is_infinite_until_smoothed():
    model = CountBigram(["ab"], TOKENIZER)
    assert model.surprise("ab").tolist() == [0, 0, 0]
    assert math.isinf(model.loss(["ba"])) and torch.allclose(
        model.probabilities[3], torch.full((4,), 0.25, dtype=torch.float64)
    )
    assert math.isfinite(CountBigram(["ab"], TOKENIZER, 0.01).loss(["ba", "ccc"]))
    for smoothing in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"cannot be {smoothing}"):
            CountBigram(["ab"], TOKENIZER, smoothing)
    with pytest.raises(ValueError, match="'z' at position 1, in 'az'"):
        model.surprise("az")
    with pytest.raises(TypeError, match="must be a list"):
        model.loss("ab")


def test_samples_follow_the_probabilities():
    model = CountBigram(["ab", "abc", "b", "ca"], TOKENIZER, 0.5)
    names = model.sample(20_000, torch.Generator().manual_seed(0))
    drawn = CountBigram(names, TOKENIZER).probabilities
    assert (drawn - model.probabilities).abs().max() < 0.02
    assert names == model.sample(20_000, torch.Generator().manual_seed(0))
    assert model.sample(0) == []


def test_names_that_never_end():
    forever = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="did not end within 1000 letters"):
        sample_names(forever, 2, CharTokenizer("a", boundary="."))
    ends = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert sample_names(ends, 2, CharTokenizer("a", boundary="."), max_length=1) == ["a", "a"]
    with pytest.raises(ValueError, match="Cannot draw -1"):
        CountBigram(["ab"], TOKENIZER).sample(-1)


def test_neural_bigram_learns_the_counts():
    names = ["ab", "abc", "b", "ca", "cab"]
    X, Y = context_windows(names, 1, TOKENIZER)
    model = NeuralBigram(TOKENIZER)
    logits, loss = model(X[:, 0], Y)
    assert logits.shape == (len(X), 4) and math.isclose(loss.item(), math.log(4), rel_tol=1e-6)
    assert model(X[:, 0])[1] is None
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    for _ in range(3000):
        optimizer.zero_grad()
        model(X[:, 0], Y)[1].backward()
        optimizer.step()
    counted = CountBigram(names, TOKENIZER)
    assert abs(model(X[:, 0], Y)[1].item() - counted.loss(names)) < 2e-3
    assert (model.weight.detach().softmax(1) - counted.probabilities).abs().max() < 0.01


def test_neural_bigram_starts_as_asked():
    random = NeuralBigram(TOKENIZER, torch.Generator().manual_seed(1))
    again = NeuralBigram(TOKENIZER, torch.Generator().manual_seed(1))
    assert torch.equal(random.weight, again.weight) and random.weight.std() > 0.5
    assert len(random.sample(5, torch.Generator().manual_seed(0))) == 5
