"""What runs hold of the Ray that this process is connected to."""

from __future__ import annotations

import time

from ray._private import state

RELEASED_S = 30


def held_actors() -> list[str]:
    """Actors that live or are to come, by class and job, without Ray Data's own, which serve all executions."""
    return sorted(
        f"{actor['ActorClassName']} of job {actor['JobID']}: {actor['State']}"
        for actor in state.actors().values()
        if actor["State"] != "DEAD" and not actor["IsDetached"]
    )


def check_released() -> None:
    """No actor is left, after a while."""
    until = time.monotonic() + RELEASED_S
    while (held := held_actors()) and time.monotonic() < until:
        time.sleep(0.2)
    assert not held, held  # pytest does not rewrite this file's asserts
