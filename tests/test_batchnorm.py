"""zerohero.batchnorm: the layers against torch's, and the instruments on other people's models."""

import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zerohero.batchnorm import (
    BatchNorm1d,
    Embedding,
    Linear,
    Sequential,
    Tanh,
    activation_stats,
    gradient_stats,
    update_ratios,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers(*shape, seed=0, scale=1.0, offset=0.0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64) * scale + offset


# ------------------------------------------------------------ BatchNorm1d


def pair(channels, eps=1e-5, momentum=0.1):
    """Our layer and torch's, in double precision, with the same weights."""
    ours, theirs = BatchNorm1d(channels, eps, momentum).double(), nn.BatchNorm1d(channels, eps, momentum).double()
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight.copy_(numbers(channels, seed=1))
            layer.bias.copy_(numbers(channels, seed=2))
    return ours, theirs


def channels_second(x):
    return x if x.ndim == 2 else x.transpose(1, 2)


SHAPES = st.one_of(
    st.tuples(st.integers(2, 9), st.integers(1, 6)), st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(1, 6))
)


@settings(deadline=None)
@given(SHAPES, st.sampled_from([1e-5, 1e-3, 0.5]), st.sampled_from([0.0, 0.001, 0.1, 1.0]), st.integers(0, 99))
def test_batchnorm_is_torchs(shape, eps, momentum, seed):
    ours, theirs = pair(shape[-1], eps, momentum)
    for step in range(4):
        if step == 3:
            ours.eval(), theirs.eval()
        a = numbers(*shape, seed=seed + step, scale=3, offset=-2).requires_grad_()
        b = a.detach().clone().requires_grad_()
        mine, expected = ours(a), channels_second(theirs(channels_second(b)))
        back = numbers(*shape, seed=seed + 50)
        for layer in (ours, theirs):
            layer.zero_grad()
        mine.backward(back), expected.backward(back)
        assert torch.allclose(mine, expected, atol=1e-9) and torch.allclose(a.grad, b.grad, atol=1e-9)
        for name in ("weight", "bias"):
            assert torch.allclose(getattr(ours, name).grad, getattr(theirs, name).grad, atol=1e-9)
        for name in ("running_mean", "running_var"):
            assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-9)


@settings(deadline=None)
@given(SHAPES, st.integers(0, 99))
def test_batchnorm_is_its_formula(shape, seed):
    x = numbers(*shape, seed=seed, scale=2, offset=1)
    ours, _ = pair(shape[-1])
    rows = x.reshape(-1, shape[-1])
    mean, var = rows.mean(0), rows.var(0, correction=0)
    expected = ours.weight * (x - mean) / (var + ours.eps).sqrt() + ours.bias
    assert torch.allclose(ours(x), expected, atol=1e-9)
    assert torch.allclose(ours.running_mean, 0.1 * mean) and torch.allclose(ours.running_var, 0.9 + 0.1 * rows.var(0))


def test_gradients_by_finite_differences():
    ours, _ = pair(3)
    x = numbers(5, 3, scale=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: ours(v), (x,))
    assert torch.autograd.gradcheck(lambda v: ours(v), (numbers(3, 2, 3).requires_grad_(),))


def test_evaluation_uses_and_keeps_the_running_statistics():
    layer = BatchNorm1d(4)
    for seed in range(5):
        layer(numbers(16, 4, seed=seed, offset=3).float())
    layer.eval()
    kept = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    x = numbers(6, 4, seed=9).float()
    together = layer(x)
    one_by_one = torch.cat([layer(x[i : i + 1]) for i in range(6)])
    assert torch.allclose(together, one_by_one, atol=1e-6)
    assert layer(x[:0]).shape == (0, 4)
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, kept[name])


def test_examples_are_coupled_in_training_only():
    layer, x = BatchNorm1d(2).double(), numbers(4, 2)
    other = x.clone()
    other[3] += 1
    assert not torch.allclose(layer(x)[0], layer(other)[0], atol=1e-3)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(other)[0])


