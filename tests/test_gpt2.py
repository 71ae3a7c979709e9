"""zerohero.gpt2 and zerohero.evaluation: the model beside transformers' GPT-2 and chapter 7's, files in and out, what it
costs beside what torch counts, and how it is judged beside the slow way."""

import itertools
import json
import math
import os
import pickle
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from zerohero.data import DataError
from zerohero.evaluation import (
    bits_per_byte,
    completion_losses,
    hellaswag_accuracy,
    hellaswag_counts,
    hellaswag_examples,
    text_counts,
)
from zerohero.gpt2 import (
    GPT,
    GPT_SIZES,
    PEAK_TFLOPS,
    GPTConfig,
    flops_per_token,
    make_optimizer,
    memory_plan,
    parameter_counts,
    peak_flops,
    plain_names,
)
from zerohero.transformer import CharGPT, CharGPTConfig

pytestmark = pytest.mark.usefixtures("one_thread")
POS, MLP, NORM = ("learned", "rope"), ("gelu", "swiglu", "relu2"), ("layer", "rms")
CHOICES = [
    {"pos": pos, "mlp": mlp, "norm": norm, "bias": bias}
    for pos, mlp, norm, bias in itertools.product(POS, MLP, NORM, (True, False))
]


def named(choice):
    return "-".join(map(str, choice.values())) or "gpt2"


every_choice = pytest.mark.parametrize("choice", CHOICES, ids=named)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(**options):
    sizes = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}
    return GPTConfig(**{**sizes, **options})


def scrambled(model, seed=0):
    """`model` in evaluation mode with parameters so large that every part of it matters."""
    g = seeded(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(
                torch.randn(p.shape, generator=g) * (0.3 if p.ndim == 1 else 0.7 / p.shape[-1] ** 0.5) + (p.ndim == 1)
            )
    return model.eval()


def random_model(seed=0, **options):
    return scrambled(GPT(tiny(**options)), seed)


def tokens(*shape, n=11, seed=0):
    return torch.randint(n, shape, generator=seeded(seed))


# ---- the configuration ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layer": 0}, "n_layer must be at least 1"),
        ({"n_layer": 2.0}, "n_layer must be a whole number"),
        ({"n_embd": 10, "n_head": 4}, "multiple of n_head"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"bias": None}, "bias must be True or False"),
        ({"pos": "rotary"}, "pos must be one of learned, rope, not 'rotary'"),
        ({"mlp": "relu"}, "mlp must be one of gelu, swiglu, relu2"),
        ({"norm": "batch"}, "norm must be one of layer, rms"),
        ({"pos": "rope", "n_embd": 6}, "odd"),
        ({"used_vocab": 12}, "used_vocab must be a whole number from 1 to vocab_size, 11, not 12"),
        ({"used_vocab": 0}, "used_vocab"),
        ({"used_vocab": 3.0}, "used_vocab"),
    ],
)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_padding_belongs_to_no_token():
    assert GPTConfig().n_tokens == GPTConfig(50257).n_tokens == GPTConfig(50304, used_vocab=50257).n_tokens == 50257
    assert GPTConfig(64).n_tokens == 64
    assert GPTConfig(50304, used_vocab=50304).n_tokens == 50304
    assert replace(GPTConfig(), vocab_size=128).n_tokens == 128


# ---- the model ----


