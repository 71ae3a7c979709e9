"""zerohero.transformer: the network beside GPT-2's, its dropout and optimiser, and training that can stop and go on."""

import copy
import itertools
import math
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.optim.optimizer import register_optimizer_step_pre_hook

from zerohero import transformer
from zerohero.data import DataError
from zerohero.transformer import (
    CausalSelfAttention,
    CharGPT,
    CharGPTConfig,
    Muon,
    dropout,
    learning_rate,
    load_checkpoint,
    orthogonalize,
    rotate,
    train,
    validation_loss,
)

NORMS, POSITIONS = ("layer", "rms"), ("learned", "rotary")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "relu2", "swiglu")
EVERY_CHOICE = list(itertools.product(NORMS, ACTIVATIONS, POSITIONS))
TEXT = torch.arange(200) % 7 * (torch.arange(200) % 3 > 0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks of this size only wait for a second thread, on a busy machine for minutes."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(**options):
    sizes = {"vocab_size": 7, "block_size": 6, "n_layer": 2, "n_head": 2, "n_embd": 8, "dropout": 0.0}
    return CharGPTConfig(**{**sizes, **options})


def fresh(seed=0, **options):
    return CharGPT(tiny(**options), seeded(seed))


def random_model(seed=0, **options):
    """A model in evaluation mode with parameters so large that every part of it matters."""
    model, g = fresh(seed, **options).eval(), seeded(seed + 1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.4 + (p.ndim == 1))
    return model


def random_tokens(*shape, vocab_size=7, seed=0):
    return torch.randint(vocab_size, shape, generator=seeded(seed))


def batch(generator):
    starts = torch.randint(len(TEXT) - 6, (4, 1), generator=generator)
    pieces = TEXT[starts + torch.arange(7)]
    return pieces[:, :-1], pieces[:, 1:]


def drawing_validation(model):
    """A validation loss that also draws from torch's global generator, as sampling would."""
    return validation_loss(model, TEXT) + torch.rand(()).item()


def run(model, steps=6, **options):
    usual = {"warmup": 2, "every": 2, "progress": False, "validate": drawing_validation}
    return train(model, batch, steps, **{**usual, **options})


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# ---- the network beside torch's and GPT-2's ----


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = tmp_path_factory.mktemp("gpt2")
    sizes = {"vocab_size": 11, "n_positions": 12, "n_layer": 3, "n_head": 2, "n_embd": 16}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    made = library.GPT2LMHeadModel(library.GPT2Config(**sizes, **off))
    with torch.no_grad():
        for i, p in enumerate(made.parameters()):
            p.copy_(torch.randn(p.shape, generator=seeded(i)) * 0.3)
    made.save_pretrained(folder)
    return library.GPT2LMHeadModel.from_pretrained(folder, local_files_only=True).eval()


@pytest.mark.parametrize("training", [False, True])
def test_the_logits_are_those_of_gpt2(gpt2, training):
    config = CharGPTConfig(11, 12, 3, 2, 16, dropout=0.0, bias=True, activation="gelu_tanh")
    ours, theirs = CharGPT(config).train(training), gpt2.state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    conv1d = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    ours.load_state_dict({name: p.T if name.endswith(conv1d) else p for name, p in theirs.items()})
    assert sum(p.numel() for p in ours.parameters()) == gpt2.num_parameters()
    for B, T in ((1, 1), (3, 1), (2, 5), (1, 12), (4, 12)):
        idx = random_tokens(B, T, vocab_size=11)
        with torch.no_grad():
            expected = gpt2(idx, labels=idx)
            logits, _ = ours(idx)
        assert torch.allclose(logits, expected.logits, atol=1e-5), (B, T)
        if T > 1:
            _, loss = ours(idx[:, :-1], idx[:, 1:])
            assert loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("training", [False, True])
@given(data=st.data())
@settings(max_examples=15)
def test_the_future_does_not_count(positions, training, data):
    T = data.draw(st.integers(1, 6), "T")
    t = data.draw(st.integers(0, T - 1), "t")
    seed = data.draw(st.integers(0, 1000), "seed")
    model = random_model(seed, positions=positions, activation="gelu").train(training)
    idx = random_tokens(2, T, seed=seed)
    other = idx.clone()
    other[:, t] = (other[:, t] + data.draw(st.integers(1, 6), "change")) % 7
    with torch.no_grad():
        (before, _), (after, _) = model(idx), model(other)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.allclose(before[:, t:], after[:, t:])


@pytest.mark.parametrize("positions", POSITIONS)
def test_each_earlier_token_counts(positions):
    model, idx = random_model(positions=positions), random_tokens(1, 6)
    with torch.no_grad():
        last = model(idx)[0][:, -1]
        for t in range(6):
            other = idx.clone()
            other[0, t] = (idx[0, t] + 1) % 7
            assert not torch.allclose(model(other)[0][:, -1], last, atol=1e-4), t


@pytest.mark.parametrize(("norm", "activation", "positions"), EVERY_CHOICE)
def test_gradients_are_those_of_the_loss(norm, activation, positions):
    options = {"norm": norm, "activation": activation, "positions": positions, "bias": activation == "gelu"}
    sizes = {"vocab_size": 3, "block_size": 3, "n_layer": 1, "n_embd": 4, "tied": positions == "rotary"}
    model = random_model(3, **sizes, **options).double().train()
    idx, targets = random_tokens(2, 3, vocab_size=3), random_tokens(2, 3, vocab_size=3, seed=1)
    targets[0, 0] = -1
    parameters = dict(model.named_parameters())

    def loss(*values):
        return functional_call(model, dict(zip(parameters, values)), (idx, targets))[1]

    assert loss(*parameters.values()).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, tuple(parameters.values()))


def test_the_loss_is_the_mean_over_the_targets_that_count():
    model, idx, targets = random_model(), random_tokens(3, 6), random_tokens(3, 6, seed=1)
    targets[0, 2:] = -1
    logits, loss = model(idx, targets)
    log_p = logits.log_softmax(-1)
    counted = [-log_p[b, t, targets[b, t]] for b in range(3) for t in range(6) if targets[b, t] >= 0]
    assert len(counted) == 14 and torch.allclose(loss, torch.stack(counted).mean())
    assert model(idx)[1] is None


