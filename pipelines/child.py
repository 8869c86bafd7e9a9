"""A process beside the driver, for work that may abort, hang, or hold the interpreter's lock, without harm to the driver.

A child takes one request after another: a function of a module and its arguments, which travel through a pipe; it answers with
what the function yields. It is started with `subprocess`, because a user's script may lack the guard that `multiprocessing`
needs, and it ends when its driver ends. A child that has answered waits a while for the next request. Credentials are looked
up by the child itself: what is sent to it holds references alone.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import fcntl
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from operators.errors import LatentLakeError

BEAT_S = 1.0  # how often a function should yield at least, where its silence is bounded
START_S = 120  # in which a child must have started
CHILD = (
    "import sys, pickle; sys.path[:] = pickle.loads(bytes.fromhex(sys.argv[1])); from pipelines.child import serve; "
    "serve(*map(int, sys.argv[2:]))"
)
WORD, END, FAILURE = "word", "end", "failure"  # what an answer is

Surroundings = tuple[dict[str, str], str]  # environment, working directory
Request = tuple[Surroundings, float | None, Callable[..., Iterable[Any]], tuple[Any, ...]]


class ChildDied(Exception):
    """The child is gone; its text says how."""


class ChildSilent(Exception):
    """The child has said nothing for longer than the bound."""


class Child:
    """A process that takes requests, and the two ends of the pipes to it. The constructor does not wait for its start."""

    def __init__(self) -> None:
        self.used = time.monotonic()
        self.unanswered = 0  # requests
        self.paths = list(sys.path)  # where it finds modules
        self._preparing = 0  # answers to `prepare`, which come before those to requests
        self._started = False
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        theirs_life, self._life = os.pipe()  # nobody writes to it: it is closed when this process ends
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
        theirs = (theirs_in, theirs_out, theirs_life)
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, pickle.dumps(self.paths).hex(), *map(str, theirs)],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=self._told,
            stderr=self._told,
            start_new_session=True,  # Ctrl-C is the driver's to answer
        )
        for end in theirs:
            os.close(end)
        self._out, self._in = Connection(ours_out, readable=False), Connection(ours_in, writable=False)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def living(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def ask(
        self, timeout_s: float | None, function: Callable[..., Iterable[Any]], arguments: tuple[Any, ...]
    ) -> Iterator[Any]:
        """Call `function(*arguments)` in the child; what it yields that is not None.

        The request is sent at once, also where nobody has taken an answer yet. Requests are served in turn, and their
        answers must be taken in turn. Raises what the function raises, `ChildDied`, and `ChildSilent` where nothing is
        yielded, not even None, for `timeout_s`.
        """
        self._send((surroundings(), timeout_s, function, arguments))
        self.unanswered += 1
        return self._answers(timeout_s)

    def prepare(self, function: Callable[..., Iterable[Any]], arguments: tuple[Any, ...]) -> None:
        """Call a function before the next request, of a child that owes no answer. What it yields and raises is dropped.

        Returns at once. A child may be handed back meanwhile: it is ready for whoever takes it next.
        """
        self._send((surroundings(), None, function, arguments))
        self._preparing += 1

    def _send(self, request: Request) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died; the answer will tell
            self._out.send(request)

    def _answers(self, timeout_s: float | None) -> Iterator[Any]:
        self._await_start()
        while self._preparing:
            kind, _ = self._receive(None if timeout_s is None else max(timeout_s, START_S))
            self._preparing -= kind != WORD
        while True:
            kind, value = self._receive(timeout_s)
            if kind == WORD:
                if value is not None:
                    yield value
                continue
            self.unanswered -= 1
            self.used = time.monotonic()
            if kind == FAILURE:
                raise value
            return

    def _await_start(self) -> None:
        """Wait until it is ready for requests. Raises `LatentLakeError`."""
        if self._started:
            return
        try:
            self._receive(START_S)
        except (ChildDied, ChildSilent) as failure:
            self.end()
            raise LatentLakeError(f"a process beside the run does not start: {failure}") from None
        self._started = True

    def _receive(self, timeout_s: float | None) -> tuple[str, Any]:
        try:
            if not self._in.poll(timeout_s):
                raise ChildSilent(f"nothing came from it for {timeout_s:g} s")
            answer: tuple[str, Any] = self._in.recv()
        except (EOFError, ConnectionError):
            raise ChildDied(self._epitaph()) from None
        return answer

    def _epitaph(self) -> str:
        """How it died, and the last line that it printed."""
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._told.seek(max(0, self._told.seek(0, os.SEEK_END) - 2000))
        lines = [line.strip() for line in self._told.read().decode(errors="replace").splitlines() if line.strip()]
        return f"{how}: {lines[-1][:200]}" if lines else how

    def kill(self) -> None:
        """Kill it, from any thread; whoever waits for an answer gets `ChildDied`."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, and close what leads to it."""
        if self._out.closed:
            return
        self._process.kill()
        self._process.wait()
        for end in (self._out, self._in, self._told):
            end.close()
        os.close(self._life)


