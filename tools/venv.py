"""Make the reader's environment: `.venv` with the packages of requirements.lock and the book itself, editable.

Any Python can read this file, so that one that is too old says so instead of failing on syntax.
"""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "Scripts", "python.exe") if os.name == "nt" else os.path.join(VENV, "bin", "python")


def works(*command):
    """Whether a command can be started and succeeds."""
    try:
        with open(os.devnull, "w") as nothing:
            return subprocess.call(command, stdout=nothing, stderr=nothing) == 0
    except OSError:
        return False


def main():
    name = "%d.%d" % sys.version_info[:2]
    if sys.version_info < (3, 10):
        return (
            sys.executable
            + " is Python "
            + name
            + "; the book needs 3.10 or newer. Name another one: make PYTHON=python3.12 book"
        )
    if not works(PYTHON, "-m", "pip", "--version"):  # no environment, half of one, or one whose Python is gone
        if not works(sys.executable, "-c", "import ensurepip, venv"):
            return (
                sys.executable + " cannot make virtual environments, because its ensurepip module is missing. "
                "On Debian and Ubuntu: sudo apt install python" + name + "-venv"
            )
        print("making .venv with Python " + name)
        sys.stdout.flush()
        subprocess.check_call([sys.executable, "-m", "venv", "--clear", VENV])
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
    try:
        subprocess.check_call(pip + ["-r", os.path.join(ROOT, "requirements.lock")])
        subprocess.check_call(pip + ["--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT])
    except subprocess.CalledProcessError:
        return "pip could not install the book's packages; its own message is above. Nothing is lost: run make again to go on"
    with open(os.path.join(VENV, "installed"), "w") as stamp:
        stamp.write("newer than requirements.lock and pyproject.toml: nothing to install\n")


if __name__ == "__main__":
    sys.exit(main())
