"""zerohero.kernels: attention and the loss in pieces, beside torch's own in one piece, and what they hold in memory."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from zerohero.kernels import flash_attention, linear_cross_entropy


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64, size=1.0):
    x = torch.randn(*shape, generator=seeded(seed), dtype=torch.float64) * size
    return x.to(dtype).requires_grad_()


def gradients(y, inputs, d_y=None):
    return torch.autograd.grad(y, inputs, d_y)


def apart(some, others):
    return max((a - b).abs().max().item() for a, b in zip(some, others))


class LargestTensor(TorchDispatchMode):
    """The largest storage that any operation returns, in bytes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, torch.Tensor):
                self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return result


def peak_bytes(call):
    """The most memory that `call()` held at a time, by torch's own record of every allocation."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events, "torch records no memory any more"
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held)


# ---- flash_attention ----


def heads(T=13, dtype=torch.float64, size=1.0, B=2, H=3, D=4):
    return [randn(B, H, T, D, seed=seed, dtype=dtype, size=size) for seed in range(3)]


def attention(q, k, v, causal):
    """Softmax attention as it is defined."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        past = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~past, float("-inf"))
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("T", [1, 2, 7, 8, 9, 16, 31])
@pytest.mark.parametrize("tile", [(8, 8), (8, 3), (3, 8), (1, 1), (64, 64), (1, 64), (64, 1), (5, 7)])
def test_flash_attention_is_attention(T, tile, causal):
    q, k, v = heads(T)
    ours = flash_attention(q, k, v, causal=causal, block_q=tile[0], block_k=tile[1])
    theirs = attention(q, k, v, causal)
    assert apart([ours], [theirs]) < 1e-14
    d_y = torch.randn(ours.shape, generator=seeded(9), dtype=ours.dtype)
    assert apart(gradients(ours, (q, k, v), d_y), gradients(theirs, (q, k, v), d_y)) < 1e-13


@settings(max_examples=60)
@given(
    st.integers(1, 40), st.integers(1, 50), st.integers(1, 50), st.integers(1, 9), st.booleans(), st.floats(0.01, 30)
)
def test_flash_attention_for_any_tiles(T, block_q, block_k, D, causal, size):
    q, k, v = heads(T, size=size, B=1, H=2, D=D)
    ours = flash_attention(q, k, v, causal=causal, block_q=block_q, block_k=block_k)
    theirs = attention(q, k, v, causal)
    assert apart([ours], [theirs]) < 1e-12 * size
    d_y = torch.randn(ours.shape, generator=seeded(9), dtype=ours.dtype)
    assert apart(gradients(ours, (q, k, v), d_y), gradients(theirs, (q, k, v), d_y)) < 1e-10 * max(1, size) ** 2


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-13), (torch.float32, 5e-6)])
def test_flash_attention_is_that_of_torch(dtype, near, causal):
    q, k, v = heads(200, dtype, D=16)
    ours = flash_attention(q, k, v, causal=causal, block_q=64, block_k=48)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    assert ours.dtype == dtype and apart([ours], [theirs]) < near
    d_y = torch.randn(ours.shape, generator=seeded(9), dtype=torch.float64).to(dtype)
    assert apart(gradients(ours, (q, k, v), d_y), gradients(theirs, (q, k, v), d_y)) < 10 * near


@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_passes_gradcheck(causal):
    def tiled(*qkv):
        return flash_attention(*qkv, causal=causal, block_q=3, block_k=2)

    assert torch.autograd.gradcheck(tiled, heads(7, B=1, H=2))


def test_flash_attention_survives_scores_that_overflow():
    q, k, v = heads(40, torch.float32, size=300.0)  # scores around 100,000; exp(89) is infinite
    assert (q @ k.mT).max().exp().isinf()
    ours = flash_attention(q, k, v, block_q=16, block_k=8)
    assert apart([ours], [attention(q, k, v, True)]) < 1e-3
    assert all(g.isfinite().all() for g in gradients(ours.sum(), (q, k, v)))


def test_flash_attention_in_bfloat16_sums_in_float32():
    exact = heads(300, torch.float32, D=32)
    low = [z.detach().bfloat16().requires_grad_() for z in exact]
    ours, theirs = flash_attention(*low, block_q=64, block_k=64), attention(*[z.float() for z in low], True)
    assert ours.dtype == torch.bfloat16
    assert apart([ours.float()], [theirs]) < 0.01  # half a unit in the last place of numbers up to 4
    got, wanted = gradients(ours.float().sum(), low), gradients(theirs.sum(), low)
    assert all(g.dtype == torch.bfloat16 for g in got)
    assert all((a - b).float().norm() < 0.02 * b.float().norm() for a, b in zip(got, wanted))


