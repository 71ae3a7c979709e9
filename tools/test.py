"""Run every test, on this machine as it is or as if it were an older one, to the end; then say what failed.

A kind of machine is a set of environment variables that hide instructions of the processor, fix the number of threads and
may hide numba. Before its tests run, a kind says what its libraries found, and stops if that is not what the kind is for.
"""

import argparse
import ast
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
NOT_NUMBERS = "book", "execute", "kinds", "site", "widgets"  # tests that compute nothing a processor could do otherwise
# numpy 2.4 names groups of instructions otherwise than 2.2, and each passes over names that it does not know.
NUMPY_V4 = "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL"
SSE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "MKL_CBWR": "COMPATIBLE",  # what MKL also obeys on processors that are not Intel's
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": f"{NUMPY_V4} X86_V3 AVX2 FMA3",
    "NUMBA_CPU_NAME": "nehalem",
    "NUMBA_CPU_FEATURES": "",
}
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "MKL_CBWR": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": NUMPY_V4,
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt",
}
# What `found` has to say of each library under these settings: of numba, the registers that a loop of it uses. MKL does
# not say whether it obeys AVX2.
SEEN = {
    "sse": {"torch": "DEFAULT", "oneDNN": "Intel SSE4.1", "MKL": "COMPATIBLE", "numpy": "X86_V2", "numba": "xmm"},
    "avx2": {"torch": "AVX2", "oneDNN": "Intel AVX2", "numpy": "X86_V3", "numba": "ymm"},
}


class Kind(NamedTuple):
    instructions: str  # "all" of the processor, or one of `SEEN`
    threads: int
    numba: bool

    @property
    def environment(self):
        chosen = {"all": {}, "sse": SSE, "avx2": AVX2}[self.instructions]
        threads = str(self.threads)
        # what torch compiles for one kind of processor must not be found by another
        compiled = os.path.join(tempfile.gettempdir(), f"zerohero-{self.instructions}")
        chosen = {**chosen, "OMP_NUM_THREADS": threads, "TORCHINDUCTOR_CACHE_DIR": compiled}
        if not self.numba:
            paths = [str(ROOT / "tests/without_numba"), os.environ.get("PYTHONPATH")]
            chosen["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return {**os.environ, **chosen}


KINDS = {  # any two circumstances meet in one of them
    "native": Kind("all", 1, True),
    "native-plain": Kind("all", 2, False),
    "avx2": Kind("avx2", 2, True),
    "avx2-plain": Kind("avx2", 1, False),
    "lowest": Kind("sse", 1, True),
    "lowest-plain": Kind("sse", 2, False),
}

PROBE = """
import sys, torch
from torch.backends import cpu, mkldnn
found = {"torch": cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
square = torch.ones(32, 32)
square @ square  # MKL and oneDNN introduce themselves at work
if mkldnn.is_available():
    torch.ops.mkldnn._reorder_linear_weight(square, None)
from numpy._core._multiarray_umath import __cpu_features__ as features
names = {"X86_V4": "AVX512_SKX", "X86_V3": "AVX2", "X86_V2": "SSE42"}  # in numpy 2.4 and in 2.2
levels = [new for new, old in names.items() if features.get(new if "X86_V2" in features else old)]
found["numpy"] = levels[0] if levels else "baseline"
try:
    import numba
except ImportError:
    found["numba"] = "none"
else:
    @numba.njit("float32(float32[::1])", fastmath=True)
    def total(x):
        s = numba.float32(0)
        for i in range(len(x)):
            s += x[i] * x[i]
        return s
    assembly = "".join(total.inspect_asm().values())
    found["numba"] = next((name for name in ("zmm", "ymm", "xmm") if name in assembly), "other")
print("FOUND", found)
"""


def found(kind):
    """What the libraries say that they use under the settings of `kind`, as a dict."""
    loud = {**kind.environment, "ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
    done = subprocess.run([sys.executable, "-c", PROBE], check=False, capture_output=True, text=True, env=loud)
    said = re.search(r"^FOUND (.*)$", done.stdout, re.M)
    if done.returncode or not said:
        raise SystemExit(f"torch cannot be started:\n{done.stderr.strip()}")
    answer = ast.literal_eval(said[1])
    for name, pattern in (("oneDNN", r"info,cpu,isa:(.*)"), ("MKL", r"CNR:(\S+)")):
        told = re.search(pattern, done.stdout)
        answer[name] = told[1] if told else "none"
    return answer


def faults(kind, answer):
    """In what the libraries differ from what `kind` is for."""
    wanted = {**SEEN.get(kind.instructions, {}), "threads": kind.threads}
    if not kind.numba:
        wanted["numba"] = "none"
    absent = {"MKL", "oneDNN"} if platform.system() != "Linux" else set()  # not every build of torch has them
    return [
        f"{name} has {answer[name]}, not {value}"
        for name, value in wanted.items()
        if answer[name] != value and not (answer[name] == "none" and name in absent)
    ]


def workers(kind):
    """As many as there is work for: a thread each of `kind.threads`, and 3 GB of memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 12e9
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable // kind.threads, int(memory / 3e9), 8))


def run(name, arguments, everything):
    """Run the tests as `name`; returns the exit status of pytest and the seconds taken."""
    kind, begin = KINDS[name], time.monotonic()
    answer = found(kind)
    print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in answer.items()), flush=True)
    if kind.instructions == "avx2" and answer["torch"] == "DEFAULT":
        print(f"{name}: skipped, since this processor has no AVX2", flush=True)
        return 0, 0.0
    if wrong := faults(kind, answer):
        print(f"{name}: the settings did not take effect: {'; '.join(wrong)}", flush=True)
        return 1, 0.0
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        str(workers(kind)),
        "--dist",
        "loadgroup",
        "--no-loadscope-reorder",
    ]
    command += ["-r", "fEs"]  # what failed, and what was skipped and why
    if not everything:
        command += [f"--ignore=tests/test_{other}.py" for other in NOT_NUMBERS]
    status = subprocess.run(command + arguments, check=False, cwd=ROOT, env=kind.environment).returncode
    return status, time.monotonic() - begin


def main(argv=None):
    parser = argparse.ArgumentParser(description="Run every test to the end, then say what failed.")
    parser.add_argument(
        "kinds",
        nargs="*",
        help=f"kinds of machine: {', '.join(KINDS)}, or portable for all (default: native); all but the first run the "
        "chapters and the tests of numbers",
    )
    parser.add_argument("--pytest", default="", metavar="OPTIONS", help="more options for pytest, in one word")
    args = parser.parse_args(argv)
    names = [name for word in args.kinds or ["native"] for name in (KINDS if word == "portable" else [word])]
    if unknown := [name for name in names if name not in KINDS]:
        parser.error(f"there is no kind {', '.join(unknown)}; the kinds are {', '.join(KINDS)}")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    results = {}
    for name in names:
        if KINDS[name].instructions in SEEN and not x86:
            print(
                f"\n{name}: skipped, since there are no such instructions to hide on {platform.machine()}", flush=True
            )
        else:
            results[name] = run(name, args.pytest.split(), everything=name == "native")
    if len(names) > 1:
        print("\nkind          result   minutes")
        for name, (status, seconds) in results.items():
            print(f"{name:13} {'failed' if status else 'passed':8} {seconds / 60:.1f}")
    return int(any(status for status, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main())
