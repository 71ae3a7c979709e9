"""zerohero.train_gpt2 and what it is made of: one process or several, stopped, killed and resumed, with a full disk, with a
loss that is no number; and the whole way in small."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from zerohero import processes, train_gpt2
from zerohero.data import load_shakespeare
from zerohero.gpt2 import GPT, flops_per_token, memory_plan
from zerohero.processes import TrainError, World, choose_precision, joined_world
from zerohero.records import RunLog, checkpoints, cut_log, noted_signals, read_checkpoint, read_log, write_checkpoint
from zerohero.shards import write_shards
from zerohero.tokenizer import RegexTokenizer
from zerohero.train_config import accumulation, field_comments, parse_config, run_plan
from zerohero.train_gpt2 import PRESETS, TrainConfig, main, trained_model

pytestmark = pytest.mark.usefixtures("one_thread")
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has other signals, and torchrun little support")
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for processes and addresses")
SIZES = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 32,
    "block_size": 16,
    "device": "cpu",
    "samples": 0,
    "precision": "float32",
}
USUAL = {
    "steps": 10,
    "batch_tokens": 128,
    "micro_batch": 2,
    "lr": 1e-2,
    "warmup": 3,
    "eval_every": 4,
    "val_tokens": 256,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    made = RegexTokenizer()
    made.train("to be or not to be, that is the question; " * 20, 260)
    made.register_special_tokens({"<|endoftext|>": 260})
    path = tmp_path_factory.mktemp("tokenizer") / "small"
    made.save(path)
    return f"{path}.model"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of 261 tokens, in documents that repeat themselves, so that there is something to learn."""
    draw, folder = random.Random(0), tmp_path_factory.mktemp("data") / "shards"
    documents = []
    for _ in range(60):
        period, start = draw.randint(2, 6), draw.randint(0, 9)
        documents.append([start + i % period for i in range(draw.randint(60, 120))])
    write_shards(documents, folder, vocab_size=261, end_of_text=260, shard_tokens=1500, validation_fraction=0.1)
    return folder


@pytest.fixture
def config(data, tmp_path):
    def made(out="run", **options):
        return TrainConfig(**{**SIZES, **USUAL, "data": str(data), "out": str(tmp_path / out), **options})

    return made


