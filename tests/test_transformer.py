"""zerohero.transformer: the network beside GPT-2's, its dropout, and the text it draws."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from zerohero import transformer
from zerohero.transformer import CausalSelfAttention, CharGPT, CharGPTConfig, dropout, rotate

NORMS, POSITIONS = ("layer", "rms"), ("learned", "rotary")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "relu2", "swiglu")
EVERY_CHOICE = list(itertools.product(NORMS, ACTIVATIONS, POSITIONS))
pytestmark = pytest.mark.usefixtures("one_thread")


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
