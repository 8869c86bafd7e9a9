"""How far a run is: its phases, each with its seconds, and the objects that are done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

LISTING, COMPARING, STARTING, LOADING = "listing", "comparing", "starting", "loading models"
EMBEDDING, DEDUPLICATING = "embedding", "deduplicating"
COMMITTING, INDEXING, PUBLISHING = "committing", "indexing", "publishing"
PHASES = (LISTING, COMPARING, STARTING, LOADING, EMBEDDING, DEDUPLICATING, COMMITTING, INDEXING, PUBLISHING)


@dataclass(frozen=True)
class Event:
    """How far a run is, as its caller is told: when a phase begins, and when a shard is finished."""

    phase: str  # one of `PHASES`
    done: int  # objects that are finished, those of an interrupted run included
    total: int  # objects to do; 0 until the source is compared with the table
    seconds: float  # since the run began


Progress = Callable[[Event], None]


class Phases:
    """The phases of a run, as they go by. `listeners` are told of them."""

    def __init__(self, began: float, *listeners: Progress | None) -> None:
        """`began` is in seconds since the epoch."""
        self.began = began
        self.done = self.total = 0
        self._listeners = [listener for listener in listeners if listener is not None]
        self._begun: dict[str, float] = {}

    def begin(self, phase: str, done: int = 0, total: int = 0) -> None:
        """A phase begins, and the one before ends; or it continues, and so many of `total` objects are finished."""
        now = time.time()
        self._begun.setdefault(phase, now)
        if total:
            self.done, self.total = done, total
        for listener in self._listeners:
            listener(Event(phase, self.done, self.total, now - self.began))

    def seconds(self, first_read: float | None = None) -> dict[str, float]:
        """Seconds of each phase so far, in their order.

        Models are loaded until the first source is read, which is known only when shards have told of it (`first_read`, in
        seconds since the epoch).
        """
        begun = dict(self._begun)
        if first_read is not None and LOADING in begun:
            begun[EMBEDDING] = max(first_read, begun[LOADING])
        order = sorted(begun, key=lambda name: begun[name])
        ends = [*(begun[name] for name in order[1:]), time.time()]
        return {name: round(max(0.0, end - begun[name]), 3) for name, end in zip(order, ends, strict=True)}