def by_heads(attention, x, positions):
    """The same attention, one head, one query at a time; rotary positions as products of complex numbers."""
    B, T, C = x.shape
    H = attention.n_head
    D = C // H
    queries, keys, values = (F.linear(x, w) for w in attention.c_attn.weight.split(C))
    y, maps = torch.zeros(B, T, C), torch.zeros(B, H, T, T)
    for h in range(H):
        q, k, v = (z[:, :, h * D : (h + 1) * D] for z in (queries, keys, values))
        if positions == "rotary":
            speeds = torch.tensor([10_000 ** (-2 * i / D) for i in range(D // 2)])
            turn = torch.exp(1j * torch.arange(T)[:, None] * speeds)
            q, k = (torch.complex(*z.chunk(2, -1)) * turn for z in (q, k))
            q, k = (torch.cat((z.real, z.imag), -1) for z in (q, k))
        for b, t in itertools.product(range(B), range(T)):
            w = F.softmax(k[b, : t + 1] @ q[b, t] / math.sqrt(D), 0)
            maps[b, h, t, : t + 1] = w
            y[b, t, h * D : (h + 1) * D] = w @ v[b, : t + 1]
    return F.linear(y, attention.c_proj.weight), maps


@pytest.mark.parametrize("positions", POSITIONS)
@given(st.integers(1, 3), st.integers(1, 6), st.sampled_from([1, 2, 4]), st.integers(0, 1000))
@settings(max_examples=15)
@torch.no_grad()
def test_three_ways_of_attention_agree(positions, B, T, H, seed):
    attention = random_model(seed, n_head=H, positions=positions).transformer.h[0].attn
    x = torch.randn(B, T, 8, generator=seeded(seed))
    expected, maps = by_heads(attention, x, positions)
    assert torch.allclose(attention.eval()(x), expected, atol=1e-5)
    assert torch.allclose(attention.train()(x), expected, atol=1e-5)
    q, k, v = attention.queries_keys_values(x)
    weights = attention.weights(q, k)
    assert torch.allclose(weights, maps, atol=1e-6)
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(weights @ v, fused, atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
@torch.no_grad()
def test_attention_weights_are_what_the_layers_use(positions):
    model, idx = random_model(positions=positions, n_layer=3), random_tokens(2, 5)
    weights = model.attention_weights(idx)
    assert weights.shape == (3, 2, 2, 5, 5)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 2, 5))
    assert torch.equal(weights, weights.tril()) and (weights >= 0).all()
    x = model.embed(idx)
    for block, w in zip(model.transformer.h, weights):
        v = block.attn.c_attn(block.ln_1(x)).split(8, -1)[2].view(2, 5, 2, 4).transpose(1, 2)
        y = block.attn.c_proj((w @ v).transpose(1, 2).flatten(2))
        assert torch.allclose(y, block.attn(block.ln_1(x)), atol=1e-5)
        x = block(x)


def test_attention_weights_do_not_depend_on_the_mode():
    model, idx = random_model(dropout=0.5), random_tokens(2, 5)
    expected = model.attention_weights(idx)
    assert torch.equal(model.train().attention_weights(idx), expected)
    assert model.training and all(module.training for module in model.modules())


@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 1000))
@settings(max_examples=25)
def test_rotary_scores_depend_on_the_distance_only(half, T, seed):
    config = tiny(block_size=T, n_head=1, n_embd=2 * half, positions="rotary")
    attention = CausalSelfAttention(config)
    q, k = torch.randn(2, 2 * half, generator=seeded(seed))
    turned_q, turned_k = (rotate(z.expand(T, -1), attention.cos, attention.sin) for z in (q, k))
    assert torch.allclose(turned_q.norm(dim=-1), q.norm(), rtol=1e-4)
    assert torch.allclose(turned_q[0], q)
    scores = turned_q @ turned_k.T
    for distance in range(-T + 1, T):
        along = scores.diagonal(distance)
        assert torch.allclose(along, along[0].expand_as(along), atol=1e-4)
    assert (attention.cos[:, 0] - torch.arange(T).cos()).abs().max() < 1e-6, "the first pair turns by one radian"


def test_a_quarter_turn_by_hand():
    x = torch.tensor([[3.0, 4.0]])
    assert torch.equal(rotate(x, torch.tensor([[0.0]]), torch.tensor([[1.0]])), torch.tensor([[-4.0, 3.0]]))


def test_the_same_words_elsewhere_have_the_same_rotary_scores():
    """With rotary positions alone, the attention of the first layer between two tokens is the same when both move."""
    model = random_model(positions="rotary", n_layer=1).eval()
    model.transformer.wte.weight.data[0] = 0  # token 0 has no key and no query
    scores = []
    for idx in ([[1, 2, 3, 0, 0, 0]], [[0, 0, 0, 1, 2, 3]]):
        block = model.transformer.h[0]
        q, k, _ = block.attn.queries_keys_values(block.ln_1(model.embed(torch.tensor(idx))))
        scores.append(q @ k.mT)
    assert torch.allclose(scores[0][..., :3, :3], scores[1][..., 3:, 3:], atol=1e-4)


# ---- how it starts, what it costs, what it refuses ----


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("norm", "activation", "positions"), EVERY_CHOICE)
def test_the_number_of_parameters_follows_from_the_sizes(tied, norm, activation, positions):
    V, T, L, C = 7, 6, 2, 8
    for bias in (False, True):
        model = fresh(bias=bias, tied=tied, norm=norm, activation=activation, positions=positions)
        hidden = round(8 * C / 3) if activation == "swiglu" else 4 * C
        into = hidden * (2 if activation == "swiglu" else 1)
        matrices = 4 * C * C + into * C + hidden * C
        biases = bias * (5 * C + into)
        norms = C * (1 + (bias and norm == "layer"))
        total = V * C * (1 if tied else 2) + T * C * (positions == "learned")
        total += L * (matrices + biases + 2 * norms) + norms
        assert sum(p.numel() for p in model.parameters()) == total


def test_the_10_million_of_the_defaults():
    """Counted by hand: 64 characters, 256 places, 6 blocks of 12 x 384^2 in matrices, 13 gains."""
    with torch.device("meta"):
        model = CharGPT(CharGPTConfig())
    assert sum(p.numel() for p in model.parameters()) == 384 * (64 + 256 + 13) + 6 * 12 * 384**2 == 10_744_704