@pytest.mark.parametrize("constant", [0.0, 2.0, -0.75, 1024.0])
def test_a_constant_channel_gives_the_bias(constant):
    layer = BatchNorm1d(2)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.25, -3.0]))
    x = torch.full((8, 2), constant, requires_grad=True)
    out = layer(x)
    rounding = 1e-4 * abs(constant)  # none at zero, which is what a dead ReLU gives
    assert (out - layer.bias).abs().max() <= rounding
    (out * torch.arange(16.0).view(8, 2)).sum().backward()
    assert x.grad.isfinite().all() and layer.weight.grad.isfinite().all()


def test_float_and_half_precision_stay_what_they_are():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert BatchNorm1d(3).to(dtype)(torch.ones(4, 3, dtype=dtype)).dtype == dtype


def test_noncontiguous_input():
    x = numbers(5, 4, 3)
    ours, _ = pair(5)
    assert torch.allclose(ours(x.permute(1, 2, 0)), ours(x.permute(1, 2, 0).contiguous()))


def test_batchnorm_refuses_what_it_cannot_do():
    layer = BatchNorm1d(3)
    for shape in ((4, 2), (3,), (2, 3, 4), (2, 2, 2, 3), ()):
        with pytest.raises(ValueError, match=r"Expected \(B, 3\) or \(B, T, 3\), the channels last, not"):
            layer(torch.zeros(shape))
    with pytest.raises(TypeError, match=r"Cannot normalise torch.int64; embed the numbers, or call .float\(\)"):
        layer(torch.zeros(4, 3, dtype=torch.int64))
    for shape in ((1, 3), (1, 1, 3), (0, 3)):
        with pytest.raises(ValueError, match=r"A batch of [01] has no variance.*call .eval\(\)"):
            layer(torch.zeros(shape))
    assert layer.eval()(torch.zeros(1, 3)).shape == (1, 3)
    assert BatchNorm1d(3)(torch.zeros(1, 2, 3)).shape == (1, 2, 3)
    for eps in (0, -1e-5):
        with pytest.raises(ValueError, match=f"eps must be positive, not {eps}"):
            BatchNorm1d(3, eps=eps)
    for momentum in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="momentum must be between 0 and 1"):
            BatchNorm1d(3, momentum=momentum)
    with pytest.raises(ValueError, match="no layer of 0 channels"):
        BatchNorm1d(0)


def test_running_statistics_are_saved_with_the_model():
    one, other = BatchNorm1d(3), BatchNorm1d(3)
    one(numbers(9, 3).float())
    assert list(one.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    other.load_state_dict(one.state_dict())
    x = numbers(2, 3, seed=5).float()
    assert torch.equal(one.eval()(x), other.eval()(x))


# ------------------------------------------------------------ the other layers


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.lists(st.integers(1, 4), min_size=0, max_size=3))
def test_linear_is_torchs(fan_in, fan_out, bias, batch):
    ours, theirs = Linear(fan_in, fan_out, bias, generator=seeded()), nn.Linear(fan_in, fan_out, bias)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.T)
        if bias:
            ours.bias.copy_(theirs.bias)
    x = torch.randn(*batch, fan_in, generator=seeded(1))
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("gain", [0.5, 1.0, 5 / 3])
def test_linear_starts_with_its_gain(gain):
    layer = Linear(400, 300, gain=gain, generator=seeded())
    assert abs(layer.weight.std() * 20 / gain - 1) < 0.01
    assert layer.bias.abs().max() == 0 and Linear(4, 3, bias=False).bias is None
    assert torch.equal(layer.weight, Linear(400, 300, gain=gain, generator=seeded()).weight)


def test_layers_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="widths 0 and 3"):
        Linear(0, 3)
    with pytest.raises(ValueError, match=r"takes 4 numbers on the last axis, not the shape \(2, 5\)"):
        Linear(4, 3)(torch.zeros(2, 5))


