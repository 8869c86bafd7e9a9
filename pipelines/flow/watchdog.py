"""A bound on the time that an object may take: what hangs tells nobody, so its process is ended, and the journal says why."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from contextlib import ExitStack
from contextvars import copy_context
from typing import NoReturn

from operators.pulse import heard_by
from pipelines.state.journal import Journal

log = logging.getLogger(__name__)

GRACE_S = 15.0  # after the bound, in which the journal is written
CHECKS = 20  # in the time of the bound
STDERR = 2


class Watchdog:
    """While entered, this process ends once no sign of life (`operators.pulse.beat`) came for `timeout_s` seconds.

    What was worked on is noted in the journal before. Where code holds the interpreter's lock all the while (a regular
    expression does), nothing can be noted: a timer of C ends the process a little later, and the next attempt is careful.
    """

    def __init__(self, journal: Journal, timeout_s: float) -> None:
        self._journal, self._timeout_s = journal, timeout_s
        self._over = threading.Event()
        watch = copy_context().run  # its log lines say what ours would be about
        self._thread = threading.Thread(target=watch, args=(self._watch,), daemon=True, name="watchdog")
        self._closing = ExitStack()

    def __enter__(self) -> Watchdog:
        self._arm()
        self._now: tuple[float, str | None] = (time.monotonic(), None)
        self._closing.enter_context(heard_by(self._hear))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        self._over.set()
        faulthandler.cancel_dump_traceback_later()
        self._thread.join()

    def _arm(self) -> None:
        """Set the timer of C: whoever still hangs a while after the bound is ended by it."""
        self._armed = time.monotonic()
        faulthandler.dump_traceback_later(self._timeout_s + GRACE_S, exit=True, file=STDERR)

    def _hear(self, object_id: str | None) -> None:
        now = time.monotonic()
        self._now = (now, object_id)
        if now - self._armed > 1:
            self._arm()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._timeout_s / CHECKS)):
            since, object_id = self._now
            if time.monotonic() - since > self._timeout_s and not self._over.is_set():
                self._end(object_id)

    def _end(self, object_id: str | None) -> NoReturn:
        try:
            self._journal.overrun(object_id, self._timeout_s)
            log.warning("no sign of life for %g s: the process ends itself", self._timeout_s)
        finally:
            faulthandler.dump_traceback(file=STDERR)
            os._exit(1)