def test_it_starts_as_gpt2_does():
    sizes = {"vocab_size": 50, "block_size": 32, "n_layer": 8, "n_embd": 64, "bias": True}
    model = fresh(**sizes)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif p.ndim == 1:
            assert (p == 1).all(), name
        else:
            std = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02
            assert p.std().item() == pytest.approx(std, rel=0.05) and abs(p.mean().item()) < std / 10, name
    idx = random_tokens(2, 32, vocab_size=50)
    assert model(idx, random_tokens(2, 32, vocab_size=50, seed=1))[1].item() == pytest.approx(math.log(50), abs=0.1)
    assert same(model.state_dict(), fresh(**sizes).state_dict()) and not same(
        model.state_dict(), fresh(1, **sizes).state_dict()
    )


@pytest.mark.parametrize("name", ["vocab_size", "block_size", "n_layer", "n_head", "n_embd"])
@pytest.mark.parametrize("value", [0, -3])
def test_sizes_below_one_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not {value}"):
        tiny(**{name: value})


@pytest.mark.parametrize("name", ["vocab_size", "block_size", "n_layer", "n_head", "n_embd"])
@pytest.mark.parametrize("value", [4.0, 4.5, "4", None])
def test_sizes_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number.*not {value!r}"):
        tiny(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_embd": 10, "n_head": 4}, "n_embd must be a multiple of n_head; 10 numbers.*among 4 heads"),
        ({"n_embd": 6, "n_head": 2, "positions": "rotary"}, "a head has 3, which is odd"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), not -0.1"),
        ({"dropout": 1}, r"dropout must be in \[0, 1\), not 1"),
        ({"dropout": float("nan")}, r"dropout must be in \[0, 1\), not nan"),
        ({"norm": "batch"}, "norm must be one of layer, rms, not 'batch'"),
        ({"norm": None}, "norm must be one of layer, rms, not None"),
        ({"activation": "tanh"}, "activation must be one of gelu, .*swiglu, not 'tanh'"),
        ({"positions": "sinus"}, "positions must be one of learned, rotary, not 'sinus'"),
    ],
)
def test_choices_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


@pytest.mark.parametrize("positions", POSITIONS)
def test_tokens_that_are_refused(positions):
    model = fresh(positions=positions)
    with pytest.raises(ValueError, match=r"7 tokens do not fit into a context of 6.*idx\[:, -6:\]"):
        model(random_tokens(1, 7))
    wrong = [torch.zeros(2, 3), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int64)]
    wrong += [random_tokens(3), random_tokens(1, 2, 3), torch.tensor(1), torch.zeros(2, 3, dtype=torch.bool)]
    for idx in wrong:
        with pytest.raises(ValueError, match=r"shape \(B, T\), not torch\.\w+ of shape \("):
            model(idx)
    for token in (7, -1, 10**12):
        idx = torch.tensor([[0, token, 1]])
        with pytest.raises(IndexError, match=f"from 0 to 6; these go from {min(0, token)} to {max(1, token)}"):
            model(idx)


def test_targets_of_another_shape_are_refused():
    model, idx = fresh(), random_tokens(2, 3)
    for targets in (random_tokens(3, 2), random_tokens(2, 2), random_tokens(6)):
        with pytest.raises(ValueError, match="targets"):
            model(idx, targets)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("norm", "activation", "positions"), EVERY_CHOICE)
