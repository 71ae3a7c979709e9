"""The tools around the tests: kinds of processors on one machine, one run that tells everything, data that did not change."""

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import fresh
import pytest

ROOT = Path(__file__).resolve().parents[1]


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_tool", ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runner, data = load("test"), load("data")

# ---- kinds of processors ----


@pytest.fixture
def plain(monkeypatch):
    """Without what the kind that runs this test has set."""
    for name in [*runner.SSE, "OMP_NUM_THREADS", "PYTHONPATH"]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="there are no such instructions to hide here")
@pytest.mark.parametrize("name", ["native-plain", "avx2", "lowest", "lowest-plain"])
def test_a_kind_is_what_it_says(name, plain):
    kind = runner.KINDS[name]
    if kind.threads > (os.cpu_count() or 1):
        pytest.skip("there is one core only")
    answer = runner.found(kind)
    if kind.instructions == "avx2" and answer["torch"] == "DEFAULT":
        pytest.skip("this processor has no AVX2")
    assert runner.faults(kind, answer) == []


def test_settings_without_effect_are_noticed():
    lowest, without = runner.KINDS["lowest"], runner.KINDS["native-plain"]
    modern = {
        "torch": "AVX512",
        "oneDNN": "Intel AVX-512",
        "MKL": "OFF",
        "numpy": "X86_V4",
        "numba": "zmm",
        "threads": 1,
    }
    assert [fault.split()[0] for fault in runner.faults(lowest, modern)] == ["torch", "oneDNN", "MKL", "numpy", "numba"]
    assert runner.faults(without, modern) == ["threads has 1, not 2", "numba has zmm, not none"]
    assert runner.faults(runner.KINDS["native"], modern) == []


def test_all_pairs_of_circumstances_are_tried():
    kinds = runner.KINDS.values()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        first, second = ({kind[n] for kind in kinds} for n in (a, b))
        assert {(kind[a], kind[b]) for kind in kinds} == {(x, y) for x in first for y in second}


def test_an_unknown_kind_is_named(capsys):
    with pytest.raises(SystemExit):
        runner.main(["newest"])
    assert "there is no kind newest; the kinds are native," in capsys.readouterr().err


# ---- one run tells everything ----


def test_a_run_goes_to_its_end_and_lists_all_that_failed(tmp_path):
    file = tmp_path / "test_some.py"
    file.write_text(
        "import pytest\n\n"
        "def test_first():\n    assert 1 == 2\n\n"
        "def test_good():\n    pass\n\n"
        "@pytest.mark.skip(reason='no such machine')\ndef test_skipped():\n    pass\n\n"
        "def test_last():\n    raise RuntimeError('broken')\n"
    )
    options = f"{file} -p no:cacheprovider --rootdir={tmp_path}"
    command = [sys.executable, str(ROOT / "tools/test.py"), "native", "--pytest", options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    for said in ("test_first", "test_last", "no such machine", "2 failed, 1 passed, 1 skipped", "native: torch "):
        assert said in done.stdout, done.stdout


# ---- files that did not change ----


def test_what_is_seen_of_a_change(tmp_path):
    stamp, file, other = (tmp_path / name for name in ("stamp.json", "file", "other"))
    file.write_text("one")
    other.write_text("two")
    assert not fresh.unchanged(stamp)
    fresh.note(stamp, [file, other], "bake")
    assert fresh.unchanged(stamp, "bake") and fresh.unchanged(stamp, "bake", [file, other])
    assert not fresh.unchanged(stamp, "fry")
    assert not fresh.unchanged(stamp, "bake", [file]) and not fresh.unchanged(stamp, "bake", [file, other, stamp])
    os.utime(file, (1, 1))
    assert not fresh.unchanged(stamp, "bake")
    fresh.note(stamp, [file, other], "bake")
    before = file.stat()
    file.write_text("three")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not fresh.unchanged(stamp, "bake"), "another size at the same time"
    fresh.note(stamp, [file, other], "bake")
    other.unlink()
    assert not fresh.unchanged(stamp, "bake")
    stamp.write_text("{")
    assert not fresh.unchanged(stamp, "bake")
    fresh.note(tmp_path / "nowhere/stamp.json", [file])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "stamp.json"]


def test_data_are_checked_when_they_changed_and_when_asked(tmp_path, monkeypatch, capsys):
    folder, started, status = tmp_path / "data", [], 0
    folder.mkdir()
    (folder / "names.txt").write_text("emma")
    monkeypatch.setenv("ZEROHERO_DATA", str(folder))
    monkeypatch.setattr(data, "STAMP", tmp_path / "stamp.json")

    def run(command, **options):
        started.append(command[-1])
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(data.subprocess, "run", run)

    def checks(*arguments):
        started.clear()
        assert data.main(arguments) == status
        return started == ["zerohero.data", "zerohero.gguf"]

    assert checks() and not checks()
    assert "as they were when they were checked" in capsys.readouterr().out
    assert checks("--verify") and not checks()
    (folder / "names.txt").write_text("olivia")
    assert checks() and not checks()
    (folder / "names.txt").unlink()
    assert checks() and not checks()
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("ZEROHERO_DATA", str(tmp_path / "other"))
    assert checks() and not checks()
    status = 3
    assert not checks("--verify") and started == ["zerohero.data"], "what failed is the last that ran"
