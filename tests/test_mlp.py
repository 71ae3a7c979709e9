"""The network of chapter 3, and the functions that train, measure and sample any model of its kind."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zerohero.data import CharTokenizer
from zerohero.mlp import MLP, draw_names, evaluate, find_lr, fit

LETTERS = CharTokenizer("abc", boundary=".")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def questions(n=60, block_size=3, vocab_size=4):
    x = torch.randint(vocab_size, (n, block_size), generator=seeded(1))
    return x, torch.randint(vocab_size, (n,), generator=seeded(2))


def small(**sizes):
    return MLP(**{"vocab_size": 4, "block_size": 3, "n_embd": 2, "n_hidden": 5, "generator": seeded(), **sizes})


class Fixed(nn.Module):
    """Gives every context the logits of its last symbol's row, and remembers the mode it was called in."""

    def __init__(self, table):
        super().__init__()
        self.table, self.modes = torch.as_tensor(table, dtype=torch.float32), []

    def forward(self, x):
        self.modes.append(self.training)
        return self.table[x[:, -1]]


# ---- the network ----


def test_parameters_are_drawn_in_the_order_of_the_lecture():
    model, g = MLP(generator=seeded(2147483647)), seeded(2147483647)
    shapes = [(27, 10), (30, 200), (200,), (200, 27), (27,)]
    for parameter, shape in zip(model.parameters(), shapes):
        assert torch.equal(parameter.detach(), torch.randn(shape, generator=g))
    assert [name for name, _ in model.named_parameters()] == ["C", "W1", "b1", "W2", "b2"]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(2, 9), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_it_computes_what_the_formula_says(block_size, n_embd, n_hidden, vocab_size, batch):
    model = MLP(vocab_size, block_size, n_embd, n_hidden, seeded()).double()
    x = torch.randint(vocab_size, (batch, block_size), generator=seeded(1))
    one_hot = F.one_hot(x, vocab_size).double()
    e = (one_hot @ model.C).reshape(batch, block_size * n_embd)
    expected = torch.tanh(e @ model.W1 + model.b1) @ model.W2 + model.b2
    assert torch.allclose(model(x), expected)


@pytest.mark.parametrize("shape", [(3,), (5, 2), (5, 4), (1, 5, 3)])
def test_contexts_of_another_length_are_refused(shape):
    with pytest.raises(ValueError, match=r"must have shape \(B, 3\), not"):
        small()(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("size", ["vocab_size", "block_size", "n_embd", "n_hidden"])
def test_a_size_of_zero_is_refused(size):
    with pytest.raises(ValueError, match="at least 1"):
        small(**{size: 0})


# ---- fit ----


def test_plain_descent_is_torchs_sgd():
    ours, theirs = small(), small()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=123.0)  # fit sets the rate
    a = fit(ours, *questions(), 20, 0.1, batch_size=8, generator=seeded(5))
    b = fit(theirs, *questions(), 20, 0.1, batch_size=8, generator=seeded(5), optimizer=optimizer)
    assert torch.allclose(a, b)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(p, q, atol=1e-6)


def test_losses_are_those_of_the_batches_before_each_step():
    model, (x, y), g = small(), questions(), seeded(5)
    batch = torch.randint(len(x), (8,), generator=g)
    first = F.cross_entropy(model(x[batch]), y[batch]).item()
    losses = fit(model, x, y, 3, 0.1, batch_size=8, generator=seeded(5))
    assert losses.shape == (3,) and not losses.requires_grad
    assert losses[0].item() == pytest.approx(first)


def test_the_rate_may_depend_on_the_step_and_the_callback_sees_gradients_before_the_update():
    model, seen = small(), []

    def look(step):
        seen.append((step, model.b2.detach().clone(), model.b2.grad.clone()))

    rates = [0.5, 0.0, 0.25]
    fit(model, *questions(), 3, rates.__getitem__, generator=seeded(), callback=look)
    after = [seen[1][1], seen[2][1], model.b2.detach()]
    for (step, before, gradient), then in zip(seen, after):
        assert torch.allclose(then, before - rates[step] * gradient, atol=1e-7)
    assert [step for step, _, _ in seen] == [0, 1, 2] and torch.equal(seen[1][1], seen[2][1])


def test_frozen_parameters_stay():
    model = small()
    model.C.requires_grad_(False)
    before = model.C.clone()
    fit(model, *questions(), 5, 0.1, generator=seeded())
    assert torch.equal(model.C, before) and model.C.grad is None


def test_training_happens_in_training_mode():
    model = nn.Sequential(small(), nn.Dropout(0.5)).eval()
    fit(model, *questions(), 1, 0.1, generator=seeded())
    assert model.training


def test_no_steps_change_nothing():
    model, before = small(), small().state_dict()
    assert fit(model, *questions(), 0, 0.1).shape == (0,)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("function", [lambda *a: fit(*a, 1, 0.1), evaluate])
def test_questions_and_answers_must_pair(function):
    x, y = questions()
    with pytest.raises(ValueError, match="60 contexts and 59 answers"):
        function(small(), x, y[:-1])
    with pytest.raises(ValueError, match="0 contexts and 0 answers"):
        function(small(), x[:0], y[:0])


@pytest.mark.parametrize(("steps", "batch_size"), [(-1, 8), (1, 0)])
def test_impossible_amounts_are_named(steps, batch_size):
    with pytest.raises(ValueError, match=f"Cannot take {steps} steps with batches of {batch_size}"):
        fit(small(), *questions(), steps, 0.1, batch_size=batch_size)


