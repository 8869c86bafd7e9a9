"""Acceptance lines of runs that cost what has changed, and start at once. `make acceptance` runs and prints them.

The suite's own time, and the kill matrix (`make faults`), are run apart.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

from lines import ROOT, Line, Setting, run_benchmark

SIZES = (100_000, 1_000_000)  # rows of 64 dimensions
GROWTH = 1.5  # x, for ten times the rows
SHARE = 0.05  # of the bytes of all vectors, at most, read of the table in a night
START_S = {"hashing": 4.0, "minilm": 15.0}  # of the whole command, for 60 texts


def nights(setting: Setting) -> Line:
    """1: what a night reads and takes, by the size of the table."""
    sizes = [str(size) for size in SIZES]
    found = run_benchmark(setting, "nightly", "--cost", str(setting.folder / "nightly"), "--sizes", *sizes)
    told, held = [], True
    for night, figures in found.items():
        growth = figures[f"growth {SIZES[0]:,} -> {SIZES[1]:,}"]
        share = figures[str(SIZES[1])]["share_of_vectors"]
        held = held and max(growth.values()) <= GROWTH and share <= SHARE
        told.append(
            f"{night}: bytes x {growth['mb_read_total']}, seconds apart from listing and comparing x "
            f"{growth['seconds_apart_from_these']}, {share:.1%} of the vectors"
        )
    return Line(
        f"{SIZES[0]:,} -> {SIZES[1]:,} rows: bytes of the table and seconds <= x {GROWTH}, bytes <= {SHARE:.0%} of the vectors",
        "; ".join(told),
        held,
    )


def start(setting: Setting) -> Line:
    """2: the whole command on 60 texts."""
    found = run_benchmark(setting, "start", "--rounds", "3", "--runners", "inline")["measured"]
    took = {family: middle(found[f"{family} inline"]) for family in START_S}
    return Line(
        "60 texts, the whole command: " + ", ".join(f"{family} <= {limit:g} s" for family, limit in START_S.items()),
        ", ".join(f"{family} {seconds:.1f} s" for family, seconds in took.items()),
        all(took[family] <= limit for family, limit in START_S.items()),
    )


def middle(rounds: list[dict[str, Any]]) -> float:
    """Median of the seconds of the whole command."""
    return float(median(one["whole"] for one in rounds))


def house(setting: Setting) -> Line:
    """5: the directions of the rooms."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return Line("import-linter holds the directions of the rooms", last, done.returncode == 0)


LINES: dict[int, Callable[[Setting], Line]] = {5: house}
TIMINGS: dict[int, Callable[[Setting], Line]] = {1: nights, 2: start}