def test_bfloat16_gives_nearly_the_same(norm, activation, positions, training):
    options = {"norm": norm, "activation": activation, "positions": positions, "bias": norm == "layer"}
    model = fresh(dropout=0.2 if training else 0.0, **options).train(training)
    idx, targets = random_tokens(2, 6), random_tokens(2, 6, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exact, exact_loss = model(idx, targets)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            logits, loss = model(idx, targets)
    assert logits.shape == (2, 6, 7) and loss.dtype == torch.float32
    assert torch.allclose(logits.float(), exact, atol=0.02)
    assert loss.item() == pytest.approx(exact_loss.item(), abs=0.02)
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


# ---- dropout ----


@pytest.fixture
def global_seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("p", [0.001, 0.1, 0.2, 0.5, 0.9])
def test_dropout_keeps_the_right_share_and_the_mean(p, global_seed):
    n = 200_000
    y = dropout(torch.ones(n), p, True)
    kept = y != 0
    within = 5 * math.sqrt(p * (1 - p) / n)
    assert abs(kept.float().mean().item() - (1 - p)) < within + 1 / 65536
    lanes = kept.view(-1, 4).float()  # one random word decides on four numbers
    assert (lanes.mean(0) - (1 - p)).abs().max() < 2 * within + 1 / 65536
    assert (lanes.T.cov() - p * (1 - p) * torch.eye(4)).abs().max() < 2 * within, "independent of each other"
    values = y[kept].unique()
    assert len(values) == 1
    assert values.item() * (1 - round(p * 65536) / 65536) == pytest.approx(1, rel=1e-6)
    assert values.item() == pytest.approx(1 / (1 - p), rel=2e-4)


def test_the_gradient_passes_where_the_numbers_pass(global_seed):
    x = torch.randn(3, 7, 5).requires_grad_()
    y = dropout(x, 0.3, True)
    factor = torch.where(y != 0, 65536 / (65536 - round(0.3 * 65536)), 0.0)
    assert 0 < (factor == 0).sum() < factor.numel() and torch.allclose(y, x * factor)
    weight = torch.randn(3, 7, 5)
    (y * weight).sum().backward()
    assert torch.allclose(x.grad, weight * factor)


@pytest.mark.parametrize("training", [False, True])
def test_where_the_model_drops_numbers(monkeypatch, training):
    """After the embedding, on the attention weights, and on what each half of a block adds to the stream."""
    calls = []

    def record(x, p, training):
        calls.append((tuple(x.shape), p if training else 0))
        return x

    monkeypatch.setattr(transformer, "dropout", record)
    fresh(dropout=0.3).train(training)(random_tokens(3, 5))
    stream, weights = ((3, 5, 8), 0.3 * training), ((3, 2, 5, 5), 0.3)
    assert calls == [
        stream,
        *([weights] if training else []),
        stream,
        stream,
        *([weights] if training else []),
        stream,
        stream,
    ]


@given(st.integers(0, 1000))
@settings(max_examples=5)
def test_what_is_dropped_from_the_attention_is_missing(seed):
    """With one token the only weight is 1: dropout leaves its value doubled, or nothing, in each head."""
    model = random_model(seed, dropout=0.5, n_head=4).train()
    attention = model.transformer.h[0].attn
    attention.c_proj.weight.data.copy_(torch.eye(8))
    x = torch.randn(64, 1, 8, generator=seeded(seed))
    value = attention.c_attn(x)[..., 16:]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        factor = (attention(x) / value).round(decimals=3).view(64, 4, 2)
    assert set(factor.unique().abs().tolist()) == {0.0, 4.0}, "dropped by the weights, by the end, or by neither"
    gone = (factor == 0).all(-1).float().mean().item()
    assert abs(gone - (0.5 + 0.5 / 4)) < 5 * math.sqrt(0.25 / 256), "the numbers of a head go together half of the time"


def test_dropout_rests():
    x, before = torch.randn(5, generator=seeded()), torch.get_rng_state()
    assert dropout(x, 0.0, True) is x and dropout(x, 0.5, False) is x
    assert torch.equal(torch.get_rng_state(), before), "and draws nothing then"


def test_the_global_seed_decides(global_seed):
    x = torch.ones(1001)
    one, next_one = dropout(x, 0.5, True), dropout(x, 0.5, True)
    torch.manual_seed(0)
    assert torch.equal(dropout(x, 0.5, True), one) and not torch.equal(one, next_one)
    torch.manual_seed(1)
    assert not torch.equal(dropout(x, 0.5, True), one)


@given(st.lists(st.integers(0, 7), max_size=4), st.floats(0, 1, exclude_max=True), st.booleans())
@example([3, 5], math.nextafter(1, 0), True)
@example([3, 5], 1e-9, False)
@example([0], 0.5, False)
@settings(max_examples=60)
def test_dropout_takes_any_shape(shape, p, transpose):
    x = torch.ones(shape)
    y = dropout(x.mT if transpose and x.ndim > 1 else x, p, True)
    assert y.shape == (x.mT if transpose and x.ndim > 1 else x).shape and y.isfinite().all()
    assert len(y[y != 0].unique()) <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dropout_keeps_the_type(dtype, global_seed):
    y = dropout(torch.ones(999, dtype=dtype), 0.2, True)
    assert y.dtype == dtype and y.min() == 0
    assert y.max().item() == torch.tensor(65536 / (65536 - 13107), dtype=dtype).item()


# ---- Muon ----


def well_conditioned(*shape, seed=0):
    """Random matrices with singular values between 1 and 4."""
    U, _, V = torch.linalg.svd(torch.randn(shape, generator=seeded(seed)), full_matrices=False)
    values = 1 + 3 * torch.rand(U.shape[:-2] + (U.shape[-1],), generator=seeded(seed + 1))
    return U * values[..., None, :] @ V


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1e-3, 1.0, 1e4]), st.integers(0, 1000))
@settings(max_examples=40)
def test_singular_values_come_near_one(n, m, scale, seed):
    G = scale * well_conditioned(n, m, seed=seed)
    X = orthogonalize(G)
    assert X.shape == (n, m) and X.dtype == G.dtype
    values = torch.linalg.svdvals(X)
    assert values.min() > 0.6 and values.max() < 1.3
    assert (G * X).sum() > 0.9 * torch.linalg.svdvals(G).sum() * values.min(), "it turns to where the gradient points"


@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 6, 4), (2, 3, 5, 5)])
def test_many_matrices_at_once_are_each_by_itself(shape):
    G = well_conditioned(*shape)
    X = orthogonalize(G)
    for i in range(shape[0]):
        assert torch.allclose(X[i], orthogonalize(G[i]), atol=0.03)


def test_the_orientation_does_not_matter():
    G = well_conditioned(5, 9)
    assert torch.allclose(orthogonalize(G.T), orthogonalize(G).T, atol=0.03)


def test_a_gradient_of_zero_moves_nothing():
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))
    p = nn.Parameter(torch.ones(3, 4))
    p.grad = torch.zeros(3, 4)
    Muon([p]).step()
    assert torch.equal(p.detach(), torch.ones(3, 4))


def linear_problem():
    g = seeded(5)
    x, target = torch.randn(50, 6, generator=g), torch.randn(50, 4, generator=g)
    tall, wide = (nn.Parameter(torch.randn(shape, generator=g) * 0.3) for shape in ((6, 9), (9, 4)))
    return [tall, wide], lambda: F.mse_loss(x @ tall @ wide, target)


def descend(optimizer, loss, steps):
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values


def test_muon_lowers_a_loss():
    parameters, loss = linear_problem()
    values = descend(Muon(parameters, lr=0.02), loss, 40)
    assert values[1] < values[0] and values[-1] < 0.8 * values[0]


def test_a_step_of_muon_by_hand():
    """Momentum 0.9: velocities are 0.1 g1, then 0.09 g1 + 0.1 g2; one step ahead, the update is 0.1 g + 0.9 velocity."""
    p = nn.Parameter(torch.zeros(8, 2))
    optimizer, (g1, g2) = Muon([p], lr=0.5, momentum=0.9), well_conditioned(2, 8, 2)
    p.grad = g1.clone()
    optimizer.step()
    first = -0.5 * 2 * orthogonalize(0.1 * g1 + 0.9 * 0.1 * g1)  # four times as tall as wide: it steps twice as far
    assert torch.allclose(p.detach(), first, atol=0.02)
    p.grad = g2.clone()
    optimizer.step()
    update = 0.1 * g2 + 0.9 * (0.09 * g1 + 0.1 * g2)
    assert torch.allclose(p.detach(), first - orthogonalize(update), atol=0.04)


def test_the_state_of_muon_can_be_saved():
    parameters, loss = linear_problem()
    optimizer = Muon(parameters)
    descend(optimizer, loss, 3)
    saved, values = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in parameters]
    expected = descend(optimizer, loss, 3)
    parameters, loss = linear_problem()
    for p, value in zip(parameters, values):
        p.data.copy_(value)
    optimizer = Muon(parameters)
    optimizer.load_state_dict(saved)
    assert descend(optimizer, loss, 3) == expected


