"""The last sign of life of a run. A module of its own, so that the actor's process imports no other LatentLake module."""

from __future__ import annotations

import time


class Pulse:
    """Remembers the last sign of life of a run. An actor, which takes no CPU, beside the driver."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def beat(self) -> None:
        """Somebody is at work."""
        self.last = time.monotonic()

    def silent_s(self) -> float:
        """Seconds since the last sign."""
        return time.monotonic() - self.last