def surroundings() -> Surroundings:
    """What this process has now that a child should have as well."""
    return dict(os.environ), str(Path.cwd())


def adopt(given: Surroundings) -> None:
    """Take over a driver's surroundings."""
    environment, folder = given
    if environment != dict(os.environ):
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
    os.chdir(folder)


IDLE: list[tuple[int, Child]] = []  # children that wait for the next request, by the process whose they are
LOCK = threading.Lock()


def take_child() -> Child:
    """A child that nobody uses, and that finds the same modules as this process; hand it back with `give_back`.

    The one that was handed back last: of a run before, the one that did its work, and has imported what the next one needs.
    """
    with LOCK:
        for entry in IDLE[::-1]:
            owner, child = entry
            if owner != os.getpid():
                IDLE.remove(entry)
            elif not child.living:
                IDLE.remove(entry)
                child.end()
            elif child.paths == sys.path:  # where a package was installed meanwhile, what it has looked up is not right
                IDLE.remove(entry)
                return child
    return Child()


def give_back(child: Child) -> None:
    """Let a child wait for the next request; one that died, hangs, or has more to say that nobody wants to hear is ended."""
    if child.unanswered or not child.living:
        child.end()
        return
    with LOCK:
        IDLE.append((os.getpid(), child))


def ask_child(
    timeout_s: float | None, function: Callable[..., Iterable[Any]], arguments: tuple[Any, ...]
) -> Iterator[Any]:
    """See `Child.ask`; of a child that nobody uses."""
    child = take_child()
    try:
        yield from child.ask(timeout_s, function, arguments)
    finally:
        give_back(child)


@atexit.register
def end_children(before: float = float("inf")) -> None:
    """End the children that wait, and were last used before that moment (`time.monotonic`)."""
    with LOCK:
        over = [entry for entry in IDLE if entry[1].used <= before]
        IDLE[:] = [entry for entry in IDLE if entry not in over]
    for owner, child in over:
        if owner == os.getpid():
            child.end()


def end_idle_children(after_s: float) -> None:
    """End the children that nobody will have used for so many seconds; returns at once."""
    timer = threading.Timer(after_s, end_children, (time.monotonic(),))
    timer.daemon = True
    timer.start()


def serve(requests_fd: int, answers_fd: int, life_fd: int) -> None:
    """What the child does: answer one request after another, until the other end is closed."""
    die_with(life_fd)
    requests = Connection(requests_fd, writable=False)
    answers = Connection(answers_fd, readable=False)
    with contextlib.suppress(OSError):  # where memory runs out, it is not the driver that the kernel kills
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    answers.send((WORD, None))
    while True:
        try:
            request: Request = requests.recv()
        except EOFError:
            return
        except Exception as failure:  # whatever comes of reading back a third party's arguments
            answers.send((FAILURE, portable(failure)))
            continue
        answer(answers, request)


def answer(answers: Connection, request: Request) -> None:
    """Answer one request."""
    given, timeout_s, function, arguments = request

    def expect_word() -> None:
        """Let a timer of C end this process where it says nothing for longer than the driver waits."""
        if timeout_s is not None:
            faulthandler.dump_traceback_later(timeout_s + START_S, exit=True)

    expect_word()
    said = time.monotonic()
    try:
        adopt(given)
        for value in function(*arguments):
            if value is not None or time.monotonic() - said > BEAT_S:
                expect_word()
                answers.send((WORD, value))
                said = time.monotonic()
        last: tuple[str, Any] = END, None
    except Exception as failure:  # of any kind: it is raised again where it was asked for
        last = FAILURE, portable(failure)
    if timeout_s is not None:
        faulthandler.cancel_dump_traceback_later()
    answers.send(last)


def die_with(life_fd: int) -> None:
    """End this process when the other end of a pipe is closed, whatever it does then.

    On Linux the kernel sends the signal, so that code which holds the interpreter's lock is ended as well.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(life_fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(life_fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life_fd, fcntl.F_SETFL, fcntl.fcntl(life_fd, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=wait_for_end, args=(life_fd,), daemon=True).start()


def wait_for_end(life_fd: int) -> None:
    """End this process when a pipe's other end is closed."""
    poll = select.poll()
    poll.register(life_fd, select.POLLIN)
    poll.poll()
    os._exit(1)


def portable(failure: Exception) -> Exception:
    """An exception as it is, where it can travel; else one of our tree that says the same."""
    try:
        pickle.loads(pickle.dumps(failure))
    except Exception:  # whatever its `__reduce__` raises
        return LatentLakeError(f"{type(failure).__name__}: {failure}")
    return failure