def test_embedding_and_sequential():
    embedding = Embedding(5, 3, seeded())
    x = torch.tensor([[0, 4], [2, 2]])
    assert torch.equal(embedding(x), embedding.weight[x])
    model = Sequential(embedding, nn.Flatten(), Linear(6, 2), Tanh())
    by_hand = torch.tanh(embedding.weight[x].view(2, 6) @ model.layers[2].weight + model.layers[2].bias)
    assert torch.allclose(model(x), by_hand)
    assert [name for name, _ in model.named_parameters()] == ["layers.0.weight", "layers.2.weight", "layers.2.bias"]
    assert Sequential()(x) is x


# ------------------------------------------------------------ the instruments


def ours():
    g = seeded()
    layers = [Linear(6, 8, generator=g), BatchNorm1d(8), Tanh(), Linear(8, 8, generator=g), Tanh()]
    return Sequential(Embedding(5, 3, g), nn.Flatten(), *layers, Linear(8, 5, generator=g))


def torchs():
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 5)]
    return nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), *layers)


QUESTIONS = torch.randint(5, (16, 2), generator=seeded(3))
ANSWERS = torch.randint(5, (16,), generator=seeded(4))


def portrait(model):
    """All that the instruments must leave alone."""
    return {
        "mode": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()],
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "same tensors": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires": [p.requires_grad for p in model.parameters()],
        "random": torch.get_rng_state(),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a == b


@pytest.mark.parametrize("make", [ours, torchs])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grads", [True, False])
def test_the_model_is_left_as_it_was(make, training, grads):
    model = make().train(training)
    if grads:
        F.cross_entropy(model(QUESTIONS), ANSWERS).backward()
    before = portrait(model)
    activation_stats(model, QUESTIONS)
    assert same(before, portrait(model))
    gradient_stats(model, QUESTIONS, ANSWERS)
    assert same(before, portrait(model))


@pytest.mark.parametrize("make", [ours, torchs])
def test_the_model_is_left_as_it_was_when_it_fails(make):
    model = make()
    before = portrait(model)
    wrong = torch.full((4, 2), 7)  # there is no such row in the embedding
    for measure in (lambda: activation_stats(model, wrong), lambda: gradient_stats(model, wrong, ANSWERS[:4])):
        with pytest.raises(IndexError):
            measure()
        assert same(before, portrait(model))
    with pytest.raises(ValueError, match="batch_size"):
        gradient_stats(model, QUESTIONS, ANSWERS[:3])
    assert same(before, portrait(model))


@pytest.mark.parametrize("make", [ours, torchs])
def test_the_statistics_are_those_of_the_outputs_and_their_gradients(make):
    model, outputs = make().eval(), {}
    x = QUESTIONS
    for name, layer in (model.layers if hasattr(model, "layers") else model).named_children():
        x = layer(x)
        x.retain_grad()
        outputs[f"layers.{name}" if hasattr(model, "layers") else name] = x
        x = x.clone()  # so that a layer that works in place leaves what we keep alone
    F.cross_entropy(x, ANSWERS).backward()
    model.zero_grad()
    forward, backward = activation_stats(model, QUESTIONS), gradient_stats(model, QUESTIONS, ANSWERS)
    assert list(forward) == list(outputs) == list(backward)
    for name, output in outputs.items():
        values = output.detach()
        s = forward[name]
        assert torch.allclose(s.values, values, atol=1e-6) and not s.values.requires_grad
        assert math.isclose(s.mean, values.mean(), abs_tol=1e-6)
        assert math.isclose(s.std, values.std(correction=0), abs_tol=1e-6)
        assert math.isclose(s.saturated, (values.abs() > 0.97).float().mean(), abs_tol=1e-6)
        assert math.isclose(s.zeros, (values == 0).float().mean(), abs_tol=1e-6)
        g = backward[name]
        assert torch.allclose(g.values, output.grad, atol=1e-7) and g.saturated is None
        assert math.isclose(g.std, output.grad.std(correction=0), abs_tol=1e-7)