def test_the_model_is_chapter_7s_with_other_names_for_the_choices():
    for choice in CHOICES:
        config = tiny(**choice)
        twin = CharGPTConfig(
            11, 8, 2, 2, 8, 0.0, choice["bias"], choice["norm"],
            {"gelu": "gelu_tanh"}.get(choice["mlp"], choice["mlp"]), {"rope": "rotary"}.get(choice["pos"], "learned"),
        )  # fmt: skip
        ours, theirs = GPT(config, seeded()), CharGPT(twin, seeded())
        for (name, p), (other, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert name == other and torch.equal(p, q)  # the same start, from the same generator
        ours.load_state_dict(scrambled(theirs).state_dict())
        x, y = tokens(3, 8), tokens(3, 8, seed=1)
        for mode in (True, False):  # chapter 7 has another attention in training
            (logits, loss), (expected, its_loss) = ours.train(mode)(x, y), theirs.train(mode)(x, y)
            assert torch.allclose(logits, expected, atol=1e-5) and torch.allclose(loss, its_loss)
        assert torch.allclose(ours.attention_weights(x), theirs.attention_weights(x), atol=1e-6)


@given(st.sampled_from(CHOICES), st.integers(1, 7), st.integers(0, 99), st.booleans())
def test_no_position_sees_the_future(choice, position, seed, training):
    model = random_model(seed, **choice).train(training)
    x = tokens(2, 8, seed=seed)
    other = x.clone()
    other[:, position:] = (x[:, position:] + 1 + tokens(2, 8 - position, n=10, seed=seed)) % 11
    with torch.no_grad():
        before, after = model(x)[0], model(other)[0]
    assert torch.equal(before[:, :position], after[:, :position])
    assert not torch.allclose(before[:, position:], after[:, position:])


@given(st.sampled_from(CHOICES), st.integers(1, 3), st.integers(1, 8), st.integers(0, 99))
@settings(max_examples=30)
def test_the_loss_without_logits_and_its_gradients_are_those_with(choice, B, T, seed):
    model = random_model(seed, **choice, used_vocab=9).double().train()
    x, y = tokens(B, T, seed=seed), tokens(B, T, n=9, seed=seed + 1)
    y[0, 0], y[-1, -1] = 3, -1 if B * T > 1 else 3  # one that does not count
    found = []
    for return_logits in (True, False):
        model.zero_grad()
        logits, loss = model(x, y, return_logits=return_logits)
        assert (logits is None) is not return_logits
        loss.backward()
        found.append((loss.detach(), *(p.grad for p in model.parameters())))
    for full, chunked in zip(*found, strict=True):
        assert torch.allclose(full, chunked, rtol=1e-9, atol=1e-12)


def test_gradients_without_logits_are_differences_of_the_loss_with():
    model = random_model(n_layer=1, vocab_size=5, block_size=3, n_embd=4, used_vocab=4).double()
    x, y = torch.tensor([[1, 3, 0], [2, 2, 1]]), torch.tensor([[3, -1, 1], [0, 2, 3]])
    named = dict(model.named_parameters())

    def loss(p, name, return_logits):
        given = {name: p} | ({"lm_head.weight": p} if "wte" in name else {})
        return functional_call(model, given, (x, y), {"return_logits": return_logits})[1]

    step = 1e-5
    for name, p in named.items():
        (slope,) = torch.autograd.grad(loss(p, name, False), p)
        for place in range(p.numel()):
            around = torch.zeros(p.numel(), dtype=p.dtype)
            around[place] = step
            with torch.no_grad():
                up, down = (loss(p + sign * around.view_as(p), name, True) for sign in (1, -1))
            assert math.isclose(slope.flatten()[place], (up - down) / (2 * step), rel_tol=1e-5, abs_tol=1e-8), name


def test_a_new_model_knows_nothing():
    logits, loss = GPT(tiny(vocab_size=512, used_vocab=500), seeded())(tokens(4, 8, n=500), tokens(4, 8, n=500, seed=1))
    assert logits.shape == (4, 8, 500)
    assert abs(loss.item() - math.log(500)) < 0.05


def test_attention_never_holds_all_scores():
    T = 1024
    model = GPT(GPTConfig(16, T, 1, 1, 16)).train()
    x = tokens(1, T, n=16)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        model(x, x, return_logits=False)[1].backward()
    assert max(memory_events(record)) < T * T * 2


def test_dropout_acts_in_training_only():
    model = GPT(tiny(dropout=0.5, vocab_size=64, n_embd=32), seeded())
    x = tokens(2, 8)
    assert not torch.equal(model(x)[0], model(x)[0])
    model.eval()
    assert torch.equal(model(x)[0], model(x)[0])
    assert model.attention_weights(x).shape == (2, 2, 2, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((tokens(2, 9),), {}, "9 tokens do not fit into a context of 8"),
        ((tokens(8),), {}, "shape \\(B, T\\)"),
        ((torch.rand(2, 8),), {}, "whole numbers"),
        ((tokens(2, 8), tokens(2, 7)), {}, "each token needs one target"),
        ((tokens(2, 8),), {"return_logits": False}, "Without targets"),
        ((tokens(2, 8) + 7,), {}, "numbered from 0 to 10"),
        ((tokens(2, 8), tokens(2, 8) + 11), {"return_logits": False}, "numbered from 0 to 10"),
    ],
)
def test_impossible_calls_are_refused(arguments, options, message):
    with pytest.raises((ValueError, IndexError), match=message):
        GPT(tiny())(*arguments, **options)


def test_generation_is_chapter_7s_and_greedy_takes_the_likeliest():
    model, idx = random_model(), tokens(2, 3)
    for _ in range(12):  # goes beyond the context
        idx = torch.cat((idx, model(idx[:, -8:])[0][:, -1:].argmax(-1)), 1)
    assert torch.equal(model.generate(idx[:, :3], 12, temperature=0), idx)
    drawn = [model.generate(idx[:, :3], 9, generator=seeded(5), top_k=4) for _ in range(2)]
    assert torch.equal(*drawn) and drawn[0].shape == (2, 12)


# ---- padding ----


