"""zerohero.training: the optimiser, the schedule, and training that can stop and go on."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transformer import fresh, random_model, random_tokens, same, seeded
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from zerohero.data import DataError
from zerohero.training import Muon, learning_rate, load_checkpoint, orthogonalize, train, validation_loss
from zerohero.transformer import CharGPT, CharGPTConfig

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = torch.arange(200) % 7 * (torch.arange(200) % 3 > 0)


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
        "import test_training as t\n"
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
    "rope_base": 500.0,
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


@pytest.mark.long
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