def test_kinds_and_threshold_choose():
    model = ours()
    assert list(activation_stats(model, QUESTIONS, Tanh)) == ["layers.4", "layers.6"]
    assert list(gradient_stats(model, QUESTIONS, ANSWERS, (Tanh, BatchNorm1d))) == ["layers.3", "layers.4", "layers.6"]
    for threshold in (0.0, 0.5, 2.0):
        s = activation_stats(model, QUESTIONS, Tanh, threshold)["layers.4"]
        assert s.saturated == pytest.approx((s.values.abs() > threshold).float().mean().item())
    assert list(activation_stats(model, QUESTIONS, Sequential)) == ["Sequential"], "a kind need not be a leaf"


def test_training_mode_is_measured_with_the_batchs_statistics():
    model = ours()
    (s,) = activation_stats(model, QUESTIONS, BatchNorm1d).values()
    assert torch.allclose(s.values.mean(0), torch.zeros(8), atol=1e-5)
    (s,) = activation_stats(model.eval(), QUESTIONS, BatchNorm1d).values()
    assert s.values.mean(0).abs().max() > 1e-3


class Odd(nn.Module):
    """Calls one module twice, another not at all, and returns a tuple from a third."""

    def __init__(self):
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(5, 4), nn.LSTM(4, 4, batch_first=True)
        self.shared, self.tanh, self.idle = nn.Linear(4, 4), nn.Tanh(), nn.Linear(2, 2)
        self.head, self.aside = nn.Linear(4, 5), nn.Linear(4, 3)

    def forward(self, x, scale=1.0):
        h, _ = self.rnn(self.embedding(x))
        h = self.tanh(self.shared(self.tanh(self.shared(h[:, -1] * scale))))
        self.aside(h)  # the loss does not depend on it
        return self.head(h)


def test_odd_models():
    torch.manual_seed(0)
    model = Odd()
    expected = ["embedding", "rnn", "shared", "tanh", "shared (call 2)", "tanh (call 2)", "aside", "head"]
    forward, backward = activation_stats(model, QUESTIONS), gradient_stats(model, QUESTIONS, ANSWERS)
    assert list(forward) == list(backward) == expected
    assert forward["rnn"].values.shape == (16, 2, 4) == backward["rnn"].values.shape
    assert backward["aside"].zeros == 1 and backward["aside"].std == 0 < backward["head"].std
    first, second = forward["tanh"].values, forward["tanh (call 2)"].values
    assert torch.allclose(second, torch.tanh(model.shared(first)), atol=1e-6)
    doubled = activation_stats(model, (QUESTIONS, 2.0))
    assert torch.equal(doubled["rnn"].values, forward["rnn"].values)
    assert not torch.allclose(doubled["shared"].values, forward["shared"].values)


def test_a_module_under_two_names_is_one_module():
    tanh = nn.Tanh()
    model = nn.Sequential(nn.Linear(3, 3), tanh, nn.Linear(3, 3), tanh)
    assert list(activation_stats(model, torch.ones(2, 3), nn.Tanh)) == ["1", "1 (call 2)"]


def test_outputs_that_are_dicts_or_no_numbers():
    class Dictionary(nn.Module):
        def forward(self, x):
            return {"mask": x > 0, "logits": x * 2}

    class Numbers(nn.Module):
        def forward(self, x):
            return x["logits"].argmax(1)

    model = nn.Sequential(nn.Linear(3, 3), Dictionary(), Numbers())
    stats = activation_stats(model, torch.ones(2, 3))
    assert list(stats) == ["0", "1"] and torch.allclose(stats["1"].values, 2 * stats["0"].values)