def test_padding_changes_nothing():
    """However large the rows of padding are, and whichever path makes the loss."""
    whole = random_model(n_embd=16, vocab_size=13)
    padded = GPT(tiny(n_embd=16, vocab_size=16, used_vocab=13)).eval()
    state = whole.state_dict()
    for name in ("transformer.wte.weight", "lm_head.weight"):
        state[name] = torch.cat((state[name], 50 * torch.randn(3, 16, generator=seeded(1))))
    padded.load_state_dict(state)
    x, y = tokens(2, 8, n=13), tokens(2, 8, n=13, seed=1)
    for return_logits in (True, False):
        whole.zero_grad(), padded.zero_grad()
        logits, loss = whole(x, y, return_logits=return_logits)
        its_logits, its_loss = padded(x, y, return_logits=return_logits)
        loss.backward(), its_loss.backward()
        assert torch.allclose(loss, its_loss)
        if return_logits:
            assert torch.allclose(logits, its_logits, atol=1e-6)
        dp, dq = whole.lm_head.weight.grad, padded.lm_head.weight.grad
        assert torch.allclose(dp, dq[:13], atol=1e-6) and not dq[13:].any()
    assert padded.generate(x, 200, temperature=5.0, generator=seeded()).max() < 13
    assert torch.equal(padded.generate(x, 9, temperature=0), whole.generate(x, 9, temperature=0))


# ---- files: beside transformers ----


@pytest.fixture(scope="module")
def transformers():
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    library.logging.set_verbosity_error()
    return library


def their_gpt2(transformers, *, vocab_size=300, n_positions=32, seed=0, **options):
    config = transformers.GPT2Config(
        vocab_size=vocab_size, n_positions=n_positions, bos_token_id=0, eos_token_id=0, **options
    )
    return scrambled(transformers.GPT2LMHeadModel(config), seed)


@torch.no_grad()
def assert_same_logits(ours, theirs, *, T=32, n=300, atol=1e-4):
    x = tokens(2, T, n=n)
    expected = theirs(x).logits
    assert expected.std() > 0.3  # or the comparison would say little
    assert (ours(x)[0] - expected).abs().max() < atol


@pytest.mark.parametrize("name", GPT_SIZES)
def test_logits_are_transformers_for_the_four_shapes(transformers, tmp_path, name):
    size = GPT_SIZES[name]  # as many heads, of a quarter of the width, in a sixth of the layers
    reduced = {"n_layer": size["n_layer"] // 6, "n_head": size["n_head"], "n_embd": size["n_embd"] // 4}
    theirs = their_gpt2(transformers, **reduced)
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path)
    assert not ours.training and ours.lm_head.weight is ours.transformer.wte.weight
    assert_same_logits(ours, theirs)
    ours.save_pretrained(tmp_path / "back")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert_same_logits(ours, again)
    for (key, p), (other, q) in zip(theirs.named_parameters(), again.named_parameters(), strict=True):
        assert key == other and torch.equal(p, q)


@pytest.mark.long
def test_logits_are_transformers_for_gpt2_itself(transformers, tmp_path):
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    assert sum(p.numel() for p in theirs.parameters()) == 124_439_808
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path)
    assert ours.config == GPTConfig(50257, used_vocab=50257)
    assert_same_logits(ours, theirs, T=64, n=50257)
    ours.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.eos_token_id == 50256
    assert_same_logits(ours, again, T=64, n=50257)


@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("choice", CHOICES, ids=named)
def test_what_is_saved_is_loaded_and_by_transformers_if_it_is_a_gpt2(transformers, tmp_path, choice, padded):
    sizes = {"vocab_size": 512 if padded else 300, "used_vocab": 300, "block_size": 32, "n_embd": 32}
    ours = random_model(**sizes, **choice)
    ours.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
    again, x = GPT.from_pretrained(tmp_path), tokens(2, 32, n=300)
    assert again.config == replace(ours.config, vocab_size=300)
    assert torch.equal(again(x)[0], ours(x)[0]) or torch.allclose(again(x)[0], ours(x)[0], atol=1e-5)
    if choice["pos"] == "learned" and choice["norm"] == "layer" and choice["mlp"] != "swiglu":
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert_same_logits(ours, theirs)
        theirs.save_pretrained(tmp_path / "back")
        assert GPT.from_pretrained(tmp_path / "back").config == again.config
    else:
        with pytest.raises(ValueError, match="zerohero-gpt"):
            transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_biases_that_were_trained_elsewhere_are_kept(transformers, tmp_path):
    random_model(vocab_size=300, block_size=32, n_embd=32, bias=False).save_pretrained(tmp_path)
    theirs = scrambled(transformers.AutoModelForCausalLM.from_pretrained(tmp_path))
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path)
    assert ours.config.bias
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize("rows", [300, 384])
def test_loading_padded_changes_no_probability(transformers, tmp_path, rows):
    theirs = their_gpt2(transformers, vocab_size=rows, n_layer=1, n_head=2, n_embd=32)
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path, padded=True, dropout=0.1)
    assert (ours.config.vocab_size, ours.config.n_tokens, ours.config.dropout) == (384, rows, 0.1)
    assert ours.lm_head.weight is ours.transformer.wte.weight and len(ours.lm_head.weight) == 384
    assert_same_logits(ours, theirs)
    assert GPT.from_pretrained(tmp_path).config.vocab_size == rows


SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32}


