"""zerohero.backprop: every backward pass against finite differences and against torch, and a grader that is given
every mistake it claims to find."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from zerohero.backprop import (
    GradientTable,
    batchnorm_backward,
    compare_gradients,
    cross_entropy_backward,
    embedding_backward,
    grade_gradient,
    linear_backward,
    tanh_backward,
)
from zerohero.batchnorm import BatchNorm1d

ROOT = Path(__file__).resolve().parents[1]
size = st.integers(1, 4)
leading = st.lists(size, min_size=0, max_size=3).map(tuple)  # the axes before the channels: (), (B,), (B, T), ...
batches = st.lists(st.integers(2, 4), min_size=1, max_size=2).map(tuple)
seeds = st.integers(0, 2**31)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def integers(high, shape, seed):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def gradients(output, inputs, upstream):
    return torch.autograd.grad(output, inputs, upstream)


# ---- each function as torch's gradcheck sees it: its forward pass here, its backward pass from the book ----


class LinearByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return x @ weight + bias

    @staticmethod
    def backward(ctx, grad):
        return linear_backward(grad, *ctx.saved_tensors)


class TanhByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        h = x.tanh()
        ctx.save_for_backward(h)
        return h

    @staticmethod
    def backward(ctx, grad):
        return tanh_backward(grad, *ctx.saved_tensors)


class BatchNormByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain, bias, eps):
        axes = tuple(range(x.ndim - 1))
        inv_std = (x.var(axes, correction=0) + eps) ** -0.5
        normalised = (x - x.mean(axes)) * inv_std
        ctx.save_for_backward(normalised, inv_std, gain)
        return gain * normalised + bias

    @staticmethod
    def backward(ctx, grad):
        return *batchnorm_backward(grad, *ctx.saved_tensors), None


class CrossEntropyByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets):
        ctx.save_for_backward(logits, targets)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))

    @staticmethod
    def backward(ctx, grad):
        return cross_entropy_backward(grad, *ctx.saved_tensors), None


class EmbeddingByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, indices):
        ctx.save_for_backward(indices)
        ctx.vocab_size = len(weight)
        return weight[indices]

    @staticmethod
    def backward(ctx, grad):
        return embedding_backward(grad, *ctx.saved_tensors, ctx.vocab_size), None


def leaf(*shape, seed):
    return normal(*shape, seed=seed).requires_grad_()


@settings(max_examples=25)
@given(leading, size, size, seeds)
def test_linear(lead, fan_in, fan_out, seed):
    inputs = leaf(*lead, fan_in, seed=seed), leaf(fan_in, fan_out, seed=seed + 1), leaf(fan_out, seed=seed + 2)
    assert torch.autograd.gradcheck(LinearByHand.apply, inputs)
    x, weight, bias = inputs
    upstream = normal(*lead, fan_out, seed=seed + 3)
    expected = gradients(F.linear(x, weight.T, bias), inputs, upstream)
    for got, want in zip(linear_backward(upstream, x.detach(), weight.detach()), expected):
        assert got.shape == want.shape and torch.allclose(got, want)


@settings(max_examples=25)
@given(leading, seeds)
def test_tanh(lead, seed):
    x, upstream = leaf(*lead, seed=seed), normal(*lead, seed=seed + 1)
    assert torch.autograd.gradcheck(TanhByHand.apply, x)
    (expected,) = gradients(x.tanh(), x, upstream)
    assert torch.allclose(tanh_backward(upstream, x.detach().tanh()), expected)


@settings(max_examples=25)
@given(batches, size, st.sampled_from([1e-5, 0.1, 1.0]), seeds)
def test_batchnorm(lead, channels, eps, seed):
    inputs = leaf(*lead, channels, seed=seed), leaf(channels, seed=seed + 1), leaf(channels, seed=seed + 2)
    # with two examples the gradient is nearly zero and the function bends sharply, so the steps must be small
    assert torch.autograd.gradcheck(lambda *each: BatchNormByHand.apply(*each, eps), inputs, eps=1e-7, atol=1e-4)
    x, gain, bias = inputs
    upstream = normal(*lead, channels, seed=seed + 3)
    rows = F.batch_norm(x.reshape(-1, channels), None, None, gain, bias, True, 0.1, eps)
    expected = gradients(rows.view(x.shape), inputs, upstream)
    got = gradients(BatchNormByHand.apply(*inputs, eps), inputs, upstream)
    for one, other in zip(got, expected):
        assert one.shape == other.shape and torch.allclose(one, other, rtol=1e-6, atol=1e-8)


@settings(max_examples=25)
@given(leading, st.integers(1, 5), st.sampled_from([1.0, -0.5, 3.0]), seeds)
def test_cross_entropy(lead, V, upstream, seed):
    logits, targets = leaf(*lead, V, seed=seed), integers(V, lead, seed)
    assert torch.autograd.gradcheck(lambda z: CrossEntropyByHand.apply(z, targets), logits)
    loss = F.cross_entropy(logits.reshape(-1, V), targets.reshape(-1))
    (expected,) = gradients(loss, logits, torch.tensor(upstream, dtype=torch.float64))
    before = logits.detach().clone()
    got = cross_entropy_backward(upstream, logits.detach(), targets)
    assert torch.allclose(got, expected)
    assert torch.equal(cross_entropy_backward(torch.tensor(upstream).double(), logits.detach(), targets), got)
    assert torch.allclose(got.sum(-1), torch.zeros(lead, dtype=torch.float64), atol=1e-12)
    assert torch.equal(logits.detach(), before), "the logits were changed"


@settings(max_examples=25)
@given(leading, size, size, seeds)
def test_embedding(lead, V, D, seed):
    weight, indices = leaf(V, D, seed=seed), integers(V, lead, seed)
    assert torch.autograd.gradcheck(lambda w: EmbeddingByHand.apply(w, indices), weight)
    upstream = normal(*lead, D, seed=seed + 1)
    (expected,) = gradients(F.embedding(indices, weight), weight, upstream)
    assert torch.allclose(embedding_backward(upstream, indices, V), expected)


def test_wrong_backward_passes_fail():
    class WrongTanh(TanhByHand):
        @staticmethod
        def backward(ctx, grad):
            return grad * (1 - ctx.saved_tensors[0])

    class MixedVariances(BatchNormByHand):
        @staticmethod
        def backward(ctx, grad):
            normalised, inv_std, gain = ctx.saved_tensors
            dx, dgain, dbias = batchnorm_backward(grad, normalised, inv_std, gain)
            return dx - gain * inv_std * normalised * dgain * (1 / 3 - 1 / 4), dgain, dbias, None

    inputs = leaf(4, 2, seed=0), leaf(2, seed=1), leaf(2, seed=2)
    how = {"eps": 1e-7, "atol": 1e-4, "raise_exception": False}
    assert not torch.autograd.gradcheck(WrongTanh.apply, leaf(3, seed=0), **how)
    assert not torch.autograd.gradcheck(lambda *each: MixedVariances.apply(*each, 1e-5), inputs, **how)
    assert torch.autograd.gradcheck(lambda *each: BatchNormByHand.apply(*each, 1e-5), inputs, **how)


@pytest.mark.parametrize("shape", [(8, 5), (4, 6, 5)])
def test_batchnorm_agrees_with_the_books_layer_in_single_precision(shape):
    layer = BatchNorm1d(5)
    layer.weight.data.copy_(normal(5, seed=1))
    x, upstream = (normal(*shape, seed=seed).float() for seed in (2, 3))
    x.requires_grad_()
    layer(x).backward(upstream)
    rows = x.detach().reshape(-1, 5)
    inv_std = (rows.var(0, correction=0) + layer.eps).rsqrt()
    normalised = ((rows - rows.mean(0)) * inv_std).view(shape)
    got = batchnorm_backward(upstream, normalised, inv_std, layer.weight.data)
    names = {"x": x.grad, "gain": layer.weight.grad, "bias": layer.bias.grad}
    assert compare_gradients(names, **dict(zip(names, got))).close


@pytest.mark.parametrize("lead", [(1,), (1, 1)])
def test_batchnorm_over_one_example_passes_nothing_back(lead):
    grad, normalised = normal(*lead, 3, seed=1), torch.zeros(*lead, 3, dtype=torch.float64)
    inv_std, gain = torch.full((3,), 1e-5).double() ** -0.5, normal(3, seed=2)
    dx, dgain, dbias = batchnorm_backward(grad, normalised, inv_std, gain)
    assert dx.shape == grad.shape and not dx.any() and not dgain.any()
    assert torch.equal(dbias, grad.view(3))


def test_views_that_are_not_contiguous():
    x, upstream, weight = normal(3, 5, 4, seed=1), normal(2, 5, 3, seed=2), normal(3, 2, seed=3)
    x, upstream = x.permute(1, 2, 0)[:, :2], upstream.permute(1, 0, 2)[..., :2]
    one = linear_backward(upstream, x, weight)
    other = linear_backward(upstream.contiguous(), x.contiguous(), weight)
    assert all(map(torch.allclose, one, other))
    grad = normal(3, 5, 2, seed=4).transpose(0, 1)
    channels = normal(2, seed=5).abs()
    one = batchnorm_backward(grad, grad, channels, channels)
    other = batchnorm_backward(grad.contiguous(), grad.contiguous(), channels, channels)
    assert all(map(torch.allclose, one, other))


# ---- bad input ----


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: linear_backward(normal(2, 3), normal(2, 4), normal(3, 4)), ValueError, "not (2, 3), (2, 4) and (3, 4)"),
        (lambda: linear_backward(normal(5, 3), normal(2, 4), normal(4, 3)), ValueError, "grad (..., fan_out)"),
        (lambda: linear_backward(normal(3), normal(2, 4), normal(4, 3)), ValueError, "grad (..., fan_out)"),
        (lambda: linear_backward(normal(2, 3), normal(2, 4), normal(4)), ValueError, "weight (fan_in, fan_out)"),
        (lambda: linear_backward(normal(2, 3), normal(2, 4).float(), normal(4, 3)), TypeError, "x is torch.float32"),
        (lambda: linear_backward([1.0], normal(2, 4), normal(4, 3)), TypeError, "grad must be a tensor, not list"),
        (lambda: tanh_backward(normal(2, 3), normal(3)), ValueError, "(2, 3) and the result (3,)"),
        (lambda: tanh_backward(torch.ones(3).long(), normal(3)), TypeError, "floating-point, not torch.int64"),
        (lambda: batchnorm_backward(normal(3), normal(3), normal(3), normal(3)), ValueError, "grad (..., C)"),
        (lambda: batchnorm_backward(normal(4, 3), normal(4, 3), normal(1, 3), normal(3)), ValueError, "(1, 3) and (3,)"),
        (lambda: batchnorm_backward(normal(4, 3), normal(4, 3), normal(3), normal(4)), ValueError, "(3,) and (4,)"),
        (lambda: batchnorm_backward(normal(4, 3), normal(3, 4), normal(3), normal(3)), ValueError, "(4, 3), (3, 4)"),
        (lambda: cross_entropy_backward(1.0, normal(4, 3), torch.ones(3).long()), ValueError, "(4, 3) and (3,)"),
        (lambda: cross_entropy_backward(1.0, normal(0, 3), torch.ones(0).long()), ValueError, "not empty"),
        (lambda: cross_entropy_backward(1.0, normal(4, 3), torch.ones(4)), TypeError, "int64, not torch.float32"),
        (lambda: cross_entropy_backward(1.0, normal(2, 3), torch.tensor([0, 3])), IndexError, "0 to 2, and run from 0 to 3"),
        (lambda: cross_entropy_backward(1.0, normal(2, 3), torch.tensor([-1, 2])), IndexError, "run from -1 to 2"),
        (lambda: cross_entropy_backward(normal(2), normal(2, 3), torch.tensor([0, 1])), ValueError, "its grad is (2,)"),
        (lambda: embedding_backward(normal(2, 3), torch.ones(3).long(), 5), ValueError, "(2, 3) and (3,)"),
        (lambda: embedding_backward(normal(2, 3), torch.tensor([0, 5]), 5), IndexError, "0 to 4, and run from 0 to 5"),
        (lambda: embedding_backward(normal(2, 3), torch.tensor([-1, 0]), 5), IndexError, "run from -1 to 0"),
        (lambda: embedding_backward(normal(2, 3), [0, 1], 5), TypeError, "int64, not list"),
        (lambda: embedding_backward(normal(2, 3), torch.tensor([0, 1]), -1), ValueError, "at least 1, not -1"),
        (lambda: embedding_backward(normal(2, 3), torch.tensor([0, 1]), 2.5), ValueError, "at least 1, not 2.5"),
        (lambda: cross_entropy_backward("a", normal(2, 3), torch.tensor([0, 1])), TypeError, "a number, not str"),
        (lambda: compare_gradients({"a": normal(2)}), ValueError, "at least one gradient"),
        (
            lambda: grade_gradient(MATRIX, MATRIX, {"one": MATRIX.T}),
            ValueError,
            "The part of one must have the gradient's shape (6, 4), not (4, 6)",
        ),
        (lambda: compare_gradients({"a": normal(2)}, b=None), KeyError, "No gradient 'b' among a"),
        (lambda: compare_gradients({"a": None}, a=normal(2)), TypeError, "retain_grad() is called before backward()"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_at_the_door(call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call()


# ---- the grader ----

B, C = 6, 4
MATRIX = normal(B, C, seed=1)
ROW = MATRIX.sum(0)


@given(leading.filter(bool), seeds, st.sampled_from([torch.float32, torch.float64]))
def test_what_is_right_is_called_right(lead, seed, dtype):
    expected = normal(*lead, seed=seed).to(dtype)
    noise = 1e-7 * expected.abs().max() * normal(*lead, seed=seed + 1).clamp(-1, 1).to(dtype)
    assert grade_gradient(expected, expected) == grade_gradient(expected + noise, expected) == "right"


@given(st.integers(2, 300), st.booleans(), seeds)
def test_a_wrong_scale_is_named(n, negative, seed):
    expected, sign = normal(5, 3, seed=seed).float(), -1 if negative else 1
    said = "the sign is wrong, and " if negative else ""
    assert grade_gradient(sign * n * expected, expected) == f"{said}{n} times too large: is the mean's 1/n missing?"
    assert grade_gradient(sign * expected / n, expected).startswith(f"{said}{n} times too small: ")
    if n > 2:  # 2 / 1 is simply twice
        bessel = grade_gradient(sign * expected * n / (n - 1), expected)
        assert bessel == f"{said}{n}/{n - 1} times too large: 1/{n - 1} instead of 1/{n}?"
        assert f"{n}/{n - 1} times too small" in grade_gradient(sign * expected * (n - 1) / n, expected)


@given(seeds)
def test_a_wrong_sign_is_named_whatever_the_rounding(seed):
    expected = normal(5, 3, seed=seed)
    wrong = -expected * (1 + 1e-7 * normal(5, 3, seed=seed + 1))
    assert grade_gradient(wrong, expected) == "the sign is wrong"
    assert grade_gradient(wrong.float(), expected.float()) == "the sign is wrong"


@pytest.mark.parametrize("factor", [723.4, 1.0003, 1.00003, 0.9997, 0.3, 1 / 723.4])
def test_an_odd_factor_is_no_whole_number(factor):
    said = f"{factor:.6g} times as large as it should be"
    assert grade_gradient(MATRIX * factor, MATRIX) == said
    negative = "the sign is wrong" + (f", and {said}" if abs(factor - 1) > 1e-4 else "")
    assert grade_gradient(MATRIX * -factor, MATRIX) == negative


def test_the_floor_can_be_lowered_for_small_gradients():
    small = 1e-6 * MATRIX / MATRIX.abs().max()
    assert grade_gradient(small * 32 / 31, small) == "right"
    assert grade_gradient(small * 32 / 31, small, floor=0).startswith("32/31 times too large")
    assert compare_gradients({"a": small}, a=small * 32 / 31).close
    assert not compare_gradients({"a": small}, floor=0, a=small * 32 / 31).close
    assert grade_gradient(small, 0 * small, floor=0) == "it should be zero, and is up to 1.0e-06"


def test_the_shape_of_the_transpose_is_not_yet_the_transpose():
    assert grade_gradient(normal(4, 6, seed=8), MATRIX).startswith(
        "it has the shape of the transpose, and transposed it is wrong, most at ["
    )


@pytest.mark.parametrize(
    ("attempt", "expected", "verdict"),
    [
        (None, MATRIX, "not yet"),
        (1.0, MATRIX, "not a tensor but float"),
        (MATRIX.T, MATRIX, "transposed"),
        (MATRIX[:4].T, MATRIX[:4], "transposed"),  # square: only the numbers tell
        (-MATRIX.T, MATRIX, "transposed, and then the sign is wrong"),
        (-MATRIX, MATRIX, "the sign is wrong"),
        (0 * MATRIX, MATRIX, "it is zero everywhere"),
        (MATRIX / 2, MATRIX, "2 times too small: the slope of x**2 is 2 * x"),
        (MATRIX / 6, MATRIX, "6 times too small: one 1/n too many?"),
        (MATRIX * 0.3, MATRIX, "0.3 times as large as it should be"),
        (MATRIX, ROW, "not summed over the batch: (6, 4), not (4,)"),
        (MATRIX, ROW[None], "not summed over the batch: (6, 4), not (1, 4)"),
        (MATRIX, MATRIX.sum(1, keepdim=True), "not summed over axis 1: (6, 4), not (6, 1)"),
        (MATRIX.view(2, 3, 4), ROW, "not summed over axis 0, 1: (2, 3, 4), not (4,)"),
        (-MATRIX, ROW, "not summed over the batch: (6, 4), not (4,); and after that sum, the sign is wrong"),
        (ROW, ROW[None], "the numbers are right, but it has the shape (4,) instead of (1, 4): use view or keepdim"),
        (ROW, ROW.expand(6, 4), "the numbers are right, but it has the shape (4,) instead of (6, 4): copy them with expand"),
        (normal(3), MATRIX, "it has the shape (3,) instead of (6, 4)"),
        (normal(4), MATRIX, "it has the shape (4,) instead of (6, 4)"),
        (MATRIX / 0, MATRIX, "it holds infinities or nan: a division by zero?"),
        (MATRIX, 1e-12 * MATRIX, f"it should be zero, and is up to {MATRIX.abs().max():.1e}"),
    ],
)  # fmt: skip
def test_each_mistake_gets_its_own_words(attempt, expected, verdict):
    assert grade_gradient(attempt, expected) == verdict


def test_an_unexplained_mistake_is_located():
    wrong = MATRIX.clone()
    wrong += 0.01 * normal(B, C, seed=9)
    wrong[2, 3] = 7
    assert grade_gradient(wrong, MATRIX).startswith("wrong, most at [2, 3]: 7 instead of ")


def test_forgotten_branches_are_named():
    parts = {name: normal(3, 2, seed=seed) for seed, name in enumerate("abc")}
    whole = sum(parts.values())
    assert grade_gradient(whole, whole, parts) == "right"
    assert grade_gradient(parts["a"] + parts["c"], whole, parts) == "the part of b is missing: add up all uses"
    assert grade_gradient(parts["b"], whole, parts) == "the part of a and c is missing: add up all uses"


@given(seeds)
def test_an_embedding_that_overwrites_is_found(seed):
    indices = torch.tensor([[0, 0, 1], [0, 2, 3], [4, 2, 5]])
    grad = normal(3, 3, 2, seed=seed)
    lost = torch.zeros(7, 2, dtype=torch.float64)
    lost[indices.flatten()] = grad.view(-1, 2)
    assert grade_gradient(lost, embedding_backward(grad, indices, 7)) == "wrong in rows 0, 2, right in all others"


def test_the_table():
    expected = {"W": MATRIX, "b": ROW, "g": ROW}
    near = MATRIX + 1e-9
    table = compare_gradients(expected, W=near, b=ROW, g=None)
    assert isinstance(table, GradientTable) and not table.close and not table.exact
    assert [row.verdict for row in table] == ["right", "right", "not yet"]
    assert [(row.exact, row.close) for row in table] == [(False, True), (True, True), (False, False)]
    assert math.isclose(table[0].difference, 1e-9, rel_tol=1e-3) and math.isnan(table[2].difference)
    assert [line.split() for line in repr(table).split("\n")] == [
        ["shape", "equal", "difference"],
        ["W", "(6,", "4)", "close", "1.0e-09", "right"],
        ["b", "(4,)", "exact", "0", "right"],
        ["g", "(4,)", "no", "-", "not", "yet"],
    ]
    assert compare_gradients(expected, W=near, b=ROW).close
    assert compare_gradients(expected, b=ROW).exact
    half = compare_gradients(expected, {"W": {"one": MATRIX / 3, "two": 2 * MATRIX / 3}}, W=MATRIX + near)
    assert half[0].verdict == "2 times too large: is the mean's 1/n missing?"


def test_gradients_that_autograd_still_follows_can_be_compared():
    expected = leaf(3, 2, seed=0)
    assert compare_gradients({"x": expected}, x=expected * 1).exact


# ---- the code that the figure shows ----


def test_the_lines_of_the_figure_compute_what_autograd_computes():
    nodes = json.loads((ROOT / "widgets/backprop.json").read_text(encoding="utf-8"))["nodes"]
    n, V, D, H = 16, 27, 10, 12
    shapes = {"C": (V, D), "W1": (3 * D, H), "b1": (H,), "W2": (H, V), "b2": (V,), "bngain": (1, H), "bnbias": (1, H)}
    space = {name: normal(*shape, seed=seed).requires_grad_() for seed, (name, shape) in enumerate(shapes.items())}
    space |= {"torch": torch, "F": F, "n": n, "V": V, "D": D}
    space |= {"x": integers(V, (n, 3), 0), "y": integers(V, (n,), 1)}
    assert all(len(node["forward"]) == (node["name"] not in shapes) for node in nodes)
    waiting = [node for node in nodes if node["name"] not in shapes]
    while waiting:
        ready = []
        for node in waiting:
            names = {each["name"] for each in waiting} - {node["name"]}
            if not names & set(re.findall(r"\w+", node["forward"][0].partition("=")[2])):
                exec(node["forward"][0], space)
                space[node["name"]].retain_grad()
                ready.append(node)
        assert ready, f"nothing can be computed next among {[node['name'] for node in waiting]}"
        waiting = [node for node in waiting if node not in ready]
    space["loss"].backward()
    with torch.no_grad():
        for node in nodes[1:]:
            for line in node["backward"]:
                exec(line, space)
    expected = {node["name"]: space[node["name"]].grad for node in nodes[1:]}
    table = compare_gradients(expected, **{name: space[f"d{name}"] for name in expected})
    assert len(table) == 26 and table.close, table


def test_the_lines_of_the_figure_stand_in_the_chapter():
    nodes = json.loads((ROOT / "widgets/backprop.json").read_text(encoding="utf-8"))["nodes"]
    cells = json.loads((ROOT / "nbs/05-backprop.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = {line.rstrip("\n") for cell in cells if cell["cell_type"] == "code" for line in cell["source"]}
    shown = [line for node in nodes for line in node["forward"] + node.get("backward", [])]
    assert len(shown) > 40 and [line for line in shown if line not in lines] == []