def test_frozen_models_and_no_grad_have_gradients_too():
    model = ours()
    expected = gradient_stats(model, QUESTIONS, ANSWERS)
    for p in model.parameters():
        p.requires_grad_(False)
    before = portrait(model)
    with torch.no_grad():
        frozen = gradient_stats(model, QUESTIONS, ANSWERS)
    assert same(before, portrait(model))
    for name, s in frozen.items():
        assert torch.allclose(s.values, expected[name].values, atol=1e-8)


def test_another_loss_and_another_model_output():
    class WithLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return self.linear(x), None

    model, x = WithLoss(), torch.ones(4, 3)
    y = torch.tensor([0, 1, 1, 0])
    stats = gradient_stats(model, x, y, loss_function=lambda out, y: F.cross_entropy(out[0], y))
    assert torch.allclose(stats["linear"].values.sum(1), torch.zeros(4), atol=1e-7)
    stats = gradient_stats(model, x, torch.zeros(4, 2), loss_function=lambda out, y: ((out[0] - y) ** 2).sum())
    assert torch.allclose(stats["linear"].values, 2 * model(x)[0], atol=1e-6)


def test_a_model_that_is_one_module_has_its_own_name():
    assert list(activation_stats(nn.Linear(3, 2), torch.ones(1, 3))) == ["Linear"]


def test_nothing_to_measure_is_an_error():
    model = ours()
    before = portrait(model)
    for measure in (
        lambda: activation_stats(model, QUESTIONS, nn.ReLU),
        lambda: gradient_stats(model, QUESTIONS, ANSWERS, nn.ReLU),
    ):
        with pytest.raises(ValueError, match=r"of kind .*ReLU.*consists of BatchNorm1d, Embedding, Flatten, Linear"):
            measure()
        assert same(before, portrait(model))
    with pytest.raises(ValueError, match="nothing to measure"):
        activation_stats(Odd(), QUESTIONS, nn.Bilinear)


def test_half_precision_is_measured_in_single():
    model = nn.Linear(3, 2).to(torch.bfloat16)
    (s,) = activation_stats(model, torch.ones(4, 3, dtype=torch.bfloat16)).values()
    assert s.values.dtype == torch.float32 and math.isfinite(s.std)
    (s,) = activation_stats(nn.Linear(3, 2).double(), torch.ones(4, 3).double()).values()
    assert s.values.dtype == torch.float64


# ------------------------------------------------------------ update_ratios


@given(st.floats(1e-2, 10))
@settings(deadline=None)
def test_ratios_are_what_a_step_of_descent_does(lr):
    model = ours()
    F.cross_entropy(model(QUESTIONS), ANSWERS).backward()
    ratios = update_ratios(model, lr)
    assert list(ratios) == [f"layers.{i}.weight" for i in (0, 2, 5, 7)], "matrices only"
    for name, p in model.named_parameters():
        if name in ratios:
            before = p.detach().clone()
            torch.optim.SGD([p], lr=lr).step()
            moved = before - p.detach()
            assert ratios[name] == pytest.approx((moved.std() / before.std()).item(), rel=1e-2)


def test_ratios_of_foreign_frozen_and_constant_parameters():
    model = torchs()
    with pytest.raises(ValueError, match=r"has a gradient. Call this after backward\(\)"):
        update_ratios(model, 0.1)
    F.cross_entropy(model(QUESTIONS), ANSWERS).backward()
    assert list(update_ratios(model, 0.1)) == ["0.weight", "2.weight", "6.weight"]
    model[0].weight.grad = None
    assert list(update_ratios(model, 0.1)) == ["2.weight", "6.weight"]
    nn.init.zeros_(model[2].weight)
    assert update_ratios(model, 0.1)["2.weight"] == math.inf
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    update_ratios(model, 0.1)
    assert same(grads, [p.grad for p in model.parameters()])


@pytest.mark.parametrize("lr", [0, -0.1, math.nan, math.inf])
def test_ratios_need_a_learning_rate(lr):
    model = ours()
    F.cross_entropy(model(QUESTIONS), ANSWERS).backward()
    with pytest.raises(ValueError, match="must be positive and finite"):
        update_ratios(model, lr)