@pytest.fixture
def saved(transformers, tmp_path):
    """A small GPT-2 of transformers and the folder it lies in, new for each test that spoils it."""
    theirs = their_gpt2(transformers, **SMALL)
    theirs.save_pretrained(tmp_path)
    return theirs, tmp_path


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_read_as_float32(saved, dtype):
    theirs, folder = saved
    theirs.to(dtype).save_pretrained(folder)
    ours = GPT.from_pretrained(folder)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert_same_logits(ours, theirs.float())


def test_several_files_are_read_as_one(saved):
    theirs, folder = saved
    (folder / "model.safetensors").unlink()
    theirs.save_pretrained(folder, max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").is_file() and len(list(folder.glob("*.safetensors"))) > 2
    assert_same_logits(GPT.from_pretrained(folder), theirs)
    sorted(folder.glob("*.safetensors"))[1].unlink()
    with pytest.raises(FileNotFoundError, match="incomplete: .*model-00002"):
        GPT.from_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model.safetensors.index.json is damaged"):
        GPT.from_pretrained(folder)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("shards", [1, 2])
def test_pickles_of_tensors_are_read(saved, legacy, shards):
    theirs, folder = saved
    (folder / "model.safetensors").unlink()
    state, files = theirs.state_dict(), {}
    for shard in range(shards):
        part = dict(list(state.items())[shard::shards])
        name = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{shard}.bin"
        files |= dict.fromkeys(part, name)
        torch.save(part, folder / name, _use_new_zipfile_serialization=not legacy)
    if shards > 1:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    assert_same_logits(GPT.from_pretrained(folder), theirs)


class Program:
    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


def test_a_pickle_is_never_run(saved, tmp_path):
    theirs, folder = saved
    (folder / "model.safetensors").unlink()
    torch.save({**theirs.state_dict(), "more": Program(tmp_path / "harm")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="more than tensors"):
        GPT.from_pretrained(folder)
    assert not (tmp_path / "harm").exists()
    for content in ({"model": theirs.state_dict()}, [torch.ones(3)]):
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match="more than tensors"):
            GPT.from_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Program(tmp_path / "harm"), protocol=2))
    with pytest.raises(ValueError, match="more than tensors"):
        GPT.from_pretrained(folder)
    assert not (tmp_path / "harm").exists()


def rewrite(folder, change):
    """Replaces the tensors of a folder by what `change` makes of them."""
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})


def test_openais_upload_has_other_names_and_masks(saved):
    theirs, folder = saved

    def as_uploaded(state):
        state = {name.removeprefix("transformer."): value for name, value in state.items()}
        for layer in range(2):
            state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
            state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        return state

    rewrite(folder, as_uploaded)
    assert_same_logits(GPT.from_pretrained(folder), theirs)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_checkpoints_of_compiled_and_distributed_runs_load(saved, prefix):
    theirs, folder = saved
    rewrite(folder, lambda state: {prefix + name: value for name, value in state.items()})
    assert_same_logits(GPT.from_pretrained(folder), theirs)


def test_plain_names():
    def wrapped(name, module):  # as torch.compile and DistributedDataParallel call what is inside them
        return torch.nn.ModuleDict({name: module})

    plain, model = GPT(tiny()), random_model()
    states = [model.state_dict()]
    states += [wrapped("_orig_mod", model).state_dict(), wrapped("module", wrapped("_orig_mod", model)).state_dict()]
    model.transformer.h[1] = wrapped("_orig_mod", model.transformer.h[1])  # blocks may be compiled one by one
    states.append(model.state_dict())
    assert len({tuple(state) for state in states}) == 4
    for state in states:
        assert list(plain_names(state)) == list(plain.state_dict())
        plain.load_state_dict(plain_names(state))
    assert plain_names({}) == {}


