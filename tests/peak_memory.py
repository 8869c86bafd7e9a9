"""How much memory something takes at its peak: measured in a child process, by the kernel. Linux alone."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # what is freed, at once

CHILD = """
import gc, json, pickle, sys
sys.path[:0] = {paths!r}
peaks = {{}}
def most():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
def measure(name, work):
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
    before = most()
    made = work()
    peaks[name] = max(peaks.get(name, 0), most() - before)
    return made
inputs = pickle.load(open({inputs!r}, "rb"))
{code}
print(json.dumps(peaks))
"""


def peaks_of(code: str, inputs: Any = None) -> dict[str, int]:
    """Run Python `code` in a process of its own; of each `measure(name, work)` in it, the bytes that `work()` took at most.

    `inputs` is there under that name, so that nothing of making it is left in the process.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "inputs")
        path.write_bytes(pickle.dumps(inputs))
        code = CHILD.format(paths=[str(TESTS), str(TESTS.parent)], code=code, inputs=str(path))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=900, env={**os.environ, **GIVE_BACK}
        )
    assert done.returncode == 0, done.stderr[-2000:]
    peaks: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return peaks