@pytest.fixture
def launch():
    """Starts a command in a session of its own. Nothing of it is left in the end, nor of what it started."""
    started = []

    def start(*command, **environment):
        usual = {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        env = {**os.environ, **usual, **environment}
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            family = descendants(process.pid)  # torchrun gives each of its processes another session
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            for pid in family:
                with contextlib.suppress(OSError):
                    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            process.kill()
        process.communicate()


def descendants(pid):
    """The processes that `pid` started, and those that they started, where /proc tells."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            number, _, rest = path.read_text().partition(" (")
            children.setdefault(int(rest.rpartition(") ")[2].split()[1]), []).append(int(number))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def options(config):
    """The command line that means `config`."""
    given = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), field.name.replace("_", "-")
        if isinstance(value, bool):
            given.append(f"--{'' if value else 'no-'}{name}")
        elif value is not None:
            given.append(f"--{name}={value}")
    return given


def torchrun(*how):
    return ["-m", "torch.distributed.run", *how, "-m", "zerohero.train_gpt2"]


def finish(process, code=0, seconds=150):
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, said
    return said


def numbers(out, *kinds):
    """All that a run logged and that does not depend on the clock."""
    kinds = kinds or ("train", "evaluation")
    timed = ("tokens_per_second", "mfu")
    lines = [line for line in read_log(Path(out, "log.jsonl")) if line["kind"] in kinds]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def losses(out):
    return [line.get("loss", line.get("validation_loss")) for line in numbers(out)]


def same_tensors(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_tensors(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_tensors, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def until(condition, process=None, seconds=100):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    return value


def logged_steps(out):
    with contextlib.suppress(OSError):
        return sum(b'"kind": "train"' in line for line in Path(out, "log.jsonl").read_bytes().splitlines())
    return 0


@contextlib.contextmanager
def at_step(number, action, monkeypatch):
    """Runs `action(run)` before the update that is number `number`, counted from 1."""
    usual = train_gpt2.take_step

    def step(run, interrupted):
        if run.step == number - 1:
            action(run)
        return usual(run, interrupted)

    with monkeypatch.context() as patched:
        patched.setattr(train_gpt2, "take_step", step)
        yield


# ---- configuration ----


def test_every_option_has_a_help_and_a_line(capsys):
    comments = field_comments(TrainConfig)
    assert comments.keys() == {field.name for field in dataclasses.fields(TrainConfig)}
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for name, comment in comments.items():
        assert f"--{name.replace('_', '-')}" in said
        assert comment.split(",")[0].split("-")[0] in said


def test_the_command_line_gives_the_fields_and_a_preset_their_defaults():
    assert parse_config([]) == TrainConfig()
    got = parse_config(["--preset", "gpt2-rope", "--lr=1e-3", "--n-layer", "3", "--no-bias", "--compile"])
    assert got == TrainConfig(pos="rope", lr=1e-3, warmup=300, n_layer=3, bias=False, compile=True)
    some = TrainConfig(out="x y", resume=True, precision="bfloat16", prompt="100 % -", spike=1.5, keep=7)
    assert parse_config(options(some)) == some


def test_the_presets():
    made = {name: TrainConfig(**changes) for name, changes in PRESETS.items()}
    assert {name for name in made if name.startswith("gpt2-")} == {
        f"gpt2-{name}" for name in ("baseline", "periodicity-fix", "lr-inc", "global-datafix", "rope", "swiglu")
    }
    assert (made["gpt2-baseline"].lr, made["gpt2-baseline"].warmup, made["gpt2-baseline"].shuffle) == (6e-4, 715, False)
    assert (made["gpt2-lr-inc"].lr, made["gpt2-lr-inc"].warmup, made["gpt2-lr-inc"].shuffle) == (1.5e-3, 300, True)
    assert made["gpt2-rope"].pos == "rope"
    assert made["gpt2-swiglu"].mlp == "swiglu"
    assert made["cpu-smoke"].n_layer == 4
    assert made["cpu-smoke"].steps == 200


@pytest.mark.parametrize(
    "wrong, says",
    [
        (["--preset", "gpt3"], "gpt2-baseline"),
        (["--lr", "fast"], "--lr"),
        (["--n-layers", "3"], "--n-layers"),
        (["--n-embd", "100", "--n-head", "3"], "n_embd"),
        (["--pos", "absolute"], "pos must be one of learned, rope"),
        (["--parallel", "zero"], "parallel must be one of ddp, fsdp"),
        (["--steps", "0"], "steps must be 1 or more"),
    ],
)
def test_a_wrong_option_is_named_and_ends_with_2(wrong, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_the_plan(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--dry-run", "--devices", "8", "--device", "cpu", "--mfu", "0.5"]) == 0
    said = capsys.readouterr().out
    model = TrainConfig().model_config(50257)
    flops = sum(flops_per_token(model, 1024).values())
    assert f"{0.5 * 8 * 989e12 / flops:,.0f} tokens/s" in said
    assert f"{19_073 * 524_288 / (0.5 * 8 * 989e12 / flops) / 3600:.2f} hours" in said
    for chunk, plan in ((256, said), (4096, run_plan(TrainConfig()))):  # on a CPU, and on a GPU
        assert f"{sum(memory_plan(model, 64, 1024, chunk=chunk).values()) / 1e9:.1f} GB" in plan
    assert "124,439,808" in said
    assert "8 devices x 1 micro-batches x 64 sequences x 1024" in said
    assert not list(tmp_path.iterdir())
    whole, shared = (run_plan(TrainConfig(parallel=p), 8).split("memory")[1] for p in ("ddp", "fsdp"))
    assert "optimizer 1.00" in whole
    assert "optimizer 0.12" in shared


def test_tokens_that_cannot_be_shared_out(config, capsys):
    assert accumulation(TrainConfig(), 8) == 1
    with pytest.raises(TrainError, match="micro-batches of 64"):
        accumulation(TrainConfig(), 3)
    assert main(options(config(batch_tokens=100))) == 1
    assert "multiple of 32" in capsys.readouterr().err


# ---- a run ----


def test_a_run_learns_and_leaves_what_it_says(config, capsys):
    chosen = config(steps=40, keep=2, save_every=10, eval_every=16)
    before = torch.get_rng_state(), torch.get_float32_matmul_precision(), signal.getsignal(signal.SIGTERM)
    assert main(options(chosen)) == 0
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.get_float32_matmul_precision(), signal.getsignal(signal.SIGTERM))
    out, said = Path(chosen.out), capsys.readouterr().out
    assert "validation loss" in said
    start, *_, end = read_log(out / "log.jsonl")
    assert (start["kind"], start["config"]["lr"], start["processes"]) == ("start", 1e-2, 1)
    assert end == {"kind": "end", "step": 40, "stopped": False}
    train, looks = numbers(out, "train"), numbers(out, "evaluation")
    assert [line["step"] for line in train] == list(range(1, 41))
    assert [line["step"] for line in looks] == [0, 16, 32, 40]
    assert abs(looks[0]["validation_loss"] - math.log(261)) < 0.2
    assert looks[-1]["validation_loss"] < 3.5
    assert train[0]["lr"] == pytest.approx(1e-2 / 3)
    assert train[2]["lr"] == pytest.approx(1e-2)
    assert 1e-3 < train[-1]["lr"] < 1.1e-3
    assert {path.name for path in out.iterdir()} == {
        *("log.jsonl", "curves.png", "best.pt", "step-00000032.pt", "step-00000040.pt")
    }
    best = min(looks, key=lambda line: line["validation_loss"])
    assert read_checkpoint(out / "best.pt")["step"] == best["step"]
    assert read_checkpoint(out / "best.pt")["best"] == best["validation_loss"]


def test_the_gradient_is_that_of_the_mean_over_all_tokens_that_count(config, monkeypatch):
    """Micro-batches with different numbers of tokens that count: means of means would be another gradient."""
    world = World(torch.device("cpu"))
    run = train_gpt2.start_run(config(), world)
    state = run.loader.state_dict()
    batches = [run.loader.next_batch() for _ in range(run.accumulation)]
    for i, (_, y) in enumerate(batches):
        y.view(-1)[: 9 * i] = -1
    x, y = (torch.cat(parts) for parts in zip(*batches))
    _, expected = run.model(x, y)
    expected.backward()
    gradients = [p.grad.clone() for p in run.model.parameters()]
    run.model.zero_grad()
    run.loader.load_state_dict(state)
    monkeypatch.setattr(run.loader, "next_batch", iter(batches).__next__)
    assert train_gpt2.add_gradients(run).item() == pytest.approx(expected.item(), rel=1e-6)
    for p, gradient in zip(run.model.parameters(), gradients):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-7)


def test_micro_batches_make_no_difference(config):
    assert main(options(config("a", micro_batch=8))) == main(options(config("b", micro_batch=1))) == 0
    assert losses(config("a").out) == pytest.approx(losses(config("b").out), abs=2e-5)


def test_the_validation_windows_are_always_the_same(config):
    """Also where they do not fill the last batch, and after the loader was used."""
    run = train_gpt2.start_run(config(val_tokens=16 * 7), World(torch.device("cpu")))
    found = []
    for B in (1, 2, 3):
        run.config = dataclasses.replace(run.config, micro_batch=B)
        run.validation = train_gpt2.ShardLoader(run.config.data, B, 16, split="validation", shuffle=False)
        found += [train_gpt2.evaluate_run(run)["validation_loss"] for _ in range(2)]
    assert found == pytest.approx(found[:1] * 6, abs=1e-5)
    run.validation = train_gpt2.ShardLoader(run.config.data, 7, 16, split="validation", shuffle=False)
    x, y = run.validation.next_batch()
    assert found[0] == pytest.approx(run.model(x, y)[1].item(), abs=1e-5)


def test_samples_and_hellaswag(config, tokenizer, tmp_path):
    rows = [{"ctx": "to be", "endings": [" or", " the", "?", " not"], "label": i % 4} for i in range(8)]
    examples = tmp_path / "hellaswag.jsonl"
    examples.write_text("\n".join(map(json.dumps, rows)))
    more = {"samples": 2, "tokenizer": tokenizer, "prompt": "to be", "sample_tokens": 5, "hellaswag": str(examples)}
    plain, looked = config("plain", dropout=0.1), config("looked", dropout=0.1, **more)
    assert main(options(plain)) == main(options(looked)) == 0
    looks = read_log(Path(looked.out, "log.jsonl"), "evaluation")
    assert all(line["hellaswag"] == 0.25 for line in looks)
    assert all(len(line["samples"]) == 2 and line["samples"][0].startswith("to be") for line in looks)
    assert losses(plain.out) == losses(looked.out)  # looking changes nothing, not even dropout


def test_a_tokenizer_of_other_shards(config, tokenizer, tmp_path, capsys):
    other = RegexTokenizer()
    other.train("abcabc", 257)
    other.save(tmp_path / "other")
    assert main(options(config(samples=1, tokenizer=str(tmp_path / "other.model")))) == 1
    assert "261" in capsys.readouterr().err


def test_compiled_with_evaluations_between(config, monkeypatch):
    """torch.compile traces once; evaluations and samples between the steps do not make it trace again."""
    traces, compile_ = [], torch.compile

    def backend(graph, inputs):
        traces.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda model: compile_(model, backend=backend))
    chosen = config("compiled", compile=True, steps=6, eval_every=2)
    assert main(options(chosen)) == 0
    assert traces
    assert main(options(config("plain", steps=6, eval_every=2))) == 0
    assert losses(chosen.out) == pytest.approx(losses(config("plain").out), abs=1e-5)
    first = len(traces)
    again = config("longer", compile=True, steps=6, eval_every=1)
    torch._dynamo.reset()
    assert main(options(again)) == 0
    assert len(traces) == 2 * first
    model = trained_model(chosen.out)
    assert type(model) is GPT
    assert model.generate(torch.zeros(1, 1, dtype=torch.int64), 3).shape == (1, 4)


def test_tensorboard(config):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    chosen = config(tensorboard=True, steps=2)
    assert main(options(chosen)) == 0
    assert list(Path(chosen.out).glob("events.out.tfevents*"))


def test_without_tensorboard_and_without_matplotlib(config, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(options(config(tensorboard=True))) == 1
    assert "pip install tensorboard" in capsys.readouterr().err
    assert main(options(config("other", steps=1))) == 0
    assert "no figure" in capsys.readouterr().out


# ---- stopped and resumed ----


def test_killed_at_a_random_step_and_resumed(config, launch):
    """SIGKILL, after which nothing can be saved: the log, the weights and the moments come out bit by bit."""
    common = {"steps": 60, "eval_every": 7, "save_every": 5, "dropout": 0.1}
    whole, killed = config("whole", **common), config("killed", **common)
    assert main(options(whole)) == 0
    random_step = random.randint(6, 40)
    process = launch("-c", SLOWLY, *options(killed))
    until(lambda: logged_steps(killed.out) >= random_step, process)
    process.kill()
    finish(process, -getattr(signal, "SIGKILL", -1))  # 1 on Windows
    with open(Path(killed.out, "log.jsonl"), "a") as log:
        log.write('{"kind": "train", "st')  # as if in the middle of a line
    newest = read_checkpoint(checkpoints(killed.out)[-1])["step"]
    assert 0 < newest < 60
    assert main(options(dataclasses.replace(killed, resume=True))) == 0
    assert numbers(whole.out) == numbers(killed.out), f"killed at {random_step}, resumed at {newest}"
    states = [read_checkpoint(checkpoints(each.out)[-1]) for each in (whole, killed)]
    for name in ("model", "optimizer", "loader", "random", "mean", "best"):
        assert same_tensors(*(state[name] for state in states)), name


SLOWLY = """
import sys, time
from zerohero import train_gpt2
usual = train_gpt2.take_step
train_gpt2.take_step = lambda run, interrupted: (time.sleep(0.02), usual(run, interrupted))[1]
sys.exit(train_gpt2.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("kind, code", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_saves_and_ends(config, monkeypatch, kind, code, capsys):
    whole, stopped = config("whole", dropout=0.1), config("stopped", dropout=0.1)
    assert main(options(whole)) == 0
    with at_step(6, lambda run: signal.raise_signal(getattr(signal, kind)), monkeypatch):
        assert main(options(stopped)) == code
    assert f"Stopped by {kind}" in capsys.readouterr().out
    assert [path.name for path in checkpoints(stopped.out)][-1] in ("step-00000006.pt", "step-00000007.pt")
    assert read_log(Path(stopped.out, "log.jsonl"))[-1]["stopped"] is True
    assert main(options(dataclasses.replace(stopped, resume=True))) == 0
    assert numbers(whole.out) == numbers(stopped.out)


def test_a_second_signal_ends_at_once():
    with noted_signals() as caught:
        signal.raise_signal(signal.SIGINT)
        until(lambda: caught)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
            time.sleep(1)


def test_in_a_thread_there_are_no_signals(config):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(options(config(steps=1)))))
    thread.start()
    thread.join()
    assert codes == [0]


@posix
def test_the_exit_code_of_a_terminated_process(config, launch):
    chosen = config(steps=100_000, eval_every=100_000)
    process = launch("-m", "zerohero.train_gpt2", *options(chosen))
    until(lambda: logged_steps(chosen.out) >= 3, process)
    process.send_signal(signal.SIGTERM)
    assert "Stopped by SIGTERM" in finish(process, 143)
    assert len(checkpoints(chosen.out)) == 1


def test_stop_at_and_go_on(config):
    whole, part = config("whole"), config("part", stop_at=5)
    assert main(options(whole)) == main(options(part)) == 0
    assert read_checkpoint(checkpoints(part.out)[-1])["step"] == 5
    assert main(options(dataclasses.replace(part, stop_at=0, resume=True))) == 0
    assert numbers(whole.out, "train") == numbers(part.out, "train")
    size = Path(part.out, "log.jsonl").stat().st_size
    assert main(options(dataclasses.replace(part, stop_at=0, resume=True))) == 0  # there is nothing left to do
    assert numbers(whole.out, "train") == numbers(part.out, "train")
    assert Path(part.out, "log.jsonl").stat().st_size > size


def test_a_run_is_not_overwritten_and_another_is_not_resumed(config, capsys):
    chosen = config(steps=3)
    assert main(options(chosen)) == 0
    saved = Path(chosen.out, "step-00000003.pt").read_bytes()
    assert main(options(chosen)) == 1
    assert "--resume" in capsys.readouterr().err
    assert main(options(config(steps=3, resume=True, n_layer=3))) == 1
    assert "--n-layer was 2, now it is 3" in capsys.readouterr().err
    assert main(options(config(steps=4, resume=True))) == 1
    assert "--steps was 3, now it is 4" in capsys.readouterr().err
    assert main(options(config(steps=3, resume=True, eval_every=1, micro_batch=1))) == 0
    assert Path(chosen.out, "step-00000003.pt").read_bytes() == saved


def test_resume_where_there_is_nothing_begins(config):
    assert main(options(config(steps=2, resume=True))) == 0


# ---- files that are missing, damaged or do not fit ----


def test_missing_folders(config, capsys, tmp_path):
    assert main(options(config(data=str(tmp_path / "nowhere")))) == 1
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(options(config("file"))) == 1
    assert "file" in capsys.readouterr().err
    assert main(options(config(samples=1, tokenizer=str(tmp_path / "no.model")))) == 1
    assert "no.model" in capsys.readouterr().err
    with pytest.raises(OSError, match=r"best\.pt"):
        trained_model(tmp_path)


@pytest.fixture
def one_checkpoint(config):
    chosen = config(steps=8, stop_at=4)
    assert main(options(chosen)) == 0
    return dataclasses.replace(chosen, stop_at=0, resume=True)


@pytest.mark.parametrize("how", ["torn", "a bit", "another file"])
def test_a_damaged_checkpoint_is_named(one_checkpoint, capsys, how):
    path = checkpoints(one_checkpoint.out)[-1]
    content = bytearray(path.read_bytes())
    if how == "torn":
        content = content[: len(content) // 2]
    elif how == "a bit":
        content[len(content) // 3] ^= 4
    else:
        content = b"no checkpoint"
    path.unlink()  # best.pt is another name of it
    path.write_bytes(content)
    assert main(options(one_checkpoint)) == 1
    assert path.name in capsys.readouterr().err
    assert trained_model(one_checkpoint.out)


def test_a_checkpoint_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    torch.save({"step": 1, "config": {}, "model": Evil(), "optimizer": {}, "loader": {}}, tmp_path / "step-1.pt")
    with pytest.raises(TrainError, match=r"step-1\.pt"):
        read_checkpoint(tmp_path / "step-1.pt")
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_leaves_the_checkpoint_before(one_checkpoint, monkeypatch, capsys):
    """The file system refuses what is longer than some bytes: torch has written a part by then."""
    resource = pytest.importorskip("resource", reason="this system has no limits on files")
    before = checkpoints(one_checkpoint.out)[-1]
    content, limits = before.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, limits[1]))
        assert main(options(one_checkpoint)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "step-00000008.pt" in capsys.readouterr().err
    assert checkpoints(one_checkpoint.out) == [before]
    assert before.read_bytes() == content
    assert not list(Path(one_checkpoint.out).glob("*.tmp"))
    assert main(options(one_checkpoint)) == 0


def test_no_space_left(one_checkpoint, monkeypatch, capsys):
    """The same at the last moment: all was written, but not yet to the disk."""

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert main(options(one_checkpoint)) == 1
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err
    assert [path.name for path in Path(one_checkpoint.out).glob("*.pt*") if path.suffix != ".png"] == [
        path.name for path in Path(one_checkpoint.out).glob("*.pt")
    ]
    assert main(options(one_checkpoint)) == 0


def test_a_crash_while_writing_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "step-00000001.pt"
    write_checkpoint(path, {"step": 1})

    def crash(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(path, {"step": 2})
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_best_is_a_copy_where_files_have_one_name(config, monkeypatch):
    def refuse(*paths):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    chosen = config(steps=4)
    assert main(options(chosen)) == 0
    assert read_checkpoint(Path(chosen.out, "best.pt"))["step"] == 4


def test_the_log_is_cut_where_a_run_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    with RunLog(str(tmp_path), 0, -1, False) as log:
        for step in range(1, 7):
            log.write("train", step, loss=float(step))
            if step % 2 == 0:
                log.write("evaluation", step, validation_loss=math.nan)
    lines = path.read_text().splitlines()
    assert json.loads(lines[2])["validation_loss"] is None
    for step, evaluated, kept in ((4, 4, 6), (4, 2, 5), (5, 4, 7), (6, 6, 9)):
        path.write_text("\n".join(lines) + "\n")
        cut_log(path, step, evaluated)
        assert path.read_text().splitlines() == lines[:kept]
    cut_log(tmp_path / "none", 3, 2)


# ---- a loss that is no number, or jumps ----


def spoil(run):
    with torch.no_grad():
        run.model.transformer.ln_f.weight[0] = math.nan


def test_a_loss_that_is_no_number_stops(config, monkeypatch, capsys):
    chosen = config(save_every=3)
    with at_step(6, spoil, monkeypatch):
        assert main(options(chosen)) == 1
    said = capsys.readouterr().err
    assert "Step 6" in said
    assert "nan" in said
    assert "--on-spike skip" in said
    assert [path.name for path in checkpoints(chosen.out)] == ["step-00000003.pt", "step-00000004.pt"]


def test_steps_without_a_number_are_skipped_at_most_ten_times(config, monkeypatch, capsys):
    chosen = config(on_spike="skip", steps=30, eval_every=100)
    with at_step(6, spoil, monkeypatch):
        assert main(options(chosen)) == 1
    assert "Step 15" in capsys.readouterr().err
    skipped = [line for line in numbers(chosen.out, "train") if "skipped" in line]
    assert [line["step"] for line in skipped] == list(range(6, 15))
    assert all(line["loss"] is None for line in skipped)


def test_a_spike_is_skipped_and_the_weights_stay(config, monkeypatch, capsys):
    seen = {}

    def shift(run):
        seen["weights"] = {name: p.clone() for name, p in run.model.state_dict().items()}
        usual = run.loader.next_batch
        changed = iter([True] * run.accumulation)

        def batch():
            x, y = usual()
            return x, (y + 100) % 261 if next(changed, False) else y

        monkeypatch.setattr(run.loader, "next_batch", batch)

    def compare(run):
        seen["equal"] = same_tensors(seen["weights"], run.model.state_dict())

    chosen = config(steps=30, spike=1.0, on_spike="skip")
    with at_step(20, shift, monkeypatch), at_step(21, compare, monkeypatch):
        assert main(options(chosen)) == 0
    assert "step 20 skipped: loss" in capsys.readouterr().out
    assert seen["equal"]
    assert [line["step"] for line in numbers(chosen.out, "train") if "skipped" in line] == [20]


# ---- devices and precision ----


def test_precision_follows_the_measurement(monkeypatch):
    cpu = torch.device("cpu")
    for half, expected in ((0.5, torch.bfloat16), (0.9, torch.float32), (100, torch.float32)):
        times = {torch.float32: 1.0, torch.bfloat16: half}
        monkeypatch.setattr(processes, "product_time", lambda dtype, device, times=times: times[dtype])
        assert choose_precision("auto", cpu) == expected
        assert choose_precision("float32", cpu) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert choose_precision("auto", torch.device("cuda", 0)) == torch.float32


def test_a_resumed_run_keeps_its_precision(config, monkeypatch):
    monkeypatch.setattr(processes, "product_time", lambda dtype, device: float(dtype == torch.float32))
    chosen = config(precision="auto", steps=2, stop_at=1, n_layer=1)
    assert main(options(chosen)) == 0
    monkeypatch.setattr(processes, "product_time", lambda dtype, device: float(dtype != torch.float32))
    assert main(options(dataclasses.replace(chosen, stop_at=0, resume=True))) == 0
    starts = read_log(Path(chosen.out, "log.jsonl"), "start")
    assert [line["precision"] for line in starts] == ["bfloat16"] * len(starts)


def test_only_cuda_memory_is_pinned(config, monkeypatch):
    """On a machine without CUDA, pinning fails; so does every call of torch.cuda that needs a device."""

    def forbidden(*args, **kwargs):
        raise AssertionError("a CUDA call on a CPU")

    for name in ("synchronize", "set_device", "get_rng_state", "get_device_name", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, name, forbidden)
    monkeypatch.setattr(torch.Tensor, "pin_memory", forbidden)
    assert main(options(config(steps=1))) == 0


def test_several_processes_do_not_share_mps(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainError, match="MPS"), joined_world("mps"):
        pass


# ---- several processes ----


def close(one, other):
    return losses(one.out) == pytest.approx(losses(other.out), abs=2e-5)


@pytest.mark.long
@posix
def test_two_processes_are_one_with_twice_the_accumulation(config, launch):
    """DDP and FSDP2 on gloo; and what FSDP2 saved goes on in a single process, to the same end."""
    alone, ddp, fsdp = config("alone"), config("ddp"), config("fsdp", parallel="fsdp", stop_at=6)
    running = [launch(*torchrun("--standalone", "--nproc_per_node=2"), *options(each)) for each in (ddp, fsdp)]
    assert main(options(alone)) == 0
    for process in running:
        finish(process)
    assert close(alone, ddp)
    assert len(losses(alone.out)) == 14
    assert read_log(Path(ddp.out, "log.jsonl"), "start")[0]["processes"] == 2
    assert main(options(dataclasses.replace(fsdp, stop_at=0, parallel="ddp", resume=True))) == 0
    steps = [[line["loss"] for line in numbers(each.out, "train")] for each in (alone, fsdp)]
    assert steps[0] == pytest.approx(steps[1], abs=2e-5)
    for each in (alone, ddp, fsdp):  # all load into the same plain model
        assert same_shapes(trained_model(each.out), trained_model(alone.out))


def same_shapes(one, other):
    return {n: p.shape for n, p in one.state_dict().items()} == {n: p.shape for n, p in other.state_dict().items()}


@pytest.mark.long
@linux
def test_two_nodes(config, launch):
    """Two torchruns that know each other by address only."""
    alone, nodes = config("alone"), config("nodes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}"
    running = [
        launch(*torchrun(*common, f"--local_addr=127.0.0.{n}"), *options(nodes), GLOO_SOCKET_IFNAME="lo")
        for n in (1, 2)
    ]
    assert main(options(alone)) == 0
    for process in running:
        finish(process)
    assert close(alone, nodes)


@pytest.mark.long
@linux
def test_a_killed_process_comes_back(config, launch):
    """torchrun starts both again, and they go on from the last checkpoint to the end of an undisturbed run."""
    whole, killed = (config(name, steps=60, save_every=5, eval_every=60, micro_batch=4) for name in ("whole", "killed"))
    slowly = "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1"
    script = Path(killed.out).parent / "slowly.py"
    script.write_text(SLOWLY)
    process = launch(*slowly, script, *options(killed), PYTHONPATH=str(ROOT))
    until(lambda: logged_steps(killed.out) >= 12, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if b"slowly.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[-1], signal.SIGKILL)
    assert main(options(dataclasses.replace(whole, micro_batch=8))) == 0
    finish(process)
    assert [line["step"] for line in numbers(killed.out, "train")] == list(range(1, 61))
    assert read_log(Path(killed.out, "log.jsonl"), "start")[-1]["step"] >= 10
    assert close(whole, killed)


# ---- the whole way in small ----


@pytest.mark.long
@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no sh")
def test_cpu_smoke(tmp_path, launch):
    """runs/cpu_smoke.sh: tokens, shards, 200 steps, evaluation, samples, checkpoint, figure."""
    recipe = "import os, sys; os.execvp('sh', ['sh', 'runs/cpu_smoke.sh', sys.argv[1]])"
    said = finish(launch("-c", recipe, tmp_path, PYTHON=sys.executable), seconds=300)
    run = tmp_path / "run"
    looks = read_log(run / "log.jsonl", "evaluation")
    assert [line["step"] for line in looks] == [0, 100, 200]
    assert abs(looks[0]["validation_loss"] - math.log(1024)) < 0.1
    assert looks[-1]["validation_loss"] < 5.0, said
    assert looks[-1]["samples"][0].startswith("ROMEO:\n")
    assert {path.name for path in run.iterdir()} >= {"best.pt", "step-00000200.pt", "log.jsonl"}
    model = trained_model(run)
    assert model.config.n_tokens == 1024
    tokenizer = RegexTokenizer().load(tmp_path / "plays.model")
    ids = torch.tensor([tokenizer.encode(load_shakespeare()[-2000:])])[:, :129]
    assert model(ids[:, :-1], ids[:, 1:])[1] < 5.2


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no sh")
@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "runs").iterdir()))
def test_the_recipes_are_sound(recipe, monkeypatch):
    """Their shell can be parsed, and the options they give exist."""
    path = ROOT / "runs" / recipe
    done = subprocess.run(["sh", "-n", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if "zerohero.train_gpt2" in line and not line.startswith("#"):
            words = line.split("zerohero.train_gpt2", 1)[1].replace('"', "").split()
            assert parse_config([word for word in words if word != "$@"]).resume