def test_muon_leaves_alone_what_has_no_gradient():
    (tall, wide), loss = linear_problem()
    idle = nn.Parameter(torch.ones(6, 9))
    optimizer = Muon([idle, tall, wide])
    descend(optimizer, loss, 2)
    assert torch.equal(idle.detach(), torch.ones(6, 9)) and idle not in optimizer.state


def test_muon_takes_matrices_only():
    for shape in ((3,), (2, 3, 4)):
        with pytest.raises(ValueError, match=r"matri.*\("):
            Muon([nn.Parameter(torch.ones(shape))])


# ---- the schedule ----


@given(st.integers(1, 300), st.integers(0, 300), st.floats(0, 1))
def test_the_rate_rises_in_a_line_and_falls_to_the_least(steps, warmup, least):
    warmup = min(warmup, steps)
    rates = [learning_rate(step, steps, warmup, least) for step in range(steps + 1)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    falling = rates[warmup:]
    assert falling == sorted(falling, reverse=True) and falling[0] == 1
    assert warmup == steps or falling[-1] == pytest.approx(least)
    if warmup < steps and (steps - warmup) % 2 == 0:
        assert falling[len(falling) // 2] == pytest.approx((1 + least) / 2), "half way down half a cosine"


# ---- training ----


@pytest.mark.parametrize("options", [{}, {"muon_lr": 0.02, "precision": torch.bfloat16}])
def test_the_seed_decides_on_everything(options):
    results = []
    for seed, luck, mode in ((3, 1, True), (3, 2, False), (4, 1, True)):
        with torch.random.fork_rng():
            torch.manual_seed(luck)
            model = fresh(dropout=0.2).train(mode)
            history = run(model, seed=seed, **options)
        results.append((history.losses, history.validation, model.state_dict()))
    one, again, other = results
    assert one[:2] == again[:2] and same(one[2], again[2])
    assert one[0] != other[0] and not same(one[2], other[2])


def test_the_history_is_complete():
    seen, model = [], fresh()
    history = run(
        model,
        steps=5,
        validate=lambda m: validation_loss(m, TEXT),
        callback=lambda step, m: seen.append((step, m is model, validation_loss(m, TEXT))),
    )
    assert [step for step, _, _ in seen] == [0, 2, 4, 5] and all(itself for _, itself, _ in seen)
    assert history.validation == [(step, loss) for step, _, loss in seen]
    assert history.validation[-1][1] == validation_loss(model, TEXT)
    assert len(history.losses) == 5 and history.tokens == 5 * 4 * 6 and history.seconds > 0
    assert all(type(loss) is float for loss in history.losses)


def test_torchs_generator_is_left_alone():
    class Halt(Exception):
        pass

    def halt(step, model):
        if step == 2:
            raise Halt

    with torch.random.fork_rng():
        torch.manual_seed(5)
        model, state = fresh(dropout=0.5), None
        state = torch.get_rng_state()
        run(model)
        assert torch.equal(torch.get_rng_state(), state)
        with pytest.raises(Halt):
            run(model, callback=halt)
        assert torch.equal(torch.get_rng_state(), state)


def test_gradients_left_by_others_do_not_count():
    clean, used = fresh(), fresh()
    used(*batch(seeded(9)))[1].backward()
    assert run(clean).losses == run(used).losses and same(clean.state_dict(), used.state_dict())


@pytest.mark.parametrize("muon_lr", [None, 0.02])
def test_long_gradients_are_shortened(muon_lr):
    def lengths(clip):
        squares = []

        def measure(optimizer, args, kwargs):
            squares.append(sum(p.grad.square().sum().item() for g in optimizer.param_groups for p in g["params"]))

        hook = register_optimizer_step_pre_hook(measure)
        try:
            run(fresh(n_embd=16), clip=clip, muon_lr=muon_lr)
        finally:
            hook.remove()
        every = 2 if muon_lr else 1  # steps of optimisers in a step of training
        assert len(squares) == 6 * every
        return [math.sqrt(sum(squares[i : i + every])) for i in range(0, len(squares), every)]

    free, bound = lengths(math.inf), lengths(0.05)
    assert min(free) > 0.1
    assert bound == pytest.approx([0.05] * 6, rel=1e-3)
    assert lengths(100.0) == free, "shorter ones are left as they are"


def test_the_first_step_is_torchs():
    """Without warm-up the first step of `train` is AdamW's at the full rate, after clipping; decay is for matrices."""
    ours, theirs = fresh(bias=True), fresh(bias=True)
    run(ours, steps=1, lr=0.01, warmup=0, weight_decay=0.5, betas=(0.8, 0.9), clip=0.3, seed=11)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim == 2], "weight_decay": 0.5},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9))
    theirs(*batch(seeded(11)))[1].backward()
    nn.utils.clip_grad_norm_(theirs.parameters(), 0.3)
    optimizer.step()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        assert torch.allclose(p, q, atol=1e-5), name