def test_flash_attention_is_not_changed_by_autocast():
    q, k, v = heads(20, torch.float32)
    plain = flash_attention(q, k, v, block_q=8, block_k=8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(flash_attention(q, k, v, block_q=8, block_k=8), plain)


def test_flash_attention_takes_views_of_one_matrix():
    qkv = randn(2, 11, 3, 3, 4)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    ours, theirs = flash_attention(q, k, v, block_q=4, block_k=4), attention(q, k, v, True)
    assert apart(gradients(ours.square().sum(), [qkv]), gradients(theirs.square().sum(), [qkv])) < 1e-12


def test_the_future_changes_nothing():
    q, k, v = (z.detach() for z in heads(20))
    before = flash_attention(q, k, v, block_q=6, block_k=4)
    for z in (q, k, v):
        z[:, :, 13:] = 1000.0
    assert torch.equal(flash_attention(q, k, v, block_q=6, block_k=4)[:, :, :13], before[:, :, :13])


@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_never_holds_a_square(causal):
    T, D = 512, 8
    qkv = heads(T, torch.float32, B=1, H=2, D=D)
    with LargestTensor() as tiled:
        flash_attention(*qkv, causal=causal, block_q=64, block_k=32).sum().backward()
    with LargestTensor() as whole:
        attention(*qkv, causal).sum().backward()
    square, inputs, tile = (4 * 2 * size for size in (T * T, T * D, 64 * 32))
    assert whole.bytes >= square  # the instrument sees it
    assert tiled.bytes <= max(inputs, tile) < square / 16


def test_the_memory_of_flash_attention_grows_with_the_length_that_of_attention_with_its_square():
    def peak(T, function):
        qkv = heads(T, torch.float32, B=1, H=2, D=8)
        return peak_bytes(lambda: function(*qkv).sum().backward())

    short, long = (peak(T, lambda *qkv: flash_attention(*qkv, block_q=32, block_k=32)) for T in (256, 1024))
    assert 2 < long / short < 4.5
    short, long = (peak(T, lambda *qkv: attention(*qkv, True)) for T in (256, 1024))
    assert long / short > 12


def test_flash_attention_saves_only_what_is_linear_in_T():
    saved = []
    qkv = heads(256, torch.float32, B=1, H=1, D=8)
    with torch.autograd.graph.saved_tensors_hooks(lambda z: saved.append(z.numel()) or z, lambda z: z):
        flash_attention(*qkv, block_q=32, block_k=32)
    assert sorted(saved) == [256, *[256 * 8] * 4]


@pytest.mark.parametrize("causal", [True, False])
def test_tiles_of_the_future_are_skipped(causal):
    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten.bmm.default
            return func(*args, **(kwargs or {}))

    with Products() as counted:
        flash_attention(*heads(64), causal=causal, block_q=8, block_k=8).sum().backward()
    tiles = 8 * 9 // 2 if causal else 64
    assert counted.count == tiles * (2 + 5)  # products of a tile forward and backward


def test_flash_attention_names_what_is_wrong():
    q, k, v = heads(8)
    with pytest.raises(ValueError, match=r"one shape .*\(2, 3, 8, 4\), \(2, 3, 7, 4\)"):
        flash_attention(q, k[:, :, :7], v)
    with pytest.raises(ValueError, match=r"\(B, H, T, D\), not \(3, 8, 4\)"):
        flash_attention(q[0], k[0], v[0])
    with pytest.raises(ValueError, match=r"one type.*float32"):
        flash_attention(q, k.float(), v)
    with pytest.raises(ValueError, match="int64"):
        flash_attention(*(z.long() for z in (q, k, v)))
    with pytest.raises(ValueError, match="not 0 x 128"):
        flash_attention(q, k, v, block_q=0)


# ---- linear_cross_entropy ----

N, C, V = 23, 6, 11


def problem(dtype=torch.float64, ignored=4, size=1.0):
    x, weight = randn(N, C, dtype=dtype, size=size), randn(V, C, seed=1, dtype=dtype)
    targets = torch.randint(V, (N,), generator=seeded(2))
    targets[torch.randperm(N, generator=seeded(3))[:ignored]] = -1
    return x, weight, targets


def whole(x, weight, targets, ignore_index=-1):
    return F.cross_entropy(F.linear(x, weight), targets, ignore_index=ignore_index)


@pytest.mark.parametrize("chunk", [1, 2, 7, 22, 23, 24, 1000])
@pytest.mark.parametrize("ignored", [0, 1, 12, 22])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_loss_and_its_gradients_are_those_of_torch(chunk, ignored, dtype):
    near = 64 * torch.finfo(dtype).eps  # logits up to 8, each a sum of six products
    x, weight, targets = problem(dtype, ignored)
    ours, theirs = linear_cross_entropy(x, weight, targets, chunk=chunk), whole(x, weight, targets)
    assert ours.dtype == dtype and ours.shape == () and apart([ours], [theirs]) < near
    got, wanted = gradients(ours, (x, weight)), gradients(theirs, (x, weight))
    assert [g.dtype for g in got] == [dtype, dtype] and apart(got, wanted) < near


def test_the_loss_passes_gradcheck():
    x, weight, targets = problem()
    assert torch.autograd.gradcheck(lambda *xw: linear_cross_entropy(*xw, targets, chunk=5), (x, weight))


def test_without_any_target_the_loss_is_nan_and_teaches_nothing_as_in_torch():
    x, weight, targets = problem(ignored=N)
    for loss in (linear_cross_entropy(x, weight, targets, chunk=5), whole(x, weight, targets)):
        assert loss.isnan()
        assert all((g == 0).all() for g in gradients(loss, (x, weight)))


def test_another_number_can_be_ignored():
    x, weight, targets = problem()
    targets = targets.masked_fill(targets < 0, -100)
    assert (
        apart([linear_cross_entropy(x, weight, targets, ignore_index=-100, chunk=4)], [whole(x, weight, targets, -100)])
        < 1e-14
    )
    targets = targets.clamp(min=3)  # a class can be ignored, too
    assert (
        apart([linear_cross_entropy(x, weight, targets, ignore_index=3, chunk=4)], [whole(x, weight, targets, 3)])
        < 1e-14
    )


def test_rows_that_do_not_count_may_hold_anything():
    x, weight, targets = problem()
    clean = gradients(linear_cross_entropy(x, weight, targets, chunk=4), (x, weight))
    dirty = x.detach().masked_fill((targets < 0)[:, None], float("nan")).requires_grad_()
    assert apart(gradients(linear_cross_entropy(dirty, weight, targets, chunk=4), (dirty, weight)), clean) == 0


def test_rows_of_padding_have_no_probability():
    x, weight, targets = problem()
    padded = torch.cat((weight.detach(), randn(5, C, seed=8, size=9.0).detach())).requires_grad_()
    ours, theirs = linear_cross_entropy(x, padded, targets, classes=V, chunk=4), whole(x, weight, targets)
    assert apart([ours], [theirs]) < 1e-14
    (dx, dw), wanted = gradients(ours, (x, padded)), gradients(theirs, (x, weight))
    assert apart([dx, dw[:V]], wanted) < 1e-14 and (dw[V:] == 0).all()


def test_tied_weights_get_both_gradients():
    _, weight, targets = problem()
    idx = torch.randint(V, (N,), generator=seeded(4))
    ours, theirs = (loss(weight[idx].tanh(), weight, targets) for loss in (linear_cross_entropy, whole))
    assert apart(gradients(ours, [weight]), gradients(theirs, [weight])) < 1e-14


def test_gradients_are_scaled_and_added_up_as_always():
    x, weight, targets = problem()
    loss = linear_cross_entropy(x, weight, targets, chunk=5)
    once = gradients(whole(x, weight, targets), (x, weight))
    for factor in (1.0, 0.25):
        (factor * loss).backward(retain_graph=True)
    loss.backward()
    assert apart([x.grad, weight.grad], [2.25 * g for g in once]) < 1e-14


def test_only_the_gradients_that_are_wanted_are_computed():
    x, weight, targets = problem()
    assert (
        apart(
            gradients(linear_cross_entropy(x, weight.detach(), targets), [x]), gradients(whole(x, weight, targets), [x])
        )
        < 1e-14
    )
    assert (
        apart(
            gradients(linear_cross_entropy(x.detach(), weight, targets), [weight]),
            gradients(whole(x, weight, targets), [weight]),
        )
        < 1e-14
    )
    x, weight, targets = problem(torch.float32)

    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm_.default)
            return func(*args, **(kwargs or {}))

    for asked, products in (((x, weight), 3), ((x.detach(), weight), 2), ((x, weight.detach()), 2)):
        with Products() as counted:
            linear_cross_entropy(*asked, targets)
        assert counted.count == products
    with Products() as counted, torch.no_grad():
        assert not linear_cross_entropy(x, weight, targets).requires_grad
    assert counted.count == 1


