"""Signs of life: whoever works on one object after another says so, and a watchdog may listen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str | None], None]

LISTENERS: list[Listener] = []  # of this process; the last one hears


def beat(object_id: str | None = None) -> None:
    """Say that work continues, from now on with this object, if it is known which."""
    if LISTENERS:
        LISTENERS[-1](object_id)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """While entered, `listener` is told of every beat, in the thread that gives it."""
    LISTENERS.append(listener)
    try:
        yield
    finally:
        LISTENERS.remove(listener)
