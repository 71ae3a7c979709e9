"""What all benchmarks share: timing their contestants in turns, and writing down the result."""

import datetime
import gc
import json
import os
import platform
import statistics
import time
from pathlib import Path

from zerohero.data import write_file


def times_in_turns(contestants, rounds, *, collector=True):
    """Calls each of `contestants`, a dict of functions, `rounds` times, one after the other in each round.

    Returns two dicts: the median milliseconds of each, and the last value that each returned. Garbage is collected
    before every call, so that nobody pays for another's; without `collector`, none is collected during the call."""
    times, results = {name: [] for name in contestants}, {}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            gc.collect()
            if not collector:
                gc.disable()
            begin = time.perf_counter()
            results[name] = contestant()
            times[name].append(1000 * (time.perf_counter() - begin))
            gc.enable()
    return {name: statistics.median(t) for name, t in times.items()}, results


def processor():
    """Name of the processor, and which of its instructions matter for matrices, where the system tells."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in lines}
    flags = facts.get("flags", facts.get("Features", "")).split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16") if flag in flags]
    return " ".join([facts.get("model name", platform.machine()), *known])


def write_record(name, benchmark, rounds, rows, **facts):
    """Writes `rows` to results/NAME.json, with the date, the machine, the versions and what else there is to say."""
    record = {
        "benchmark": benchmark,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **facts,
        "rounds": rounds,
        "rows": rows,
    }
    path = Path(__file__).resolve().parents[1] / "results" / f"{name}.json"
    write_file(path, json.dumps(record, indent=1).encode() + b"\n")