def test_given_weights_are_saved_instead_of_the_models_own(tmp_path):
    model, other = random_model(), random_model(seed=1)
    model.save_pretrained(tmp_path, {f"module._orig_mod.{n}": p.double() for n, p in other.state_dict().items()})
    loaded = GPT.from_pretrained(tmp_path)
    assert all(torch.equal(p, q) for p, q in zip(loaded.parameters(), other.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"ln_f.weight is missing"):
        model.save_pretrained(tmp_path, {n: p for n, p in other.state_dict().items() if "ln_f.weight" not in n})


def test_saving_over_the_files_that_were_loaded(tmp_path):
    random_model().save_pretrained(tmp_path)
    model = GPT.from_pretrained(tmp_path)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.write(b"\0" * (tmp_path / "model.safetensors").stat().st_size)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    model.save_pretrained(str(tmp_path))
    assert torch.equal(GPT.from_pretrained(str(tmp_path)).lm_head.weight, before["lm_head.weight"])


def test_a_loaded_model_can_be_trained(tmp_path):
    random_model(pos="rope").save_pretrained(tmp_path)
    model, x = GPT.from_pretrained(tmp_path).train(), tokens(2, 8)
    optimizer = make_optimizer(model, 1e-2)
    losses = []
    for _ in range(5):
        loss = model(x, x, return_logits=False)[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    assert model.lm_head.weight is model.transformer.wte.weight


# ---- files: what can be wrong ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "of type llama, not a GPT-2"),
        ({"activation_function": "gelu"}, "activation_function = 'gelu'"),
        ({"n_inner": 96}, "n_inner = 96; a GPT can only be None or 128"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"n_head": 5}, "describes no possible GPT: n_embd must be a multiple"),
        ({"zerohero": {"pos": "alibi"}}, "no possible GPT: pos must be"),
        ({"zerohero": {"width": 3}}, "no possible GPT: .*width"),
        ({"zerohero": 3}, "no possible GPT"),
        ({"vocab_size": None}, "damaged|no possible GPT"),
        ({"n_embd": "wide"}, "damaged|no possible GPT"),
        ({"vocab_size": 301}, r"transformer.wte.weight has shape \(300, 32\) instead of \(301, 32\)"),
        ({"n_layer": 3}, r"h.2.\S+ is missing.*\(and \d+ more\)"),
        ({"n_layer": 1}, r"h.1.\S+ is unknown"),
        ({"n_positions": 64}, "wpe"),
    ],
)
def test_a_config_of_something_else_is_refused(saved, change, message):
    path = saved[1] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        GPT.from_pretrained(saved[1])


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"model_type": "gpt2"}', "\x00"])
def test_a_damaged_config_is_named(saved, text):
    (saved[1] / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json is damaged, or describes no GPT-2"):
        GPT.from_pretrained(saved[1])


def test_damaged_weights_are_named(saved):
    _, folder = saved
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-9], whole[:5], b"", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
            GPT.from_pretrained(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor pytorch_model.bin"):
        GPT.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json is missing"):
        GPT.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"lm_head.weight": s["transformer.wte.weight"] + 1}, "one matrix"),
        (lambda s: {n: p for n, p in s.items() if "wte" not in n}, "one matrix"),
        (lambda s: {n: p for n, p in s.items() if "h.1.ln_2.bias" not in n}, "h.1.ln_2.bias is missing"),
        (lambda s: s | {"transformer.h.0.attn.c_attn.lora": torch.ones(3)}, r"c_attn\.lora is unknown"),
    ],
)
def test_weights_of_something_else_are_refused(saved, change, message):
    rewrite(saved[1], change)
    with pytest.raises(ValueError, match=message):
        GPT.from_pretrained(saved[1])


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        random_model().save_pretrained(tmp_path / "file")
    random_model().save_pretrained(tmp_path / "new" / "folders")
    assert GPT.from_pretrained(tmp_path / "new" / "folders")


def test_a_disk_that_is_full_leaves_the_old_files(tmp_path, monkeypatch):
    model = random_model()
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path, content):
        with open(path, "wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(DataError, match="No space left"):
        random_model(seed=1).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- the hub ----


@pytest.fixture
def hub(monkeypatch, saved):
    """A hub that has one model, under every name, and notes what is asked of it."""
    library, asked = pytest.importorskip("huggingface_hub"), []

    def snapshot_download(repo_id, allow_patterns):
        asked.append((repo_id, allow_patterns))
        return str(saved[1])

    monkeypatch.setattr(library, "snapshot_download", snapshot_download)
    return *saved, asked


@pytest.mark.parametrize("name", [*GPT_SIZES, "somebody/a-model_2.0"])
def test_names_are_found_on_the_hub(hub, name):
    theirs, _, asked = hub
    assert_same_logits(GPT.from_pretrained(name), theirs)
    assert [repo for repo, _ in asked] == [f"openai-community/{name}" if name in GPT_SIZES else name]
    assert "config.json" in asked[0][1] and not any(pattern.endswith((".bin", "*")) for pattern in asked[0][1])


def test_old_uploads_have_a_pickle(hub):
    theirs, folder, asked = hub
    (folder / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    assert_same_logits(GPT.from_pretrained("gpt2"), theirs)
    assert len(asked) == 2


def test_without_the_hub_the_message_says_what_to_do(monkeypatch, tmp_path):
    library = pytest.importorskip("huggingface_hub")

    def offline(*args, **options):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(library, "snapshot_download", offline)
    with pytest.raises(DataError, match=r"nobody there.*network connection, or copy.*config.json"):
        GPT.from_pretrained("gpt2")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        GPT.from_pretrained("gpt2-xl")
    for name in ("gpt-2", tmp_path / "nowhere", "a/b/c", "../gpt2", "runs\\last"):
        with pytest.raises(FileNotFoundError, match="There is no folder"):
            GPT.from_pretrained(name)


def test_the_module_imports_nothing_that_it_does_not_need():
    program = "import sys, zerohero.gpt2; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"transformers", "huggingface_hub", "datasets", "matplotlib", "IPython", "tensorboard"}


# ---- what it costs ----


def test_gpt2_has_124_439_808_parameters():
    counts = parameter_counts(GPTConfig(vocab_size=50257))
    assert counts == {
        "tokens": 38_597_376,
        "positions": 786_432,
        "attention": 28_348_416,
        "feed-forward": 56_669_184,
        "norms": 38_400,
    }
    assert sum(counts.values()) == 124_439_808
    assert sum(parameter_counts(GPTConfig()).values()) == 124_439_808 + 47 * 768
    published = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}
    for name, size in GPT_SIZES.items():
        assert sum(parameter_counts(GPTConfig(50257, **size)).values()) == published[name]


@given(
    st.sampled_from(CHOICES),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 9),
)
@settings(max_examples=40)
def test_counts_are_those_of_the_built_model(choice, V, T, n_layer, n_head, half):
    config = GPTConfig(V, T, n_layer, n_head, 2 * half * n_head, **choice)
    with torch.device("meta"):
        model = GPT(config)
    part = {"wte": "tokens", "wpe": "positions", "attn": "attention", "mlp": "feed-forward"}
    found = dict.fromkeys([*part.values(), "norms"], 0)
    for name, p in model.named_parameters():
        inside = [part[piece] for piece in name.split(".") if piece in part]
        found[inside[0] if inside else "norms"] += p.numel()
    assert parameter_counts(config) == found


