"""Progress of a run on stderr: bars on a terminal, a line now and then in a pipe."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from typing import Any

from pipelines.progress import EMBEDDING, Event

WINDOW_S = 60.0  # over which the rate is taken
LINE_S = 10.0  # between two lines in a pipe


class Rate:
    """Objects per second over the last minute, from the first shard that is finished on."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def add(self, moment: float, done: int) -> None:
        """So many objects are finished at a moment (seconds)."""
        self._points.append((moment, done))
        while len(self._points) > 2 and moment - self._points[0][0] > WINDOW_S:
            self._points.popleft()

    @property
    def per_s(self) -> float | None:
        """None until two shards are finished: the first one may have waited for what was starting."""
        if len(self._points) < 2:
            return None
        (began, first), (ended, last) = self._points[0], self._points[-1]
        return (last - first) / (ended - began) if ended > began and last > first else None


class ProgressLine:
    """A context whose `update` takes the events of a run. A `silent` one shows nothing: the log tells of them."""

    def __init__(self, terminal: bool, silent: bool = False) -> None:
        self.terminal = terminal
        self.silent = silent
        self.event: Event | None = None
        self.rate = Rate()
        self._over = threading.Event()
        self._at = time.monotonic()  # of the event
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressLine:
        if not self.terminal and not self.silent:
            threading.Thread(target=self._print_lines, name="progress", daemon=True).start()
        return self

    def update(self, event: Event) -> None:
        """Note how far the run is."""
        if self.silent:
            return
        if event.phase == EMBEDDING and (self.event is None or event.done > self.event.done):
            self.rate.add(event.seconds, event.done)
        self.event, self._at = event, time.monotonic()
        if self.terminal:
            self._draw(event)
        elif event.phase == EMBEDDING and event.done == event.total:
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """How far the run is, in a line."""
        event = self.event
        if event is None:
            return "starting"
        elapsed = event.seconds + time.monotonic() - self._at
        if event.phase != EMBEDDING:
            return f"{event.phase}, {elapsed:.0f} s"
        told = f"{event.phase}: {event.done}/{event.total} objects, {elapsed:.0f} s"
        rate = self.rate.per_s
        return told if rate is None else f"{told}, {rate:.1f}/s, {(event.total - event.done) / rate:.0f} s left"

    def _print_lines(self) -> None:
        while not self._over.wait(LINE_S):
            print(self.line(), file=sys.stderr, flush=True)

    def _draw(self, event: Event) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        if self._bar is None:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        total = event.total if event.phase == EMBEDDING and event.total else None  # None: the bar shows that it works
        self._bar.update(self._task, description=self.line(), completed=event.done, total=total)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._bar is not None:
            self._bar.stop()
