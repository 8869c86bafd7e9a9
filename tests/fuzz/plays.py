"""Stand-ins for `targets.play` that do on one seed what a file should never do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator


def faulty(kind: str, seeds: range) -> Iterator[tuple[str, int, str]]:
    """Seed 2 is a fault, seed 4 an abort, seed 5 a hang, seed 6 a fault."""
    for seed in seeds:
        yield "begin", seed, ""
        if seed in (2, 6):
            yield "fault", seed, f"{kind} came out"
        if seed == 4:
            os.abort()
        if seed == 5:
            time.sleep(300)
