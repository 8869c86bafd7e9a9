"""Looks: what the driver has to know of a source's files is found by a child process, so that no file ends the driver.

Libraries abort, overflow the stack, eat all memory or never return on some files. A child process looks at one file after
another; where it dies, or says nothing for longer than the bound, the file is at fault, and the next one gets another child.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from pipelines.child import ChildDied, ChildSilent, ask_child, end_idle_children

log = logging.getLogger(__name__)

T = TypeVar("T")

IDLE_S = 20.0  # after which a child that nobody needs is ended
TRIES = 2  # at a file whose looks die: the first may have been killed for another's sake

BOUND_S: ContextVar[float | None] = ContextVar("bound", default=None)


class LookFailed(Exception):
    """A look at a file ended its process, or took too long."""


@contextmanager
def bounded_looks(timeout_s: float) -> Iterator[None]:
    """While entered, looks are taken by a child process, and given up after so many seconds of silence.

    Else they are taken here and now.
    """
    token = BOUND_S.set(timeout_s)
    try:
        yield
    finally:
        BOUND_S.reset(token)
        end_idle_children(IDLE_S)


def look(function: Callable[..., Iterable[T | None]], *arguments: Any) -> Iterator[T]:
    """What a function of a module yields for these arguments; None, which it should yield now and then, says that it still works.

    Raises what it raises, and `LookFailed`. What it gives for the same arguments must be the same, for it may be asked twice.
    """
    timeout_s = BOUND_S.get()
    if timeout_s is None:
        yield from (value for value in function(*arguments) if value is not None)
        return
    given = 0
    for attempt in range(1, TRIES + 1):
        try:
            for at, value in enumerate(ask_child(timeout_s, function, arguments)):
                if at >= given:
                    given += 1
                    yield value
            return
        except ChildSilent:
            raise LookFailed(f"a look at it took longer than {timeout_s:g} s") from None
        except ChildDied as failure:
            log.warning("a look ended its process: %s", failure)
            if attempt == TRIES:
                raise LookFailed(f"a process that looked at it died: {failure}") from None