def test_muon_gets_the_matrices_inside_the_blocks():
    taken = {}

    def measure(optimizer, args, kwargs):
        taken[type(optimizer).__name__] = {id(p) for g in optimizer.param_groups for p in g["params"]}

    model, hook = fresh(bias=True, tied=False), register_optimizer_step_pre_hook(measure)
    try:
        run(model, steps=1, muon_lr=0.02)
    finally:
        hook.remove()
    inner = {id(p) for name, p in model.named_parameters() if ".h." in name and p.ndim == 2}
    assert taken["Muon"] == inner and len(inner) == 2 * 4
    assert taken["AdamW"] == {id(p) for p in model.parameters()} - inner


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_it_learns_one_batch_by_heart(activation):
    model = fresh(n_embd=16, activation=activation, positions="rotary")
    x, y = random_tokens(4, 6), random_tokens(4, 6, seed=1)
    x[:, 0] = torch.arange(4)  # no two rows begin alike, so that all can be told apart
    history = train(model, lambda g: (x, y), 150, lr=0.01, muon_lr=0.05, warmup=5, progress=False)
    assert history.losses[0] == pytest.approx(math.log(7), abs=0.2) and history.losses[-1] < 0.1
    assert model.eval()(x)[0].argmax(-1).eq(y).float().mean() > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "Cannot take 0 steps"),
        ({"steps": -1}, "Cannot take -1 steps"),
        ({"every": 0}, "look every 0"),
        ({"precision": torch.float16}, r"torch\.float32 or torch\.bfloat16, not torch\.float16"),
        ({"precision": "bfloat16"}, r"torch\.float32 or torch\.bfloat16, not bfloat16"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(fresh(), **options)


# ---- stopping and going on ----


class Interrupted(Exception):
    pass


def interrupting(at):
    def callback(step, model):
        torch.rand(3)  # a callback that draws must not make another run of it
        if step == at:
            raise Interrupted

    return callback


def kept(path):
    return sorted(p.name for p in Path(path).parent.iterdir())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("muon_lr", [None, 0.02])
def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path, muon_lr, precision):
    options = {"muon_lr": muon_lr, "precision": precision, "steps": 7}

    def model():
        return fresh(dropout=0.2)

    whole = model()
    expected = run(whole, callback=interrupting(None), **options)
    for at in (0, 2, 4, 6, 7):
        path = tmp_path / f"{at}.pt"
        with pytest.raises(Interrupted):
            run(model(), checkpoint=path, callback=interrupting(at), **options)
        assert path.exists() == (at > 0)
        resumed = model()
        history = run(resumed, checkpoint=path, callback=interrupting(None), **options)
        assert history.losses == expected.losses, at
        assert history.validation == expected.validation, at
        assert history.tokens == expected.tokens and history.seconds > 0
        assert same(resumed.state_dict(), whole.state_dict()), at
    again = model()
    history = run(again, checkpoint=path, **options)
    assert history.losses == expected.losses and same(again.state_dict(), whole.state_dict()), "a finished run is read"


def test_the_same_model_can_go_on_after_an_interrupt_in_a_step(tmp_path, monkeypatch):
    whole, broken = fresh(dropout=0.2), fresh(dropout=0.2)
    expected, steps = run(whole), itertools.count()
    clip_grad_norm_ = nn.utils.clip_grad_norm_

    def interrupt(*args, **options):
        if next(steps) == 3:
            raise KeyboardInterrupt  # gradients are there, the step is not taken
        return clip_grad_norm_(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(nn.utils, "clip_grad_norm_", interrupt)
        run(broken, checkpoint=tmp_path / "run.pt")
    history = run(broken, checkpoint=tmp_path / "run.pt")
    assert (history.losses, history.validation) == (expected.losses, expected.validation)
    assert same(broken.state_dict(), whole.state_dict())


def test_a_killed_run_goes_on_as_if_it_had_never_stopped(tmp_path):
    path = tmp_path / "run.pt"
    program = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_transformer as t\n"
        f"t.torch.set_num_threads({torch.get_num_threads()})\n"
        "batches = t.batch\n"
        "def batch(generator):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if left < 0:\n"
        "        print('waiting', flush=True)\n"
        "        time.sleep(600)\n"
        "    return batches(generator)\n"
        "left, t.batch = 5, batch\n"
        f"t.run(t.fresh(dropout=0.2), 8, muon_lr=0.02, checkpoint={str(path)!r})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline().strip() == b"waiting"
        process.kill()
    whole, resumed = fresh(dropout=0.2), fresh(dropout=0.2)
    expected = run(whole, 8, muon_lr=0.02)
    assert len(torch.load(path, weights_only=True)["history"]["losses"]) == 4, "it was killed in step 5"
    history = run(resumed, 8, muon_lr=0.02, checkpoint=path)
    assert (history.losses, history.validation) == (expected.losses, expected.validation)
    assert same(resumed.state_dict(), whole.state_dict())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "run.pt"
    run(fresh(), steps=2, checkpoint=path)
    return path.read_bytes()


OTHER_SETTINGS = {
    "steps": 3,
    "lr": 2e-3,
    "muon_lr": 0.01,
    "warmup": 1,
    "least": 0.2,
    "weight_decay": 0.0,
    "betas": (0.9, 0.95),
    "clip": 2.0,
    "seed": 7,
    "precision": torch.bfloat16,
}
OTHER_CONFIGS = {
    "vocab_size": 8,
    "block_size": 7,
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 16,
    "dropout": 0.1,
    "bias": True,
    "norm": "rms",
    "activation": "relu",
    "positions": "rotary",
    "tied": False,
}


@pytest.mark.parametrize("name", [*OTHER_SETTINGS, *OTHER_CONFIGS])
def test_a_checkpoint_of_another_run_is_refused(checkpoint, tmp_path, name):
    path = tmp_path / "run.pt"
    path.write_bytes(checkpoint)
    options = {"steps": 2, **({name: OTHER_SETTINGS[name]} if name in OTHER_SETTINGS else {})}
    model = fresh(**({name: OTHER_CONFIGS[name]} if name in OTHER_CONFIGS else {}))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"run\.pt belongs to another run: {name} was .*, now it is .*[Dd]elete"):
        run(model, checkpoint=path, **options)
    assert path.read_bytes() == checkpoint and kept(path) == ["run.pt"]
    assert same(model.state_dict(), before), "the model is left as it was"


def test_every_setting_that_decides_is_compared():
    """A new option of `train` or of the configuration must be compared as well, or be one that changes nothing."""
    free = {"model", "batch", "validate", "every", "compile", "checkpoint", "callback", "progress"}
    assert set(train.__annotations__) - {"return"} - free == set(OTHER_SETTINGS)
    assert set(CharGPTConfig.__annotations__) == set(OTHER_CONFIGS)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def not_checkpoints(good, folder):
    bomb = Bomb(str(folder / "exploded"))
    zipped, saved = folder / "zip", folder / "saved"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("hello.txt", "hello")
    yield "empty", b""
    yield "text", b"To be, or not to be"
    yield "zip", zipped.read_bytes()
    for share in (0.1, 0.5, 0.99):
        yield f"cut at {share}", good[: int(share * len(good))]
    yield "pickle", pickle.dumps({"step": 1})
    yield "bomb", pickle.dumps(bomb)
    objects = {"tensor": torch.ones(3), "list": [1, 2], "dict": {"a": 1}, "weights": fresh().state_dict()}
    objects |= {"zipped bomb": bomb, "bomb inside": {"step": 0, "settings": bomb}}
    state = torch.load(folder / "run.pt", weights_only=True)
    objects |= {f"without {key}": {k: v for k, v in state.items() if k != key} for key in state}
    objects["settings of another kind"] = {**state, "settings": [1]}
    for name, content in objects.items():
        torch.save(content, saved)
        yield name, saved.read_bytes()


