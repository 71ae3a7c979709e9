"""Fetch and check the book's data, unless no file has another size or time than when they were checked last."""

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import fresh
import platformdirs

ROOT = Path(__file__).resolve().parents[1]
MODULES = "data", "gguf"  # each, run as a program, fetches and checks its files
STAMP = ROOT / ".venv/data.json"


def main(argv=None):
    parser = argparse.ArgumentParser(description="Fetch the book's data, and check them where they may have changed.")
    parser.add_argument("--verify", action="store_true", help="check every file's checksum in any case")
    args = parser.parse_args(argv)
    folder = Path(os.environ.get("ZEROHERO_DATA") or platformdirs.user_cache_dir("zerohero", appauthor=False))
    folder = folder.expanduser()
    code = b"".join((ROOT / f"zerohero/{name}.py").read_bytes() for name in MODULES)  # an export renews their times
    purpose = f"{folder} {hashlib.sha256(code).hexdigest()}"
    if not args.verify and fresh.unchanged(STAMP, purpose):
        print(f"the data in {folder} are as they were when they were checked")
        return 0
    for name in MODULES:
        if status := subprocess.run([sys.executable, "-m", f"zerohero.{name}"], check=False, cwd=ROOT).returncode:
            return status
    fresh.note(STAMP, [path for path in folder.iterdir() if path.is_file()], purpose)
    return 0


if __name__ == "__main__":
    sys.exit(main())
