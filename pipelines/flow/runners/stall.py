"""Whether a run on a cluster still moves: signs of life of its tasks, and a watch that stops an execution without any.

Ray waits without end for what can never run: after the loss of a node, say, its actors start again on the others and hold
all the CPUs that reading needs. A task at work therefore gives a sign every few seconds; where no shard is finished and no
sign comes for a while, nobody is at work, and nothing will come of waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from operators.batch import describe
from pipelines.flow.embedding import LIMIT_S
from pipelines.flow.runners.pulse import Pulse

log = logging.getLogger(__name__)

BEAT_S = 3.0  # between two signs of life
LOOK_S = 1.0  # between two looks of the watch


class Stalled(Exception):
    """Nothing moves on a run."""


class Overdue(Exception):
    """The budget of the run is spent, and the shards in flight are not finished in time."""


@contextmanager
def at_work(pulse: Pulse, limit_s: float = LIMIT_S) -> Iterator[Callable[[], None]]:
    """Give signs of life while something is done, for `limit_s` after the last call of what is yielded: "got further"."""
    progress, ended = [time.monotonic()], threading.Event()

    def further() -> None:
        progress[0] = time.monotonic()

    def give_signs() -> None:
        while time.monotonic() - progress[0] < limit_s:
            pulse.beat()
            if ended.wait(BEAT_S):
                return

    threading.Thread(target=give_signs, name="pulse", daemon=True).start()
    try:
        yield further
    finally:
        ended.set()


def watched(stage: Any, at_work: Callable[[], AbstractContextManager[object]]) -> Callable[[pa.Table], pa.Table]:
    """A stage that is `at_work` meanwhile, under the name that its tasks have anyway."""

    def work(block: pa.Table) -> pa.Table:
        with at_work():
            made: pa.Table = stage(block)
        return made

    work.__name__ = type(stage).__name__
    return work


@dataclass
class Watch:
    """Ends an execution, by `Stalled`, when nothing has moved for `stall_s`, and by `Overdue` when it is to end at once.

    Ray Data calls it at each of its steps.
    """

    pulse: Pulse
    stall_s: float
    is_overdue: Callable[[], bool] = lambda: False
    shard_at: float = field(default_factory=time.monotonic)  # when the last shard was finished
    looked_at: float = 0.0
    sign: bytes | None = None  # the last that was heard
    heard_at: float = field(default_factory=time.monotonic)
    actors: tuple[Any, ...] = ()  # of the execution's pools, as of its last step

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        """Itself: Ray Data copies its settings, of which this is one."""
        return self

    def __reduce__(self) -> tuple[type, tuple[Any, float]]:
        """Ray sends the settings to its tasks, which do not look."""
        return type(self), (self.pulse, self.stall_s)

    def shard_finished(self) -> None:
        """The run has come further."""
        self.shard_at = time.monotonic()

    def look(self) -> None:
        """Raise `Stalled` or `Overdue` where it is due."""
        if self.is_overdue():
            raise Overdue
        now = time.monotonic()
        if now - self.looked_at < LOOK_S:
            return
        self.looked_at = now
        sign = self.pulse.sign()
        if sign not in (None, self.sign):
            self.sign, self.heard_at = sign, now
        quiet_s, silent_s = now - self.shard_at, now - self.heard_at
        if min(quiet_s, silent_s) >= self.stall_s:
            raise Stalled(f"no shard was finished for {quiet_s:.0f} s, and no task was at work for {silent_s:.0f} s")


@dataclass
class WatchCallback:
    """What Ray Data is given to call: see `DataContext.custom_execution_callback_classes`."""

    watch: Watch
    tells: bool = True  # whether the executor tells of its actors

    def before_execution_starts(self, executor: Any) -> None:
        """Ray Data's; nothing to do."""

    def on_execution_step(self, executor: Any) -> None:
        """Once per step of the execution's loop, also where nothing happens."""
        if self.tells:
            self.note_actors(executor)
        self.watch.look()

    def note_actors(self, executor: Any) -> None:
        """Keep the handles of the execution's actors, from Ray Data's insides, which it may name otherwise one day."""
        try:
            if not executor._shutdown:  # by another thread; its pools are empty then
                self.watch.actors = actors_of(executor)
        except AttributeError as failure:
            self.tells = False
            log.warning("this Ray does not tell of its actors: a run that fails may keep some: %s", describe(failure))

    def after_execution_succeeds(self, executor: Any) -> None:
        """Ray Data's; nothing to do."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Ray Data's; nothing to do."""


def actors_of(executor: Any) -> tuple[Any, ...]:
    """Handles of the actors in the pools of an execution, living and to come."""
    pools = [pool for operator in executor._topology for pool in operator.get_autoscaling_actor_pools()]
    return tuple(actor for pool in pools for actor in (*pool._running_actors, *pool._pending_actors.values()))