def test_what_is_not_a_checkpoint_is_refused_and_left_in_place(checkpoint, tmp_path):
    path, model = tmp_path / "run.pt", fresh()
    path.write_bytes(checkpoint)
    before = copy.deepcopy(model.state_dict())
    for name, content in list(not_checkpoints(checkpoint, tmp_path)):
        path.write_bytes(content)
        for act in (lambda: run(model, steps=2, checkpoint=path), lambda: load_checkpoint(path)):
            with pytest.raises(ValueError, match=r"run\.pt is not a checkpoint of this book.*delete it") as caught:
                act()
            assert "weights_only" not in str(caught.value), f"{name}: no advice to read it in an unsafe way"
        assert path.read_bytes() == content and not (tmp_path / "exploded").exists(), name
        assert same(model.state_dict(), before), name
    with pytest.raises(FileNotFoundError, match="nowhere.pt"):
        load_checkpoint(tmp_path / "nowhere.pt")


def test_a_changed_byte_changes_no_numbers_silently(checkpoint, tmp_path):
    """Whatever byte of a checkpoint is damaged, reading gives the same model or a `ValueError`."""
    path, rng = tmp_path / "run.pt", random.Random(0)
    path.write_bytes(checkpoint)
    expected = load_checkpoint(path).state_dict()
    for at in rng.sample(range(len(checkpoint)), 60):
        path.write_bytes(checkpoint[:at] + bytes([checkpoint[at] ^ 255]) + checkpoint[at + 1 :])
        try:
            model = load_checkpoint(path)
        except ValueError:
            continue
        assert same(model.state_dict(), expected), f"byte {at}"


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    expected = run(fresh(dropout=0.2), callback=interrupting(None))
    with pytest.raises(Interrupted):
        run(fresh(dropout=0.2), checkpoint=path, callback=interrupting(4))
    old, write = path.read_bytes(), Path.write_bytes

    def crash(self, content):
        write(self, content[: len(content) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", crash)
        with pytest.raises((OSError, DataError), match="no space left"):
            run(fresh(dropout=0.2), checkpoint=path, callback=interrupting(None))
    assert path.read_bytes() == old and kept(path) == ["run.pt"]
    history = run(fresh(dropout=0.2), checkpoint=path, callback=interrupting(None))
    assert (history.losses, history.validation) == (expected.losses, expected.validation)


def test_a_number_of_numpy_can_be_a_validation_loss_or_a_rate(tmp_path):
    options = {"validate": lambda m: np.float64(2.5), "checkpoint": tmp_path / "run.pt", "lr": np.float64(1e-3)}
    run(fresh(), **options)
    assert run(fresh(), **options).validation == [(0, 2.5), (2, 2.5), (4, 2.5), (6, 2.5)]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    path, model = tmp_path / "run.pt", fresh()
    start = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match=r"nan at step 1\b.*Lower lr.*run\.pt holds the last good state"):
        run(model, lr=1e30, warmup=0, checkpoint=path)
    assert same(load_checkpoint(path).state_dict(), start)
    with pytest.raises(FloatingPointError, match=r"at step 1\b.*warm up longer\.$"):
        run(fresh(), lr=1e30, warmup=0)


def test_a_validation_loss_that_is_no_number_stops_the_run_before_it_is_saved(tmp_path):
    path, model = tmp_path / "run.pt", fresh()
    start = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match=r"at step 1\b"):
        run(model, lr=1e30, warmup=0, checkpoint=path, every=1)
    assert same(load_checkpoint(path).state_dict(), start)
    with pytest.raises(FloatingPointError, match=r"at step 1\b"):
        run(fresh(), 1, lr=1e30, warmup=0)


@pytest.mark.parametrize("at", [1, 5])
def test_a_gradient_that_is_no_number_is_not_kept(tmp_path, at):
    """The loss of the step is still finite, and the next thing to happen would be a checkpoint."""
    path, model, steps = tmp_path / "run.pt", fresh(), itertools.count()
    model.lm_head.weight.register_hook(lambda grad: grad * math.inf if next(steps) == at else grad)
    with pytest.raises(FloatingPointError, match=rf"at step {at}\b"):
        run(model, checkpoint=path)
    state = load_checkpoint(path).state_dict()
    assert all(value.isfinite().all() for value in state.values())
    assert torch.load(path, weights_only=True)["step"] == at - 1


def test_a_checkpoint_is_a_model(tmp_path):
    path, model = tmp_path / "folder" / "run.pt", fresh(dropout=0.2, positions="rotary", tied=False)
    run(model, checkpoint=path)
    assert kept(path) == ["run.pt"]
    with torch.random.fork_rng():
        loaded, idx = load_checkpoint(str(path)), random_tokens(2, 6)
    assert loaded.config == model.config and not loaded.training
    assert torch.equal(loaded(idx)[0], model.eval()(idx)[0])


def test_compiled_training_is_the_same_training(tmp_path):
    try:
        with torch.no_grad():
            torch.compile(lambda x: x * 2 + 1)(torch.ones(3))
    except Exception as error:
        pytest.skip(f"torch.compile does not work here: {str(error).splitlines()[0]}")
    path = tmp_path / "run.pt"
    usual, compiled = (fresh(n_layer=1) for _ in range(2))
    options = {"validate": lambda m: validation_loss(m, TEXT), "steps": 3, "every": 3}
    expected, history = run(usual, **options), run(compiled, compile=True, checkpoint=path, **options)
    assert history.losses == pytest.approx(expected.losses, abs=1e-4)
    assert history.validation[-1][1] == pytest.approx(expected.validation[-1][1], abs=1e-4)
    saved = torch.load(path, weights_only=True)["model"]
    assert saved.keys() == usual.state_dict().keys() == compiled.state_dict().keys()
    out = compiled.generate(random_tokens(1, 2), 9, generator=seeded())
    assert torch.equal(load_checkpoint(path).generate(random_tokens(1, 2), 9, generator=seeded()), out)
    torch._dynamo.reset()


