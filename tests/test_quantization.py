"""Weights of fewer bits: what is kept of each number, and that all ways of multiplying come to the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zerohero import quantization
from zerohero.gpt2 import GPT, GPTConfig
from zerohero.inference import generate
from zerohero.quantization import (
    GROUP,
    Int4Linear,
    IntLinear,
    PackedLinear,
    can_pack,
    can_pack_int4,
    for_inference,
    quantize_groups,
    quantize_rows,
    ungroup,
    weight_bytes,
)
from zerohero.transformer import CharGPT, CharGPTConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_linear(inputs, outputs, bias=True, scale=1.0):
    linear = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        for p in linear.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=seeded()))
    return linear.requires_grad_(False)


MODELS = {
    "gpt": GPT(GPTConfig(211, 32, 2, 2, 64), seeded()).eval(),
    "llama": GPT(GPTConfig(211, 32, 2, 2, 192, pos="rope", norm="rms", mlp="swiglu", bias=False), seeded()).eval(),
    "characters": CharGPT(CharGPTConfig(65, 32, 2, 2, 64, tied=False), seeded()).eval(),
}


@settings(max_examples=80)
@given(rows=st.integers(1, 9), columns=st.integers(1, 70), size=st.floats(1e-6, 1e6), seed=st.integers(0, 999))
def test_8_bits_are_at_most_half_a_step_away(rows, columns, size, seed):
    weight = size * torch.randn(rows, columns, generator=seeded(seed))
    q, scale = quantize_rows(weight)
    assert q.dtype == torch.int8 and q.abs().amax(1).eq(127).all()
    error = (q.float() * scale[:, None] - weight).abs()
    assert (error <= 0.501 * scale[:, None]).all()


@settings(max_examples=80)
@given(rows=st.integers(1, 5), groups=st.integers(1, 3), shift=st.floats(-9, 9), seed=st.integers(0, 999))
def test_4_bits_are_at_most_half_a_step_away_in_each_group(rows, groups, shift, seed):
    weight = torch.randn(rows, groups * GROUP, generator=seeded(seed)) + shift
    q, scale, middle = quantize_groups(weight)
    assert q.shape == (rows, groups, GROUP // 2) and q.dtype == torch.uint8
    error = (ungroup(q, scale, middle) - weight).abs().view(rows, groups, GROUP)
    # the scale and the middle are rounded too, to 8 bits
    assert (error <= 0.54 * scale.float()[..., None] + (middle.float().abs() / 256)[..., None]).all()


def test_by_hand():
    q, scale = quantize_rows(torch.tensor([[1.27, -0.5, 0.004], [0.0, 0.0, 0.0]]))
    assert q.tolist() == [[127, -50, 0], [0, 0, 0]] and round(scale[0].item(), 4) == 0.01
    group = torch.arange(GROUP) % 16 / 8 + 3.0  # 3, 3.125 ... 4.875
    q, scale, middle = quantize_groups(group[None])
    low, high = q[0, 0] & 15, q[0, 0] >> 4
    assert low.tolist() == high.tolist() == list(range(16))
    assert scale.item() == 0.125 and middle.item() == 4.0
    assert torch.equal(ungroup(q, scale, middle)[0], group)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (16, 128), (17, 64), (2, 7, 192), (1, 1, 65)])
def test_inference_code_and_torch_multiply_alike(threads, bias, shape, monkeypatch):
    pytest.importorskip("numba", reason="numba is not installed")
    linear = random_linear(shape[-1], 37, bias)
    whole = IntLinear(linear)
    x = torch.randn(shape, generator=seeded(1))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    y = whole(x)
    torch.testing.assert_close(y, nn.functional.linear(x, whole.rows(), linear.bias), rtol=1e-4, atol=1e-4)
    assert (y - linear(x)).norm() < 0.02 * y.norm() and whole(x.bfloat16()).dtype == torch.bfloat16
    other = torch.randn(shape[-1], *shape[:-1], generator=seeded(1)).movedim(0, -1)  # rows that are not in one piece
    torch.testing.assert_close(
        whole(other), nn.functional.linear(other, whole.rows(), linear.bias), rtol=1e-4, atol=1e-4
    )
    monkeypatch.setattr(quantization, "inference_code", lambda: None)
    torch.testing.assert_close(whole(x), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (5, 32), (2, 40, 192), (1, 1, 64)])
def test_torch_s_product_for_4_bits_and_ours_are_alike(bias, shape, monkeypatch):
    linear = random_linear(shape[-1], 48, bias)
    x = torch.randn(shape, generator=seeded(1))
    monkeypatch.setattr(quantization, "can_pack_int4", lambda: False)
    plain = Int4Linear(linear)
    expected = nn.functional.linear(x.bfloat16().float(), ungroup(plain.q, plain.scale, plain.middle), linear.bias)
    torch.testing.assert_close(plain(x), expected)
    assert (expected - linear(x)).norm() < 0.15 * expected.norm()
    assert plain(x.bfloat16()).dtype == torch.bfloat16
    monkeypatch.undo()
    if not can_pack_int4():
        pytest.skip("torch has no fast product for 4 bits on this processor")
    packed = Int4Linear(linear)
    assert packed.packed and packed.weight_bytes == plain.weight_bytes
    torch.testing.assert_close(packed(x), expected, rtol=0.01, atol=0.05)
    assert not Int4Linear(random_linear(64, 37)).packed  # rows that come in no sixteens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 64), (2, 64), (1, 1, 96), (3, 5, 64), (70, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_products_are_those_of_the_linear_layer(dtype, shape, bias):
    if not can_pack(dtype):
        pytest.skip(f"torch packs no {dtype} on this processor")
    linear = random_linear(shape[-1], 50, bias).to(dtype)
    x = torch.randn(shape, generator=seeded(1)).to(dtype)
    y = PackedLinear(linear)(x)
    assert y.shape == (*shape[:-1], 50) and y.dtype == dtype
    far = 1e-4 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(y, linear(x), rtol=0.01, atol=far)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("precision", "far"), [("float32", 1e-5), ("bfloat16", 0.05), ("int8", 0.02), ("int4", 0.2)])
def test_a_prepared_model_says_nearly_the_same(name, precision, far):
    model = MODELS[name]
    idx = torch.randint(65, (2, 9), generator=seeded())
    before = {n: p.clone() for n, p in model.state_dict().items()}
    ready = for_inference(model, precision)
    with torch.no_grad():
        expected, got = model(idx)[0], ready(idx)[0]
    error = (got - expected).abs().max() / expected.std()
    assert error < far * 6, error
    assert precision == "float32" or error > 0
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())  # the model itself is untouched
    texts = generate(ready, [[1, 2, 3], [4]], 40, temperature=0)  # beyond the context, too
    assert [len(t) for t in texts] == [43, 41]
    assert generate(ready, [[1, 2, 3]], 12, temperature=0, cache=False) == [texts[0][:15]]


def test_fewer_bits_fewer_bytes():
    model = MODELS["gpt"]
    sizes = {p: weight_bytes(for_inference(model, p)) for p in ("float32", "bfloat16", "int8", "int4")}
    matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    rest = sum(p.numel() for p in model.parameters()) - matrices
    assert sizes["float32"] == 4 * (matrices + rest)
    assert sizes["bfloat16"] == 2 * (matrices + rest)
    rows = sum(m.weight.shape[0] for m in model.modules() if isinstance(m, nn.Linear))
    assert sizes["int8"] == matrices + 4 * rows + 4 * rest
    head = model.lm_head.weight
    inner = matrices - head.numel()
    assert sizes["int4"] == inner // 2 + 4 * inner // GROUP + head.numel() + 4 * len(head) + 4 * rest


def test_a_better_grid_has_less_to_lose():
    """The loss of a model of counted words rises the more, the fewer the bits."""
    model, idx = MODELS["llama"], torch.randint(211, (4, 32), generator=seeded(3))
    with torch.no_grad():
        target = model(idx)[0].double().softmax(-1)  # what is lost is less than a float32 can tell
        losses = [
            -(target * for_inference(model, p)(idx)[0].double().log_softmax(-1)).sum(-1).mean().item()
            for p in ("float32", "int8", "int4")
        ]
    assert losses[0] < losses[1] < losses[2] < losses[0] + 0.05


def pack_nothing(monkeypatch):
    """Makes this processor one for which torch's libraries pack nothing."""
    monkeypatch.setattr(quantization, "can_pack", lambda dtype: False)
    monkeypatch.setattr(quantization, "can_pack_int4", lambda: False)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("precision", quantization.PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_refused_and_counted_is_the_same_on_every_processor(name, precision, packs, monkeypatch, tmp_path):
    model = MODELS[name]
    if not packs:
        pack_nothing(monkeypatch)
    ready = for_inference(model, precision)
    assert not any(p.requires_grad for p in ready.parameters())
    with pytest.raises(ValueError, match="made ready for inference before"):
        for_inference(ready, precision)
    saves = [ready.state_dict]
    if isinstance(ready, GPT):
        saves.append(lambda: ready.save_pretrained(tmp_path))
    for save in saves:
        with pytest.raises(ValueError, match=f"made ready for inference, in {precision}, and cannot be saved"):
            save()
    assert not list(tmp_path.iterdir())
    model.state_dict()  # the model that it was made of can be saved as before
    here = weight_bytes(ready)
    pack_nothing(monkeypatch)
    assert here == weight_bytes(for_inference(model, precision))


def test_without_packing_and_numba_everything_still_works(monkeypatch):
    pack_nothing(monkeypatch)
    monkeypatch.setattr(quantization, "inference_code", lambda: None)
    for precision in ("float32", "bfloat16", "int8", "int4"):
        ready = for_inference(MODELS["gpt"], precision)
        assert not any(isinstance(m, PackedLinear) for m in ready.modules())
        assert len(generate(ready, [[1]], 5, temperature=0)[0]) == 6


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="one of float32, bfloat16, float16, int8, int4, not 'int2'"):
        for_inference(MODELS["gpt"], "int2")
    with pytest.raises(ValueError, match="groups of 32, and rows of 40 numbers cannot"):
        Int4Linear(random_linear(40, 8))
