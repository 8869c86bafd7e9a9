"""Memory of a run: the proportional set size of this process and all it started, sampled."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

INTERVAL_S = 3.0  # one sample costs 35 ms of CPU beside a Ray of 14 processes


def total_pss_mb() -> float:
    """Summed proportional set size of this process and its descendants, in MiB. Shared pages count once in the sum.

    Processes of a Ray that this one did not start are not among them.
    """
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 2**20


class PeakMemory:
    """Samples `total_pss_mb` in a thread while it is entered; the highest is `peak_mb`."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.peak_mb = max(self.peak_mb, total_pss_mb())
            self._stop.wait(INTERVAL_S)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
