"""Every chapter is its own test: it runs from its first cell to its last, and what it claims is asserted there."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(ROOT.glob("nbs/*.ipynb"), reverse=True)  # the later, the longer: they begin first


@pytest.mark.long
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter(path):
    if not importlib.util.find_spec("numba") and re.search(r'"(import|from) numba\b', path.read_text(encoding="utf-8")):
        pytest.skip("numba is not installed, and the chapter writes machine code with it")
    command = [Path(sys.executable).with_name("nbdev_test"), "--path", path, "--n_workers", "0"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    said = done.stderr.strip() or done.stdout.strip()
    assert done.returncode == 0 and "Success." in done.stdout, f"{path.stem} fails:\n{said}"  # no file, no success
