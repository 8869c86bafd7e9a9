"""Calls that are measured each in a process of its own, so that the peak of one is not that of another. Linux alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def peak_mb() -> int:
    """The most memory that this process has held, in MiB, as the kernel tells it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024)


def measure_each(script: str, folder: str, option: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Run `script` with `--in folder` and `option` for each name; the JSON of each last line, printed as it comes."""
    figures = []
    for name in names:
        command = [sys.executable, script, "--in", folder, option, name]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        print(line, flush=True)
        figures.append(json.loads(line))
    return figures