def test_ratios_of_sparse_and_of_constant_gradients():
    model = nn.Embedding(6, 3, sparse=True)
    (model(torch.tensor([1, 4])) ** 2).sum().backward()
    sparse = update_ratios(model, 0.1)["weight"]
    dense = model.weight.grad.to_dense()
    assert sparse == pytest.approx((0.1 * dense.std() / model.weight.std()).item(), rel=1e-5)
    single = nn.Linear(1, 1, bias=False)
    single.weight.grad = torch.ones(1, 1)
    assert update_ratios(single, 0.1) == {"weight": math.inf}
    single.weight.grad = torch.zeros(1, 1)
    assert update_ratios(single, 0.1) == {"weight": 0.0}


# ------------------------------------------------------------ outputs that are no plain tensor


class Tupled(nn.Module):
    """An LSTM, whose output is a tuple, followed by something that may change its input in place."""

    def __init__(self, in_place):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.rnn, self.output = nn.Embedding(5, 4), nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)
        self.relu = nn.ReLU(inplace=in_place)

    def forward(self, x):
        return self.output(self.relu(self.rnn(self.embedding(x))[0])[:, -1])


class Packed(nn.Module):
    """Returns its input, doubled, in a container."""

    def __init__(self, pack):
        super().__init__()
        self.pack = pack

    def forward(self, x):
        return self.pack(2 * x)


class Unpacks(nn.Module):
    def __init__(self, pack, unpack):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.packed, self.last, self.unpack = nn.Linear(3, 3), Packed(pack), nn.Linear(3, 2), unpack

    def forward(self, x):
        return self.last(self.unpack(self.packed(self.first(x))))


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_gradients_of_a_tuple_frozen_or_changed_afterwards(frozen, in_place):
    x, y = torch.tensor([[0, 1, 2], [3, 4, 0]]), torch.tensor([0, 2])
    model = Tupled(in_place).requires_grad_(not frozen)
    found = gradient_stats(model, x, y, nn.LSTM)["rnn"].values
    reference = Tupled(False)
    h = reference.rnn(reference.embedding(x))[0].detach().requires_grad_()
    F.cross_entropy(reference.output(reference.relu(h)[:, -1]), y).backward()
    assert h.grad.abs().max() > 0 and torch.allclose(found, h.grad, atol=1e-7)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("pack", "unpack"),
    [
        (lambda h: h, lambda h: h),
        (lambda h: (h, None), lambda p: p[0]),
        (lambda h: [h], lambda p: p[0]),
        (lambda h: {"h": h}, lambda p: p["h"]),
        (lambda h: Pair(h, h + 1), lambda p: p.left),
    ],
)
def test_gradients_of_containers(pack, unpack, frozen):
    model, x, y = Unpacks(pack, unpack).requires_grad_(not frozen), torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
    h = (2 * model.first(x)).detach().requires_grad_()
    F.cross_entropy(model.last(h), y).backward()
    assert torch.allclose(gradient_stats(model, x, y, Packed)["packed"].values, h.grad, atol=1e-7)


# ------------------------------------------------------------ the door


def test_layers_name_what_they_cannot_take():
    with pytest.raises(ValueError, match="both must be at least 1"):
        Linear(0, 3)
    with pytest.raises(ValueError, match="takes 3 numbers on the last axis"):
        Linear(3, 2)(torch.tensor(1.0))
    with pytest.raises(TypeError, match="Cannot multiply torch.int64 by weights"):
        Linear(3, 2)(torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="No table has 0 rows"):
        Embedding(0, 3)
    with pytest.raises(IndexError, match="from 0 to 4; the input goes from 1 to 7"):
        Embedding(5, 3)(torch.tensor([1, 7]))
    with pytest.raises(ValueError, match="A batch of 0 has no variance"):
        BatchNorm1d(3)(torch.zeros(0, 3))