@given(
    st.sampled_from(CHOICES),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
)
@settings(max_examples=20)
def test_operations_are_those_that_torch_counts(choice, V, T, n_layer, n_head, B):
    config = GPTConfig(V, 9, n_layer, n_head, 6 * n_head, **choice)
    model, x = GPT(config), tokens(B, T, n=V)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x, x)[1].backward()
    flops = flops_per_token(config, T)
    assert sum(flops.values()) * B * T == counter.get_total_flops()
    products = counter.get_flop_counts()["GPT"]
    assert (flops["attention"]) * B * T == sum(n for op, n in products.items() if "bmm" in str(op))


def test_gpt2_costs_0_86_gflop_per_token():
    flops = flops_per_token(GPTConfig(), 1024)
    assert list(flops) == ["projections", "attention", "feed-forward", "output"]
    assert sum(flops.values()) == 854_654_976
    assert flops["output"] == 6 * 50304 * 768
    past = flops_per_token(GPTConfig(), 1024, causal=True)
    assert past["attention"] * 2 == flops["attention"] * 1025 / 1024
    assert {**past, "attention": 0} == {**flops, "attention": 0}


def memory_events(record):
    """The bytes of each allocation, and of each release as a negative number, in order."""
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def measured_peak(config, B, T, autocast, chunked_loss, accumulate):
    """The bytes that are there at the peak of a training step, weights and optimizer's averages included."""
    model = GPT(config)
    optimizer, x = make_optimizer(model, 1e-3), tokens(B, T, n=config.n_tokens)

    def step():
        with torch.autocast("cpu", torch.bfloat16, autocast):
            loss = model(x, x, return_logits=not chunked_loss)[1]
        loss.backward()
        optimizer.step()

    step()
    if not accumulate:
        optimizer.zero_grad()
    there = 4 * sum(p.numel() for p in model.parameters()) * (4 if accumulate else 3)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    return there + max(itertools.accumulate(memory_events(record)))


SHAPES = {
    "layers count most": (GPTConfig(256, 128, 4, 2, 64), 4, 128),
    "the vocabulary counts most": (GPTConfig(4096, 128, 1, 2, 32, used_vocab=4000), 4, 128),
    "the vocabulary counts most, for few tokens": (GPTConfig(4096, 16, 1, 2, 64), 1, 16),
    "the weights count most": (GPTConfig(512, 64, 3, 2, 192), 1, 64),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("chunked_loss", [False, True], ids=["logits", "chunked"])
@pytest.mark.parametrize("accumulate", [False, True], ids=["first", "later"])
def test_memory_is_within_15_percent_of_the_plan(shape, autocast, chunked_loss, accumulate):
    config, B, T = SHAPES[shape]
    how = {"autocast": autocast, "chunked_loss": chunked_loss, "accumulate": accumulate}
    planned = memory_plan(config, B, T, **how)
    assert list(planned) == ["weights", "gradients", "optimizer", "activations", "logits"]
    assert abs(sum(planned.values()) / measured_peak(config, B, T, **how) - 1) < 0.15


@pytest.mark.parametrize("choice", [c for c in CHOICES if c["bias"]], ids=named)
def test_memory_is_as_planned_for_every_choice(choice):
    config = GPTConfig(64, 128, 4, 2, 64, **choice)
    for autocast in (False, True):
        measured = measured_peak(config, 4, 128, autocast, True, True)
        assert abs(sum(memory_plan(config, 4, 128, autocast=autocast).values()) / measured - 1) < 0.07


def test_the_plan_has_16_bytes_for_each_parameter():
    plan = memory_plan(GPTConfig(), 64, 1024)
    assert plan["weights"] + plan["gradients"] + plan["optimizer"] == 16 * sum(parameter_counts(GPTConfig()).values())
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        memory_plan(GPTConfig(), 0, 1024)
    for T in (0, 1025):
        with pytest.raises(ValueError, match="T must be"):
            memory_plan(GPTConfig(), 1, T)
        with pytest.raises(ValueError, match="T must be"):
            flops_per_token(GPTConfig(), T)


@every_choice
def test_matrices_decay_and_vectors_do_not(choice):
    model = GPT(tiny(**choice))
    optimizer = make_optimizer(model, 3e-4, 0.2, (0.8, 0.9))
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.2, 0.0)
    sides = [{id(p) for p in group["params"]} for group in (decayed, others)]
    for name, p in model.named_parameters():
        assert (id(p) in sides[0]) == (p.ndim == 2) == (id(p) not in sides[1]), name
    for group in (decayed, others):
        assert group["betas"] == (0.8, 0.9) and group["lr"] == group["full_lr"] == 3e-4 and group["fused"]


