"""Acceptance lines of resume, exactly-once commits, faults and concurrent writers. `make acceptance` runs and prints them.

All of them start processes and take minutes, so none is run by `make test`, which holds a sample of the faults instead.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

from lines import ROOT, Line, Setting, run_benchmark

SOAK_MINUTES = 10


def faults(setting: Setting) -> Line:
    """1: the whole matrix of faults."""
    environment = {**os.environ, "LATENTLAKE_TEST_DATA": str(setting.data)}
    done = subprocess.run(["make", "faults"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    print("\n".join(table))
    return Line(
        "every fault of the matrix is survived: the table is the one that a clean run makes",
        f"{done.stdout.strip().splitlines()[-1].strip('= ')}; {len(table) - 2} faults, see the table above",
        done.returncode == 0 and len(table) > 2,
    )


def soak(setting: Setting) -> Line:
    """2: random jobs, kills and readers."""
    command = ["make", "soak", f"MINUTES={SOAK_MINUTES}"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [""]
    return Line(
        f"{SOAK_MINUTES} minutes of random jobs, kills and readers: nothing is lost", lines[-1], done.returncode == 0
    )


def unchanged(setting: Setting) -> Line:
    """3: 100,000 small files, unchanged."""
    found = run_benchmark(setting, "unchanged")
    return Line(
        "100,000 unchanged files: <= 10 % of the first run's seconds.stream, no Ray, no new version",
        f"{found['second_run_s']} s of {found['stream_s']} s ({found['share']:.1%}), Ray started: {found['ray_started']}, "
        f"{found['new_versions']} new versions, {found['unchanged']} unchanged",
        found["share"] <= 0.1
        and not found["ray_started"]
        and found["new_versions"] == 0
        and found["unchanged"] == found["files"] == 100_000,
    )


def memory(setting: Setting) -> Line:
    """4: change detection from 10^4 to 10^6 objects and beyond."""
    found = run_benchmark(setting, "change_detection")
    figures = found["figures"]
    told = ", ".join(f"{f['rows']:,}: {f['peak_mb'] - found['baseline_mb']:.0f} MB" for f in figures)
    last, first = figures[-1], figures[-2]
    slope = (last["peak_mb"] - first["peak_mb"]) / (last["rows"] - first["rows"]) * 1e6
    return Line(
        "memory of change detection does not grow with the table: < 100 MB a million objects once its buffer is full",
        f"above the empty process {told}; {slope:.0f} MB for each further million",
        slope < 100,
    )


def nightly(setting: Setting) -> Line:
    """5: fifty small nightly commits, then upkeep."""
    found = run_benchmark(setting, "nightly")
    first, before, after = (found[name] for name in ("first", "after_nights", "after_maintain"))
    told = ("search_p50_ms", "scan_ms", "fragments", "index_segments", "versions")
    return Line(
        "50 nightly commits do not degrade reads: after `maintain`, search is within 1.5 x of the first day's",
        "; ".join(f"{name} {first[name]} -> {before[name]} -> {after[name]}" for name in told),
        found["nights"] == 50
        and after["search_p50_ms"] <= 1.5 * first["search_p50_ms"]
        and after["rows"] == before["rows"]
        and after["index_segments"] == 1
        and found["next_run"] == "unchanged",
    )


LINES: dict[int, Callable[[Setting], Line]] = {}
TIMINGS: dict[int, Callable[[Setting], Line]] = {1: faults, 2: soak, 3: unchanged, 4: memory, 5: nightly}
