"""zerohero.autograd against PyTorch, against central differences, and at the edges."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zerohero.autograd import (
    Layer,
    Neuron,
    ScalarMLP,
    Tensor,
    Value,
    check_gradients,
    draw_graph,
    topological_order,
    two_moons,
    weighted_sum,
)

BINARY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / (b * b + 1),
    "**": lambda a, b: (a * a + 0.5) ** b,
}
UNARY = {
    "tanh": lambda a: a.tanh(),
    "sigmoid": lambda a: a.sigmoid(),
    "relu": lambda a: a.relu(),
    "exp": lambda a: a.tanh().exp(),
    "log": lambda a: (a * a + 1).log(),
    "square": lambda a: a**2,
    "neg": lambda a: -a,
    "reflected": lambda a: 2 - 3 / (2 + a * a) + 1.5 ** a.tanh(),
}
expressions = st.recursive(
    st.integers(0, 2),
    lambda inner: (
        st.tuples(st.sampled_from(sorted(BINARY)), inner, inner) | st.tuples(st.sampled_from(sorted(UNARY)), inner)
    ),
    max_leaves=12,
)


def evaluate(expression, leaves):
    if isinstance(expression, int):
        return leaves[expression]
    op, *inputs = expression
    return (BINARY | UNARY)[op](*(evaluate(e, leaves) for e in inputs))


@settings(max_examples=300, deadline=None)
@given(expressions, st.lists(st.floats(-2, 2).filter(lambda x: abs(x) > 1e-3), min_size=3, max_size=3))
def test_random_expressions_agree_with_torch(expression, numbers):
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers]
    theirs = evaluate(expression, leaves) * 1.0
    theirs.backward()
    gradients = [0.0 if t.grad is None else t.grad.item() for t in leaves]
    assume(all(abs(x) < 1e100 for x in [theirs.item(), *gradients]))
    values = [Value(x) for x in numbers]
    ours = evaluate(expression, values) * 1.0
    ours.backward()
    assert math.isclose(ours.data, theirs.item(), rel_tol=1e-9, abs_tol=1e-9)
    for v, g in zip(values, gradients):
        assert math.isclose(v.grad, g, rel_tol=1e-7, abs_tol=1e-7)


@pytest.mark.parametrize(
    "x",
    [
        0.0,
        -0.0,
        1e-300,
        -1e-300,
        1.0,
        -20.0,
        40.0,
        -745.0,
        709.0,
        710.0,
        1e5,
        -1e5,
        1e308,
        -1e308,
        math.inf,
        -math.inf,
        math.nan,
    ],
)
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "exp", "relu"])
def test_functions_at_extremes_are_torchs(name, x):
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    theirs = getattr(torch, name)(t)
    theirs.backward()
    v = Value(x)
    ours = getattr(v, name)()
    ours.backward()
    assert ours.data == pytest.approx(theirs.item(), rel=1e-12, abs=1e-300, nan_ok=True)
    if name == "sigmoid":  # torch's slope y (1 - y) is 0 where 1 - y is rounded to 0, ours keeps its digits
        assert v.grad == pytest.approx(t.grad.item(), rel=1e-6, abs=1e-15, nan_ok=True)
    else:
        assert v.grad == pytest.approx(t.grad.item(), rel=1e-12, abs=1e-300, nan_ok=True)


def test_log_of_extremes():
    for x in (5e-324, 1e-308, 1e308, math.inf):
        assert Value(x).log().data == math.log(x)
    assert math.isnan(Value(math.nan).log().data)
    for x in (0, -1, -math.inf):
        with pytest.raises(ValueError, match="positive"):
            Value(x).log()


def test_powers_at_the_edges():
    assert (Value(1e200) ** 2).data == math.inf and (Value(-1e200) ** 3).data == -math.inf
    assert (Value(-2) ** 3).data == -8 and (Value(0) ** 0).data == 1
    x = Value(0.0)
    (x**2 + x**1 + x**0).backward()
    assert x.grad == 1
    for k, reason in ((-1, r"0 \*\* -1 has no finite value"), (0.5, r"0 \*\* 0.5 has no finite slope")):
        with pytest.raises(ZeroDivisionError, match=reason):
            Value(0) ** k
    with pytest.raises(ValueError, match="is not real"):
        Value(-2) ** 0.5
    for base in (0, -2):
        with pytest.raises(ValueError, match="positive base"):
            base ** Value(2)
    assert check_gradients(lambda a, b: a**b, 2.5, -1.5) < 1e-8


def test_division_by_zero():
    for divide in (lambda: Value(1) / 0, lambda: 1 / Value(0.0), lambda: Value(0) / Value(-0.0)):
        with pytest.raises(ZeroDivisionError, match="cannot be divided by zero"):
            divide()


def test_nan_is_passed_on():
    x, y = Value(math.nan), Value(2.0)
    (x * y + y).backward()
    assert math.isnan(y.grad) and x.grad == 2


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.float64(2), np.int64(2), Fraction(2)])
def test_numbers_of_all_kinds(number):
    x = Value(3.0)
    for result, expected in (
        (x + number, 5),
        (number + x, 5),
        (x - number, 1),
        (number - x, -1),
        (x * number, 6),
        (number * x, 6),
        (x / number, 1.5),
        (number / x, 2 / 3),
        (x**number, 9),
        (number**x, 8),
    ):
        assert isinstance(result, Value) and type(result.data) is float and math.isclose(result.data, expected)


def test_booleans_are_numbers():
    assert Value(True).data == 1.0 and (Value(3.0) + True).data == 4.0 and (False * Value(3.0)).data == 0.0


@pytest.mark.parametrize("wrong", ["3", b"3", None, 1j, [1.0], object()])
def test_anything_else_is_refused(wrong):
    with pytest.raises(TypeError, match="A Value holds a real number"):
        Value(wrong)
    for operation in (lambda: Value(1) + wrong, lambda: Value(1) ** wrong):
        with pytest.raises(TypeError):
            operation()


def test_gradients_accumulate_in_inputs_only():
    x = Value(3.0)
    middle = x * 2
    y = middle * middle
    y.backward()
    assert (x.grad, middle.grad, y.grad) == (24, 12, 1)
    y.backward()
    assert (x.grad, middle.grad, y.grad) == (48, 12, 1)
    x.backward()
    assert x.grad == 49


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=60))
def test_topological_order(edges):
    values = [Value(1.0)]
    for i, j in edges:
        values.append(values[i % len(values)] + values[j % len(values)])
    order = topological_order(values[-1])
    position = {v: k for k, v in enumerate(order)}
    assert len(position) == len(order) and order[-1] is values[-1]
    assert all(position[i] < position[v] for v in order for i in v.inputs)


def test_deep_graphs():
    x = y = Value(1.0)
    for _ in range(100_000):
        y = y + 1e-5
    y.backward()
    assert x.grad == 1 and math.isclose(y.data, 2)
    del y  # a long chain must also be freed without recursion


def test_shared_graphs_are_walked_once():
    y = Value(1.0)
    for _ in range(200):
        y = y + y
    y.backward()
    assert topological_order(y)[0].grad == 2.0**200


def test_check_gradients_finds_a_wrong_slope():
    assert check_gradients(lambda a: Value(a.data**2, inputs=(a,), slopes=(a.data,)), 3.0) > 0.4
    assert check_gradients(lambda a: a**2, 3.0) < 1e-8


def test_check_gradients_passes_no_nan():
    assert math.isnan(check_gradients(lambda a: a * math.nan, 1.0))
    assert math.isnan(check_gradients(lambda a, b: a.exp() + b, 800.0, 1.0))


def test_weighted_sum_is_the_sum_of_products():
    rng = random.Random(0)
    w, x, b = ([Value(rng.gauss(0, 1)) for _ in range(n)] for n in (5, 5, 1))
    fused, plain = weighted_sum(w, x, *b), sum((p * q for p, q in zip(w, x)), b[0])
    fused.backward()
    gradients = [v.grad for v in w + x + b]
    for v in w + x + b:
        v.grad = 0.0
    plain.backward()
    assert math.isclose(fused.data, plain.data) and gradients == pytest.approx([v.grad for v in w + x + b])


def test_weighted_sum_at_the_edges():
    w, x, b = [Value(1e200), Value(-1.0)], [Value(1e200), Value(math.inf)], Value(0.0)
    assert math.isnan(weighted_sum(w, x, b).data) and weighted_sum(w[:1], x[:1], b).data == math.inf
    with pytest.raises(ValueError, match="2 weights take 2 inputs, not 3"):
        weighted_sum(w, [*x, b], b)
    with pytest.raises(OverflowError, match="too large for a float"):
        Value(10**400)


def test_networks():
    model = ScalarMLP([2, 16, 16, 1], rng=random.Random(0))
    same = ScalarMLP([2, 16, 16, 1], rng=random.Random(0))
    assert len(model.parameters()) == 337 and [p.data for p in model.parameters()] == [
        p.data for p in same.parameters()
    ]
    model([1, 2.5])[0].backward()
    assert any(p.grad for p in model.parameters())
    model.zero_grad()
    assert not any(p.grad for p in model.parameters())
    with pytest.raises(ValueError, match="2 weights take 2 inputs, not 3"):
        model([1, 2, 3])
    for sizes in ([], [2], [2, -1]):
        with pytest.raises(ValueError, match="two sizes or more"):
            ScalarMLP(sizes)
    for wrong in ((0,), (2, "gelu")):
        with pytest.raises(ValueError, match="at least one input"):
            Neuron(*wrong)
    assert [len(Layer(3, 4).parameters()), len(Layer(3, 4)([Value(1.0)] * 3))] == [16, 4]
    assert check_gradients(lambda *x: ScalarMLP([3, 4, 1], "tanh", random.Random(1))(x)[0], 0.1, -0.4, 0.7) < 1e-8


def test_two_moons():
    with pytest.raises(ValueError, match="0 points"):
        two_moons(0)
    points, labels = two_moons(50, noise=0, rng=random.Random(0))
    assert sorted(set(labels)) == [-1, 1] and sum(labels) == 0
    for (x, y), label in zip(points, labels):
        centre = (0, 0) if label > 0 else (1, 0.5)
        assert math.isclose(math.dist((x, y), centre), 1) and (y >= 0 if label > 0 else y <= 0.5)


def test_draw_graph():
    a, b = Value(2, label="a"), Value(3, label="b")
    y = (a * b + a).tanh()
    y.backward()
    figure = draw_graph(y, "title")
    texts = [t.get_text() for t in figure.axes[0].texts if t.get_text()]
    assert len(texts) == 5 and f"a\ndata 2\ngrad {a.grad:.4g}" in texts
    for _ in range(60):
        y = y + 1
    with pytest.raises(ValueError, match="at most 60"):
        draw_graph(y)


shapes = st.sampled_from([(), (1,), (3,), (2, 3), (2, 1), (1, 3), (4, 2, 3), (1, 1, 1)])


@given(shapes, shapes, st.integers(0, 1000))
def test_tensor_broadcasting_agrees_with_torch(left, right, seed):
    rng = np.random.default_rng(seed)
    arrays = rng.normal(size=left), rng.normal(size=right)
    ours, theirs = [Tensor(a) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    for a, b in (ours, theirs):
        ((a + b) * a * b + a).relu().sum().backward()
    for o, t in zip(ours, theirs):
        assert o.grad.shape == o.data.shape and np.allclose(o.grad, t.grad, atol=1e-12)


def test_tensor_products_of_stacks_agree_with_torch():
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(4, 2, 3)), rng.normal(size=(3, 5))
    ours, theirs = [Tensor(a) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    for a, b in (ours, theirs):
        (a @ b).sum().backward()
    for o, t in zip(ours, theirs):
        assert np.allclose(o.grad, t.grad, atol=1e-12)
    x = Tensor(arrays[0])
    (x @ arrays[1]).sum().backward()
    assert np.allclose(x.grad, ours[0].grad)


def test_tensor_networks_agree_with_torch():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in ((7, 3), (3, 5), (5,), (5, 2))]
    ours, theirs = [Tensor(a) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    for x, w, b, v in (ours, theirs):
        for _ in range(2):  # twice, so that accumulation is tested too
            ((x @ w + b).relu() @ v).sum().backward()
    for o, t in zip(ours, theirs):
        assert np.allclose(o.grad, t.grad, atol=1e-12)