def test_a_step_is_adamws():
    """One step by hand: the gradient's sign times lr, and matrices shrunk by lr times weight_decay."""
    model = random_model().double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, 0.01, 0.5)
    model(tokens(4, 8), tokens(4, 8, seed=1))[1].backward()
    optimizer.step()
    for name, p in model.named_parameters():
        expected = before[name] * (1 - 0.01 * 0.5 * (p.ndim == 2)) - 0.01 * p.grad.sign()
        clear = p.grad.abs() > 1e-4
        assert clear.any() and torch.allclose(p[clear], expected[clear], atol=1e-5)


@pytest.mark.parametrize(("lr", "decay", "betas"), [(-1, 0.1, (0.9, 0.95)), (1, -1, (0.9, 0.95)), (1, 0, (0.9, 1.0))])
def test_impossible_optimizers_are_refused(lr, decay, betas):
    with pytest.raises(ValueError, match="lr and weight_decay must be at least 0"):
        make_optimizer(GPT(tiny()), lr, decay, betas)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA B200", 2250),
        ("Tesla T4", None),
        ("cpu", None),
        ("mps", None),
    ],
)
def test_peaks_of_known_devices(name, tflops):
    assert peak_flops(name) == (tflops and tflops * 1e12)


def test_the_peak_of_a_device_is_that_of_its_name(monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "get_device_name", lambda device: f"NVIDIA A100 number {torch.device(device).index}"
    )
    assert peak_flops("cuda") == peak_flops(torch.device("cuda", 3)) == 312e12
    assert peak_flops(torch.device("cpu")) is None
    assert all(peak_flops(name) == value * 1e12 for name, value in PEAK_TFLOPS.items())


# ---- how it is judged ----


def letters(text):
    """A tokenizer of eleven tokens."""
    return [ord(letter) % 10 for letter in text]


STORIES = [
    {"ctx": "A man", "endings": ["sits.", "goes home and", "is a tree, or two", "x"], "label": 1},
    {"ctx": "Two women walk", "endings": ["up", "down the long street", "sideways", "nowhere at all"], "label": 0},
    {"ctx": "It", "endings": ["rains", "snows", "ends", "grows dark"], "label": 3},
    {"ctx": "A dog runs", "endings": ["a", "to it", "and barks", "on"], "label": 2},
    {"ctx": "They", "endings": ["do", "do not", "might", "will have"], "label": 2},
]


def slow_losses(model, context, endings):
    """Token by token, without a batch and without padding."""
    losses, T = [], model.config.block_size
    for ending in endings:
        row = (context + ending)[-T - 1 :]
        nats = []
        for place in range(max(1, len(row) - len(ending)), len(row)):
            logits = model(torch.tensor([row[:place]]))[0][0, -1]
            nats.append(-logits.log_softmax(-1)[row[place]].item())
        losses.append(sum(nats) / len(nats))
    return losses


def slow_accuracy(model, examples):
    right = 0
    for story in examples:
        losses = slow_losses(model, letters(story["ctx"]), [letters(" " + end) for end in story["endings"]])
        right += losses.index(min(losses)) == story["label"]
    return right / len(examples)


words = st.lists(st.integers(0, 10), min_size=1, max_size=14)


@given(words, st.lists(words, min_size=1, max_size=4), st.integers(0, 20), st.booleans())
@example([1], [[2], [3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 2]], 0, True)  # an ending longer than the context
@settings(max_examples=40)
def test_endings_are_scored_as_one_would_by_hand(context, endings, seed, training):
    model = random_model(seed, dropout=0.5).train(training)
    losses = completion_losses(model, context, endings)
    assert model.training is training and losses.shape == (len(endings),)
    assert torch.allclose(losses, torch.tensor(slow_losses(model.eval(), context, endings)), atol=1e-4)


@pytest.mark.parametrize("block_size", [8, 64])
def test_accuracy_is_that_of_the_slow_way(block_size):
    accuracies = set()
    for seed in range(4):
        model = random_model(seed, block_size=block_size)
        accuracies.add(hellaswag_accuracy(model, STORIES, letters))
        assert hellaswag_accuracy(model, STORIES, letters) == slow_accuracy(model, STORIES)
    assert len(accuracies) > 1