# ---- evaluate ----


@given(st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_the_loss_does_not_depend_on_the_pieces(batch_size):
    model, (x, y) = small(), questions()
    whole = F.cross_entropy(model(x), y).item()
    assert evaluate(model, x, y, batch_size) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_evaluation_and_then_as_before(training):
    model = Fixed(torch.zeros(4, 4)).train(training)
    assert evaluate(model, *questions()) == pytest.approx(math.log(4))
    draw_names(Fixed([[9.0, -1e9, -1e9, -1e9]] * 4).train(training), 2, LETTERS, 3)
    assert model.modes == [False] and model.training == training


# ---- find_lr ----


def test_the_sweep_trains_a_copy_with_rates_that_grow_by_a_factor():
    model = small()
    before = copy.deepcopy(model.state_dict())
    rates, losses = find_lr(model, *questions(), low=0.01, high=10, steps=31, batch_size=8, generator=seeded(5))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert rates[0].item() == pytest.approx(0.01) and rates[-1].item() == pytest.approx(10)
    assert torch.allclose(rates[1:] / rates[:-1], torch.full((30,), 10**0.1), rtol=1e-4)
    again = fit(model, *questions(), 31, rates.tolist().__getitem__, batch_size=8, generator=seeded(5))
    assert torch.equal(losses, again)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 1), (1, 0.1), (-1, 1)])
def test_a_sweep_needs_a_range(low, high):
    with pytest.raises(ValueError, match="0 < low < high"):
        find_lr(small(), *questions(), low=low, high=high)


# ---- draw_names ----


def test_names_follow_the_model():
    # a, then b, then c, then the end: nothing else is possible
    model = Fixed([[-1e9, 0, -1e9, -1e9], [-1e9, -1e9, 0, -1e9], [-1e9, -1e9, -1e9, 0], [0, -1e9, -1e9, -1e9]])
    assert draw_names(model, 3, LETTERS, 2) == ["abc"] * 3
    assert draw_names(model, 0, LETTERS, 2) == []


def test_the_window_moves_on_by_one():
    class Spy(Fixed):
        def forward(self, x):
            windows.append(LETTERS.decode(x[0]))
            return super().forward(x)

    windows = []
    draw_names(
        Spy([[-1e9, 0, -1e9, -1e9], [-1e9, -1e9, 0, -1e9], [-1e9, -1e9, -1e9, 0], [0, -1e9, -1e9, -1e9]]), 1, LETTERS, 2
    )
    assert windows == ["..", ".a", "ab", "bc"]


def test_letters_come_as_often_as_the_model_says():
    p = torch.tensor([0.0, 0.5, 0.3, 0.2])
    end = torch.tensor([1.0, 0, 0, 0])
    names = draw_names(Fixed(torch.stack([p, end, end, end]).log().clamp(min=-1e9)), 4000, LETTERS, 1, seeded(3))
    for letter, share in zip("abc", (0.5, 0.3, 0.2)):
        assert abs(names.count(letter) / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5


def test_one_at_a_time_makes_the_draws_of_a_plain_loop():
    model = small(n_hidden=30)
    for seed in range(20):
        g, context, letters = seeded(seed), [0, 0, 0], []
        while True:
            probabilities = model(torch.tensor([context])).softmax(1)
            drawn = torch.multinomial(probabilities, 1, generator=g).item()
            if drawn == 0:
                break
            letters.append(drawn)
            context = [*context[1:], drawn]
            if len(letters) > 500:
                break
        if len(letters) <= 500:
            assert draw_names(model, 1, LETTERS, 3, seeded(seed)) == [LETTERS.decode(letters)]


def test_a_model_that_never_ends_is_stopped_and_a_negative_number_refused():
    endless = Fixed([[-1e9, 0, 0, 0]] * 4)
    with pytest.raises(ValueError, match="did not end within 12 letters"):
        draw_names(endless, 2, LETTERS, 1, max_length=12)
    with pytest.raises(ValueError, match="Cannot draw -1 names"):
        draw_names(endless, -1, LETTERS, 1)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_after_an_error(training):
    model = Fixed([[-1e9, 0, 0, 0]] * 4).train(training)
    with pytest.raises(ValueError, match="did not end"):
        draw_names(model, 2, LETTERS, 1, max_length=3)
    assert model.training == training
    with pytest.raises(IndexError):
        evaluate(model, torch.tensor([[9]]), torch.tensor([0]))
    assert model.training == training


def test_an_unknown_symbol_is_named():
    with pytest.raises(IndexError, match="numbered from 0 to 3; the contexts go from 1 to 7"):
        small()(torch.tensor([[1, 2, 7]]))


def test_a_parameter_without_a_gradient_stays():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = small(), nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.used(x)

    model = Spare()
    fit(model, *questions(), 3, 0.1, generator=seeded())
    assert torch.equal(model.spare.detach(), torch.ones(3)) and model.spare.grad is None


def test_a_window_and_a_sweep_have_a_least_size():
    with pytest.raises(ValueError, match="0 letters of context"):
        draw_names(Fixed(torch.zeros(4, 4)), 1, LETTERS, 0)
    with pytest.raises(ValueError, match="at least 2 steps, not 0.001, 1.0 and 1"):
        find_lr(small(), *questions(), steps=1)
