"""zerohero.wavenet: joining neighbours, the tree of them, and the convolution that it is."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zerohero import data
from zerohero.batchnorm import BatchNorm1d, Embedding, Linear
from zerohero.data import CharTokenizer, context_windows
from zerohero.mlp import draw_names, evaluate, fit
from zerohero.wavenet import FlattenConsecutive, WaveNet


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_network(seed, **options):
    """A network whose normalisations have seen data, in evaluation mode."""
    model = WaveNet(**options, generator=seeded(seed))
    g = seeded(seed + 1)
    for layer in model.modules():
        if isinstance(layer, BatchNorm1d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean):
                values.copy_(torch.randn(values.shape, generator=g))
            layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=g) + 0.1)
    return model.eval()


def by_conv1d(model, ids):
    """Logits for every window of `ids`, with torch's dilated convolutions and torch's BatchNorm."""
    modules = list(model.modules())
    embedding = next(m for m in modules if isinstance(m, Embedding))
    *linears, output = [m for m in modules if isinstance(m, Linear)]
    norms = [m for m in modules if isinstance(m, (BatchNorm1d, nn.LayerNorm))]
    activation = torch.tanh if not any(isinstance(m, nn.GELU) for m in modules) else F.gelu
    h, dilation = embedding.weight[ids].T[None], 1
    for linear, norm in zip(linears, norms):
        left, right = linear.weight.chunk(2)
        h = F.conv1d(h, torch.stack([left.T, right.T], 2), dilation=dilation)
        if isinstance(norm, nn.LayerNorm):
            h = norm(h.mT).mT
        else:
            statistics = norm.running_mean, norm.running_var
            h = F.batch_norm(h, *statistics, norm.weight, norm.bias, eps=norm.eps)
        h, dilation = activation(h), 2 * dilation
    return h[0].T @ output.weight + output.bias


def test_the_default_is_the_lectures_network():
    model = WaveNet(generator=seeded())
    sizes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    assert sizes == [(27, 24), (48, 128), (256, 128), (256, 128), (128, 27)]
    assert sum(p.numel() for p in model.parameters()) == 76_579
    assert model(torch.zeros(5, 8, dtype=torch.int64)).shape == (5, 27)


@pytest.mark.parametrize("options", [{}, {"norm": "layer", "activation": "gelu", "dropout": 0.1}])
@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 6), st.integers(1, 7))
def test_parameters_follow_from_the_sizes(options, levels, V, E, H):
    model = WaveNet(V, 2**levels, E, H, **options, generator=seeded())
    weights = V * E + 2 * E * H + (levels - 1) * 2 * H * H + H * V
    assert sum(p.numel() for p in model.parameters()) == weights + levels * 2 * H + V
    x = torch.randint(V, (3, 2**levels), generator=seeded())
    assert model(x).shape == (3, V) and model(x).isfinite().all()


@given(st.integers(0, 4), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
def test_joining_lays_neighbours_side_by_side(B, groups, n, C):
    T = groups * n
    x = torch.arange(B * T * C).view(B, T, C)
    out = FlattenConsecutive(n)(x)
    expected = torch.stack([x[:, i * n : (i + 1) * n].flatten(1) for i in range(groups)], 1)
    assert torch.equal(out, expected if groups > 1 else expected[:, 0])


def test_joining_takes_any_layout_and_passes_gradients():
    x = torch.randn(2, 6, 4, generator=seeded()).transpose(1, 2)  # (2, 4, 6), not contiguous
    x.requires_grad_()
    out = FlattenConsecutive(2)(x)
    assert torch.equal(out, FlattenConsecutive(2)(x.contiguous()))
    out.sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 4, 6))


def test_joining_refuses_what_does_not_fit():
    join = FlattenConsecutive(2)
    with pytest.raises(ValueError, match=r"7 positions cannot be joined 2 at a time.*multiple of 2"):
        join(torch.zeros(1, 7, 3))
    with pytest.raises(ValueError, match="1 positions cannot be joined"):
        join(torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="0 positions cannot be joined"):
        join(torch.zeros(1, 0, 3))
    for wrong in (torch.zeros(4, 6), torch.zeros(1, 2, 2, 2), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"Expected \(B, T, C\), not \("):
            join(wrong)
    for n in (0, -2):
        with pytest.raises(ValueError, match=f"at least one member, not {n}"):
            FlattenConsecutive(n)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 6), st.integers(0, 1000))
def test_the_tree_is_a_dilated_convolution(norm, activation, levels, width, more, seed):
    model = random_network(
        seed, vocab_size=9, block_size=2**levels, n_embd=3, n_hidden=width, norm=norm, activation=activation
    )
    ids = torch.randint(9, (2**levels + more,), generator=seeded(seed))
    windows = ids.unfold(0, 2**levels, 1)
    assert torch.allclose(model(windows), by_conv1d(model, ids), atol=1e-4, rtol=1e-4)


def test_each_letter_counts_and_none_beyond():
    model = random_network(3, block_size=8)
    x = torch.randint(27, (1, 8), generator=seeded())
    for i in range(8):
        other = x.clone()
        other[0, i] = (x[0, i] + 1) % 27
        assert not torch.allclose(model(x), model(other), atol=1e-3)
    assert torch.allclose(model(x), model(x.repeat(5, 1))[:1], atol=1e-5), "the rows of a batch are independent in eval"


def test_what_the_constructor_refuses():
    for size in (0, 1, 3, 6, 10, -8):
        with pytest.raises(ValueError, match=rf"power of 2.*not {size}\."):
            WaveNet(block_size=size)
    with pytest.raises(ValueError, match="no 'instance' here; choose 'batch' or 'layer'"):
        WaveNet(norm="instance")
    with pytest.raises(ValueError, match="no 'relu' here; choose 'tanh' or 'gelu'"):
        WaveNet(activation="relu")
    with pytest.raises(ValueError, match="widths 2 and 0"):
        WaveNet(n_embd=1, n_hidden=0)
    for p in (-0.1, 1.5):
        with pytest.raises(ValueError, match="dropout"):
            WaveNet(dropout=p)


def test_what_the_tree_refuses():
    model = WaveNet(n_embd=2, n_hidden=3, generator=seeded()).eval()
    for shape in ((2, 7), (8,), (1, 8, 1)):
        with pytest.raises(ValueError, match=r"shape \(B, 8\), not \("):
            model(torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(IndexError):
        model(torch.full((1, 8), 27))


def test_the_same_generator_makes_the_same_network_and_dropout_rests_in_eval():
    one, other = (WaveNet(n_embd=2, n_hidden=4, dropout=0.5, generator=seeded(7)) for _ in range(2))
    x = torch.randint(27, (64, 8), generator=seeded())
    assert torch.equal(one.eval()(x), other.eval()(x))
    assert torch.equal(one(x), one(x))
    assert not torch.equal(one.train()(x), one(x))
    assert not any(isinstance(m, nn.Dropout) for m in WaveNet().modules())


def test_it_learns_what_is_eight_letters_away():
    """The answer is the first letter of the context: only a path from the farthest leaf to the root can tell."""
    g = seeded()
    x = torch.randint(4, (2000, 8), generator=g)
    model = WaveNet(4, n_embd=4, n_hidden=16, generator=g)
    fit(model, x, x[:, 0], 600, 0.3, generator=g)
    assert evaluate(model, x, x[:, 0]) < 0.05


def test_names_are_drawn_with_the_books_own_function():
    names = ["anna", "otto", "ada"] * 20
    tokenizer = CharTokenizer("".join(names), boundary=".")
    X, Y = context_windows(names, 8, tokenizer)
    model = WaveNet(len(tokenizer), n_embd=4, n_hidden=16, generator=seeded())
    fit(model, X, Y, 400, 0.3, generator=seeded())
    drawn = draw_names(model, 50, tokenizer, 8, seeded())
    assert len(drawn) == 50 and sum(name in names for name in drawn) > 40


def test_the_figure_shows_what_was_recorded():
    root = Path(data.__file__).resolve().parents[1]
    stored = json.loads((root / "widgets/wavenet.json").read_text(encoding="utf-8"))
    sizes = [torch.Size(table["shape"]).numel() for table in stored["tables"]]
    assert sum(sizes) == 76_579 - 3 * 128, "BatchNorm's two vectors of a level have become one bias"
    assert (root / "widgets/wavenet.json").stat().st_size < 400_000
    record = json.loads((root / "results/wavenet.json").read_text(encoding="utf-8"))
    lecture, better = record["arc"][3:]
    assert lecture["parameters"] == better["parameters"] == 76_579
    assert lecture["validation"] <= 1.995 and better["validation"] <= 1.97


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_leaves_something(dropout):
    with pytest.raises(ValueError, match="dropout is a share below 1"):
        WaveNet(dropout=dropout)