def test_huge_logits_make_no_infinities():
    x, weight, targets = problem(torch.float32, size=1e4)
    ours, theirs = linear_cross_entropy(x, weight, targets, chunk=4), whole(x, weight, targets)
    assert theirs > 1000 and ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert apart(gradients(ours, (x, weight)), gradients(theirs, (x, weight))) < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_products_are_short_and_sums_are_long(dtype):
    x, weight, targets = problem(torch.float32)
    exact = whole(x, weight, targets)
    with torch.autocast("cpu", dtype):
        ours = linear_cross_entropy(x, weight, targets, chunk=5)
    assert ours.dtype == torch.float32
    assert 0 < apart([ours], [exact]) < 0.01
    got, wanted = gradients(ours, (x, weight)), gradients(exact, (x, weight))
    assert [g.dtype for g in got] == [torch.float32] * 2  # as the parameters
    assert all((a - b).norm() < 0.02 * b.norm() for a, b in zip(got, wanted))


def test_chunks_are_added_up_in_float32_under_autocast():
    """2,048 chunks that each add the same number: a sum in bfloat16 would stop at 256 of them."""
    x, weight = torch.ones(2048, 1, requires_grad=True), torch.zeros(2, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(x, weight, torch.zeros(2048, dtype=torch.int64), chunk=1)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    assert gradients(loss, [weight])[0].flatten().tolist() == pytest.approx([-0.5, 0.5], rel=1e-5)


def test_other_types_under_autocast():
    x, weight, targets = problem()
    with torch.autocast("cpu", torch.bfloat16):  # which leaves float64 as it is
        assert apart([linear_cross_entropy(x, weight, targets, chunk=4)], [whole(x, weight, targets)]) < 1e-14
        low = linear_cross_entropy(x.bfloat16(), weight.float(), targets)
    assert low.item() == pytest.approx(whole(x, weight, targets).item(), rel=0.01)


def test_the_logits_never_exist_whole():
    rows, width, classes, chunk = 512, 4, 1024, 32
    x, weight = randn(rows, width, dtype=torch.float32), randn(classes, width, seed=1, dtype=torch.float32)
    targets = torch.randint(classes, (rows,), generator=seeded(2))
    with LargestTensor() as pieces:
        linear_cross_entropy(x, weight, targets, chunk=chunk).backward()
    with LargestTensor() as at_once:
        whole(x, weight, targets).backward()
    assert at_once.bytes >= 4 * rows * classes
    assert pieces.bytes <= 4 * chunk * classes


@pytest.mark.parametrize(("dtype", "each"), [(torch.float32, 4 + 4), (torch.bfloat16, 2 + 4 + 2)])
def test_the_pieces_of_one_round_are_gone_before_the_next(dtype, each):
    rows, classes, chunk = 256, 4096, 32
    x, weight = randn(rows, 2, dtype=torch.float32), randn(classes, 2, seed=1, dtype=torch.float32)
    targets = torch.randint(classes, (rows,), generator=seeded(2))

    def loss():
        with torch.autocast("cpu", dtype, dtype != torch.float32):
            linear_cross_entropy(x, weight, targets, chunk=chunk)

    assert each * chunk * classes <= peak_bytes(loss) < 1.4 * each * chunk * classes


def test_the_loss_can_be_compiled_in_one_graph():
    x, weight, targets = problem()

    def loss(x, weight):
        return 2 * linear_cross_entropy(x.tanh(), weight, targets, chunk=9)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    ours, theirs = compiled(x, weight), loss(x, weight)
    assert apart([ours], [theirs]) < 1e-14
    assert apart(gradients(ours, (x, weight)), gradients(theirs, (x, weight))) < 1e-14


def test_the_loss_names_what_is_wrong():
    x, weight, targets = problem()
    for wrong in (V, V + 3, -2):
        with pytest.raises(IndexError, match=rf"0 to {V - 1}, or -1 .*there is a {wrong}\."):
            linear_cross_entropy(x, weight, targets.clone().index_fill(0, torch.tensor([7]), wrong))
    with pytest.raises(IndexError, match="0 to 6, or"):
        linear_cross_entropy(x, weight, targets, classes=7)
    with pytest.raises(ValueError, match=r"not \(1, 23, 6\) and \(11, 6\); flatten"):
        linear_cross_entropy(x[None], weight, targets)
    with pytest.raises(ValueError, match=r"not \(23, 6\) and \(6, 11\)"):
        linear_cross_entropy(x, weight.T, targets)
    with pytest.raises(ValueError, match=r"23 rows needs one target.*\(22,\)"):
        linear_cross_entropy(x, weight, targets[1:])
    with pytest.raises(ValueError, match="int32"):
        linear_cross_entropy(x, weight, targets.int())
    with pytest.raises(ValueError, match="x is torch.float32 and weight torch.float64"):
        linear_cross_entropy(x.float(), weight, targets)
    with pytest.raises(ValueError, match="Cannot take 0 of 23"):
        linear_cross_entropy(x, weight, targets, chunk=0)
    with pytest.raises(ValueError, match="Cannot take 256 of 0 rows"):
        linear_cross_entropy(x[:0], weight, targets[:0])
    for classes in (0, V + 1):
        with pytest.raises(ValueError, match=f"from 1 to {V}.*not {classes}"):
            linear_cross_entropy(x, weight, targets, classes=classes)