# ---- validation ----


@given(st.integers(7, 60), st.integers(1, 9), st.booleans())
@settings(max_examples=20)
def test_the_validation_loss_is_the_mean_over_all_pieces(n, batch_size, training):
    model, tokens = random_model(dropout=0.5).train(training), random_tokens(n, seed=n)
    losses = []
    for start in range(0, n - 6, 6):
        piece = tokens[start : start + 7]
        with torch.no_grad():
            logits = model.eval()(piece[None, :-1])[0][0]
        losses += [-logits[t].log_softmax(-1)[piece[t + 1]].item() for t in range(6)]
    model.train(training)
    assert validation_loss(model, tokens, batch_size=batch_size) == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert model.training == training == model.transformer.h[0].training
    assert len(losses) == 6 * ((n - 1) // 6)


def test_windows_are_fixed_and_spread(monkeypatch):
    model, tokens, read = fresh(), torch.arange(127) % 7, []
    forward = CharGPT.forward
    monkeypatch.setattr(CharGPT, "forward", lambda self, idx, y: read.append((idx, y)) or forward(self, idx, y))
    tokens = torch.arange(127)
    model = fresh(vocab_size=127)
    one, other = (validation_loss(model, tokens, windows=5) for _ in range(2))
    assert one == other
    (idx, targets), (again, _) = read
    assert torch.equal(idx, again) and torch.equal(targets, idx + 1)
    starts = idx[:, 0].tolist()
    assert len(starts) == 5 and starts[0] == 0 and starts[-1] == 120 and all(start % 6 == 0 for start in starts)
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert max(gaps) - min(gaps) <= 6
    whole = validation_loss(model, tokens)
    assert whole == validation_loss(model, tokens, windows=21) == validation_loss(model, tokens, windows=1000) != one


def test_what_validation_refuses():
    model = fresh().train()
    for n in (0, 3, 6):
        with pytest.raises(ValueError, match=f"{n} tokens are too few for a piece of 6"):
            validation_loss(model, TEXT[:n])
    for windows in (0, -2):
        with pytest.raises(ValueError, match="windows"):
            validation_loss(model, TEXT, windows=windows)
    with pytest.raises(IndexError):
        validation_loss(model, TEXT + 99)
    assert model.training, "the mode is as before, even after an error"


# ---- drawing text ----


@pytest.mark.parametrize("positions", POSITIONS)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 8), st.integers(0, 1000))
@settings(max_examples=12)
def test_temperature_zero_takes_the_likeliest(positions, B, T, n, seed):
    model, prompt = random_model(seed, positions=positions), random_tokens(B, T, seed=seed)
    expected = prompt
    for _ in range(n):
        with torch.no_grad():
            likeliest = [model(row[None, -6:])[0][0, -1].argmax() for row in expected]
        expected = torch.cat((expected, torch.stack(likeliest)[:, None]), 1)
    assert torch.equal(model.generate(prompt, n, temperature=0), expected)
    assert torch.equal(model.generate(prompt, n, top_k=1, generator=seeded()), expected)
    assert torch.equal(model.generate(prompt, n, temperature=1e-5, generator=seeded()), expected)


def test_tokens_are_drawn_as_often_as_the_softmax_says():
    model, n = random_model(), 4000
    prompt = random_tokens(1, 4)
    with torch.no_grad():
        logits = model(prompt)[0][0, -1]
    for temperature, top_k in ((1.0, None), (2.0, None), (2.0, 3), (1.0, 50)):
        p = logits / temperature
        if top_k == 3:
            p[logits.argsort()[:-3]] = -math.inf
        p = p.softmax(-1)
        out = model.generate(prompt.repeat(n, 1), 1, temperature=temperature, top_k=top_k, generator=seeded())[:, -1]
        share = out.bincount(minlength=7) / n
        assert ((share - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()
        assert not share[p == 0].any()


def test_top_k_leaves_that_many_even_of_equals():
    model = fresh()
    model.transformer.ln_f.weight.data.zero_()  # every token is as likely as any other
    prompt = random_tokens(500, 2)
    assert len(model.generate(prompt, 1, generator=seeded())[:, -1].unique()) == 7
    for k in (1, 2, 5):
        assert len(model.generate(prompt, 1, top_k=k, generator=seeded())[:, -1].unique()) == k


def test_drawing_is_seeded_and_rows_are_appended():
    model, prompt = random_model(dropout=0.5).train(), random_tokens(2, 9)
    before = torch.get_rng_state()
    one, again, other = (model.generate(prompt, 20, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before), "dropout is off, and draws come from the generator"
    assert one.shape == (2, 29) and one.dtype == torch.int64 and torch.equal(one[:, :9], prompt)
    assert torch.equal(model.eval().generate(prompt, 20, generator=seeded(0)), one)
    assert torch.equal(model.generate(prompt, 0), prompt) and not one.requires_grad


@pytest.mark.parametrize("training", [False, True])
def test_what_generate_refuses(training):
    model = fresh().train(training)
    for prompt in (torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 1, dtype=torch.int64), random_tokens(3)):
        with pytest.raises(ValueError, match=r"prompt.*shape \(B, T\), got \("):
            model.generate(prompt, 1)
    with pytest.raises(ValueError, match="whole numbers"):
        model.generate(torch.zeros(1, 2), 1)
    for temperature in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"temperature must be at least 0.*{temperature}"):
            model.generate(random_tokens(1, 2), 1, temperature=temperature)
    for top_k in (0, -1):
        with pytest.raises(ValueError, match=f"top_k at least 1.*{top_k}"):
            model.generate(random_tokens(1, 2), 1, top_k=top_k)
    for token in (7, -1):
        with pytest.raises(IndexError, match="numbered from 0 to 6"):
            model.generate(torch.tensor([[1, token]]), 3)
    assert model.training == training == model.transformer.h[0].training
    model.generate(random_tokens(1, 2), 3)
    assert model.training == training == model.transformer.h[0].training