def test_the_length_of_an_ending_does_not_count():
    """All tokens equally likely: by the sum the shortest ending would win every time."""
    model = GPT(tiny())
    with torch.no_grad():
        model.lm_head.weight.zero_()
    losses = completion_losses(model, [1, 2], [[3], [4, 5, 6], [7, 8, 9, 10, 0]])
    assert torch.allclose(losses, torch.full((3,), math.log(11)))


@given(st.integers(1, 7))
def test_ranks_share_the_examples(world_size):
    model = random_model(3)
    counts = [hellaswag_counts(model, STORIES, letters, rank=r, world_size=world_size) for r in range(world_size)]
    right, seen = map(sum, zip(*counts))
    assert seen == len(STORIES) and right / seen == hellaswag_accuracy(model, STORIES, letters)


def test_examples_come_from_a_jsonl(tmp_path):
    path = tmp_path / "hellaswag_val.jsonl"
    lines = [json.dumps({"ind": 24, "ctx_a": "", **story, "ctx": story["ctx"] + " café"}) for story in STORIES]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    expected = [{**story, "ctx": story["ctx"] + " café"} for story in STORIES]
    assert hellaswag_examples(path) == hellaswag_examples(str(path)) == expected
    model = random_model(1)
    assert hellaswag_accuracy(model, hellaswag_examples(path), letters) == slow_accuracy(model, expected)


def test_examples_come_from_the_hub(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return datasets.Dataset.from_list([{**story, "label": str(story["label"])} for story in STORIES])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert hellaswag_examples() == STORIES
    assert asked == [("Rowan/hellaswag", "validation")]

    def offline(*args, **options):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"nobody there.*\.jsonl"):
        hellaswag_examples()


def test_without_datasets_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        hellaswag_examples()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        '{"ctx": "a", "endings": ["b"]}',
        '{"ctx": "a", "endings": ["b", "c"], "label": 2}',
        '{"ctx": "a", "endings": ["b", "c"], "label": -1}',
        '{"ctx": "a", "endings": ["b", "c"], "label": ""}',
        '{"ctx": "a", "endings": "bc", "label": 0}',
        '{"ctx": " ", "endings": ["b", "c"], "label": 0}',
        '{"ctx": "a", "endings": ["b", ""], "label": 0}',
        '{"ctx": "a", "endings": ["b", 5], "label": 0}',
    ],
)
def test_a_line_that_is_no_example_is_named(tmp_path, line):
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(STORIES[0]) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"examples.jsonl, line 2 is no example"):
        hellaswag_examples(path)


def test_what_cannot_be_judged_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none.jsonl"):
        hellaswag_examples(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no examples"):
        hellaswag_examples(tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match="no examples"):
        hellaswag_accuracy(random_model(), [], letters)
    for padding in (None, 10):
        with pytest.raises(ValueError, match="encode with the tokenizer"):
            completion_losses(random_model(used_vocab=padding), [1], [[2], [3, 11]])
    with pytest.raises(ValueError, match="needs at least one token"):
        completion_losses(random_model(), [], [[2], [3, 10]])
    with pytest.raises(ValueError, match="needs at least one token"):
        completion_losses(random_model(), [1], [[2], []])
    with pytest.raises(ValueError, match="rank must be"):
        hellaswag_counts(random_model(), STORIES, letters, rank=2, world_size=2)


def slow_nats(model, document):
    ids, T, nats = [10, *letters(document)], model.config.block_size, 0.0
    for place in range(1, len(ids)):
        start = (place - 1) // T * T
        logits = model(torch.tensor([ids[start:place]]))[0][0, -1]
        nats -= logits.log_softmax(-1)[ids[place]].item()
    return nats


@given(st.lists(st.text("abcé ", max_size=40), max_size=4), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=30)
def test_nats_are_those_of_the_slow_way(documents, batch_size, world_size):
    model = random_model(dropout=0.5).train()
    shares = [
        text_counts(model, iter(documents), letters, 10, batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    nats, size = map(sum, zip(*shares))
    assert model.training
    model.eval()
    assert size == len("".join(documents).encode())
    assert math.isclose(nats, sum(slow_nats(model, document) for document in documents), rel_tol=1e-4, abs_tol=1e-4)


def test_bits_per_byte():
    """A model that knows nothing needs log2(11) bits for each of its tokens, whatever they are."""
    model = GPT(tiny())
    with torch.no_grad():
        model.lm_head.weight.zero_()
    nats, size = text_counts(model, ["one letter, one token"], letters, 10)
    assert math.isclose(bits_per_byte(nats, size), math.log2(11), rel_tol=1e-5)
    assert math.isclose(bits_per_byte(3.2924, 4.64), 1.0237, rel_tol=1e-4)
    assert asdict(model.config)["vocab_size"] == 11
    for size in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="no text"):
            bits_per_byte(1.0, size)
