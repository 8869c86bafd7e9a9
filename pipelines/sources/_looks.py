"""Looks: what the driver has to know of a source's files is found by a child process, so that no file ends the driver.

Libraries abort, overflow the stack, eat all memory or never return on some files. A child process looks at one file after
another; where it dies, or says nothing for longer than the bound, the file is at fault, and the next one gets another child.
Credentials are looked up by the child itself: what is sent to it holds references alone.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from operators.errors import LatentLakeError

log = logging.getLogger(__name__)

T = TypeVar("T")

BEAT_S = 1.0  # how often a look should say that it goes on
START_S = 120  # in which a child must have started
IDLE_S = 20.0  # after which a child that nobody needs is ended
TRIES = 2  # at a file whose looks die: the first may have been killed for another's sake
CHILD = "import sys, pickle; sys.path[:] = pickle.loads(bytes.fromhex(sys.argv[1])); from pipelines.sources._looks import serve; serve()"
WORD, END, FAILURE = "word", "end", "failure"  # what an answer is

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
        timer = threading.Timer(IDLE_S, end_children, (time.monotonic(),))
        timer.daemon = True
        timer.start()


def look(function: Callable[..., Iterable[T | None]], *arguments: Any) -> Iterator[T]:
    """What a function of a module yields for these arguments; None, which it should yield now and then, says that it goes on.

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
        except ChildDied as failure:
            log.warning("a look ended its process: %s", failure)
            if attempt == TRIES:
                raise LookFailed(f"a process that looked at it died: {failure}") from None


class ChildDied(Exception):
    """The child is gone; its text says how."""


def ask_child(timeout_s: float, function: Callable[..., Iterable[Any]], arguments: tuple[Any, ...]) -> Iterator[Any]:
    """See `look`, with one child. Raises `ChildDied`, and `LookFailed` where it takes too long."""
    child = take_child()
    done = False
    try:
        child.send((timeout_s, function, arguments))
        while True:
            kind, value = child.receive(timeout_s)
            if kind == END:
                done = True
                return
            if kind == FAILURE:
                done = True
                raise value
            if value is not None:
                yield value
    finally:
        if done:
            child.used = time.monotonic()
            with LOCK:
                IDLE.append((os.getpid(), child))
        else:  # it died, hangs, or has more to say that nobody wants to hear
            child.end()


class Child:
    """A process that takes looks, and the two ends of our talk with it."""

    def __init__(self) -> None:
        self.used = time.monotonic()
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
        paths = pickle.dumps(sys.path).hex()
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, paths, str(theirs_in), str(theirs_out)],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=self._told,
            stderr=self._told,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = Connection(ours_out, readable=False), Connection(ours_in, writable=False)
        try:
            self.receive(START_S)
        except (ChildDied, LookFailed) as failure:
            self.end()
            raise LatentLakeError(f"the process that looks at the source's files does not start: {failure}") from None

    @property
    def living(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def send(self, request: Any) -> None:
        """Ask for a look."""
        with contextlib.suppress(BrokenPipeError):  # it died; the answer will tell
            self._out.send(request)

    def receive(self, timeout_s: float) -> tuple[str, Any]:
        """The next answer. Raises `ChildDied`, and `LookFailed` where there is none in time."""
        try:
            if not self._in.poll(timeout_s):
                raise LookFailed(f"a look at it took longer than {timeout_s:g} s")
            answer: tuple[str, Any] = self._in.recv()
        except (EOFError, ConnectionError):
            raise ChildDied(self.epitaph()) from None
        return answer

    def epitaph(self) -> str:
        """How it died, and the last line that it printed."""
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._told.seek(max(0, self._told.seek(0, os.SEEK_END) - 2000))
        lines = [line.strip() for line in self._told.read().decode(errors="replace").splitlines() if line.strip()]
        return f"{how}: {lines[-1][:200]}" if lines else how

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        for end in (self._out, self._in, self._told):
            end.close()


IDLE: list[tuple[int, Child]] = []  # children that wait for the next look, by the process whose they are
LOCK = threading.Lock()


def take_child() -> Child:
    """A child that nobody uses."""
    with LOCK:
        while IDLE:
            owner, child = IDLE.pop()
            if owner == os.getpid() and child.living:
                return child
            if owner == os.getpid():
                child.end()
    return Child()


@atexit.register
def end_children(before: float = float("inf")) -> None:
    """End the children that wait, and were last used before that moment."""
    with LOCK:
        over = [entry for entry in IDLE if entry[1].used <= before]
        IDLE[:] = [entry for entry in IDLE if entry not in over]
    for owner, child in over:
        if owner == os.getpid():
            child.end()


def serve() -> None:
    """What the child does: answer one request after another, until the other end is closed."""
    import faulthandler

    requests = Connection(int(sys.argv[2]), writable=False)
    answers = Connection(int(sys.argv[3]), readable=False)
    with contextlib.suppress(OSError):  # where memory runs out, it is not the driver that the kernel kills
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    answers.send((WORD, None))
    while True:
        try:
            timeout_s, function, arguments = requests.recv()
        except EOFError:
            return
        # Whoever asks may be gone, and nobody left to end a look that hangs.
        faulthandler.dump_traceback_later(timeout_s + START_S, exit=True)
        said = time.monotonic()
        try:
            for value in function(*arguments):
                if value is not None or time.monotonic() - said > BEAT_S:
                    faulthandler.dump_traceback_later(timeout_s + START_S, exit=True)
                    answers.send((WORD, value))
                    said = time.monotonic()
            answer: tuple[str, Any] = END, None
        except Exception as failure:  # of any kind: it is raised again where it was asked for
            answer = FAILURE, portable(failure)
        faulthandler.cancel_dump_traceback_later()
        answers.send(answer)


def portable(failure: Exception) -> Exception:
    """An exception as it is, where it can travel; else one of ours that says the same."""
    try:
        pickle.loads(pickle.dumps(failure))
    except Exception:  # whatever its `__reduce__` raises
        return LatentLakeError(f"{type(failure).__name__}: {failure}")
    return failure
