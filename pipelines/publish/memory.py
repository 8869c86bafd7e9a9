"""Memory of a run: what this process and all it started hold, sampled."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil

INTERVAL_S = 0.5  # between two samples at least,
SHARE = 0.02  # and so long that they take no more of a CPU: one costs 35 to 130 ms beside a Ray of 14 processes


def total_memory_mb() -> float:
    """Summed memory of this process and its descendants, in MiB. See `held_by`: shared pages count once in the sum on Linux.

    Processes of a Ray that this one did not start are not among them.
    """
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += held_by(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 2**20


def held_by(process: psutil.Process) -> int:
    """Bytes: the proportional set size, or where the platform does not tell it (macOS) the resident set size."""
    try:
        full = process.memory_full_info()
    except psutil.AccessDenied:  # macOS tells of the caller's own processes alone
        return int(process.memory_info().rss)
    return int(getattr(full, "pss", full.rss))


class PeakMemory:
    """Samples `total_memory_mb` in a thread while it is entered; the highest is `peak_mb`."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.is_set():
            began = time.thread_time()
            self.peak_mb = max(self.peak_mb, total_memory_mb())
            self._stop.wait(max(INTERVAL_S, (time.thread_time() - began) / SHARE))

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
