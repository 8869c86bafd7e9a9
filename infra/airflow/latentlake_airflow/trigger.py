"""Waiting for a job in Airflow's triggerer, with its log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from .client.attempts import SHARE
from .client.errors import JobServerUnreachable, LatentLakeError, NotFound
from .following import LogTail, look
from .hook import RayJobHook

# An event within a few seconds of deferring fails the task: https://github.com/apache/airflow/issues/71580 and 72716.
FIRST_POLL_S = 10.0
LONGEST_POLL_S = 60.0
OUTAGE_S = 600.0  # for which the server may be away


class RayJobTrigger(BaseTrigger):
    """Fires once the job is over, is no longer known to the cluster, or `deadline` (seconds since the epoch) has passed.

    The event has `submission_id`; `printed`, the characters of the log that were written to the task's log; and `ended`: `over`,
    `gone`, `late`, or `unreachable` with the reason as `why`.
    """

    def __init__(
        self, conn_id: str, submission_id: str, poll_s: float = FIRST_POLL_S, deadline: float | None = None
    ) -> None:
        """`poll_s`: between two looks at the job; more where the log is long."""
        super().__init__()
        self.conn_id, self.submission_id, self.poll_s, self.deadline = conn_id, submission_id, poll_s, deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where the triggerer finds this class, and its arguments."""
        names = ("conn_id", "submission_id", "poll_s", "deadline")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait."""
        await asyncio.sleep(max(FIRST_POLL_S, self.poll_s))
        tail = LogTail()
        ended = await self._wait(tail)
        yield TriggerEvent({"submission_id": self.submission_id, "printed": tail.printed, **ended})

    async def _wait(self, tail: LogTail) -> dict[str, str]:
        away_since = None
        with await RayJobHook(self.conn_id, patience_s=0).async_conn() as server:
            while True:
                before = time.monotonic()
                try:
                    info, lines = await asyncio.to_thread(look, server, self.submission_id, tail)
                except NotFound as failure:
                    return {"ended": "gone", "why": str(failure)}
                except JobServerUnreachable as failure:
                    if away_since is None:
                        away_since = before
                        self.log.warning("%s", failure)
                    if before - away_since > OUTAGE_S:
                        return {"ended": "unreachable", "why": str(failure)}
                except LatentLakeError as failure:
                    return {"ended": "unreachable", "why": str(failure)}
                else:
                    away_since = None
                    for line in lines:
                        self.log.info("%s", line)
                    if info.is_over:
                        return {"ended": "over"}
                if self.deadline is not None and time.time() > self.deadline:
                    return {"ended": "late"}
                took = time.monotonic() - before
                await asyncio.sleep(max(self.poll_s, min(LONGEST_POLL_S, took / SHARE)))

    async def on_kill(self) -> None:
        """Stop the job: a user has marked the waiting task as failed or succeeded, or has cleared it."""
        with await RayJobHook(self.conn_id, patience_s=10).async_conn() as server:
            try:
                await asyncio.to_thread(server.stop, self.submission_id)
            except NotFound:
                return
        self.log.info("%s was told to stop", self.submission_id)
