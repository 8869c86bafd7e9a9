"""Which job of a cluster a submission is: one that is there, or the next attempt. And how a job is followed to its end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import JobServerRefused, NotFound, SpecError
from .jobs import OWN_CODES, JobInfo, JobServer

NAME = re.compile(r"[A-Za-z0-9_.-]+")
POLL_S = 1.0
SHARE = 0.05  # of the time, at most, that is spent on asking for the log, which comes whole each time
POLL_MAX_S = 30.0
RACES = 10  # submitters that may be faster before one gives up


@dataclass(frozen=True)
class Attempt:
    """One submission of a job, for a slot such as a date, or for none."""

    job: str
    slot: str | None = None
    number: int = 1

    @property
    def submission_id(self) -> str:
        """Its id on the cluster: `job@1`, or `job@slot@1`."""
        return "@".join([self.job, *([self.slot] if self.slot else []), str(self.number)])


def attempt_of(submission_id: str) -> Attempt | None:
    """The attempt that an id names; None for an id that is not of this kind."""
    *names, number = submission_id.split("@")
    if len(names) not in (1, 2) or not number.isdigit() or not all(map(NAME.fullmatch, names)):
        return None
    return Attempt(names[0], names[1] if len(names) == 2 else None, int(number))


def check_slot(slot: str | None) -> None:
    """Raise `SpecError` for a slot that no id can hold."""
    if slot is not None and not NAME.fullmatch(slot):
        raise SpecError(f"--slot {slot!r}: use letters, digits, '_', '-' and '.', for example 2026-11-26.")


def last_attempt(jobs: Iterable[JobInfo], job: str, slot: str | None) -> tuple[Attempt, JobInfo] | None:
    """The newest attempt at a job and slot, and what became of it."""
    found = [(attempt, info) for info in jobs if (attempt := attempt_of(info.submission_id))]
    own = [(attempt, info) for attempt, info in found if (attempt.job, attempt.slot) == (job, slot)]
    return max(own, key=lambda pair: pair[0].number, default=None)


def is_settled(info: JobInfo, slot: str | None) -> bool:
    """Whether a further attempt is not to be made: it is still at work, or the slot is done."""
    return not info.is_over or (slot is not None and info.status == "SUCCEEDED")


def was_killed(info: JobInfo) -> bool:
    """Whether a job may have ended without a chance to give back what it held."""
    return info.is_over and info.driver_exit_code not in OWN_CODES


@dataclass(frozen=True)
class Submission:
    """What a job runs, from a package's folder. `after_kill`: what is added to the command if the last attempt was killed."""

    command: str
    after_kill: str = ""
    runtime_env: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] | None = None


def submit_attempt(server: JobServer, job: str, slot: str | None, submission: Submission) -> tuple[JobInfo, bool]:
    """The job that does this slot's work, and whether it is a new one: one that is at work or has done it, or the next attempt.

    Raises `SpecError` if a job of that name and slot is there that another metadata key `table` tells apart.
    """
    for _ in range(RACES):
        last = last_attempt(server.list(), job, slot)
        if last is not None and is_settled(last[1], slot):
            check_same(last[1], submission)
            return last[1], False
        attempt = Attempt(job, slot, last[0].number + 1 if last else 1)
        command = submission.command + (submission.after_kill if last and was_killed(last[1]) else "")
        if server.submit(attempt.submission_id, command, submission.runtime_env, submission.metadata):
            return server.info(attempt.submission_id), True
    raise JobServerRefused(f"the cluster takes no attempt at '{job}': each time another submitter was faster.")


def check_same(info: JobInfo, submission: Submission) -> None:
    """Raise `SpecError` where a job that is there writes another table."""
    wanted, there = ((data or {}).get("table") for data in (submission.metadata, info.metadata))
    if wanted is not None and there not in (None, wanted):
        raise SpecError(
            f"'{info.submission_id}' writes {there}, and this job writes {wanted}.\n  Give one of them another name."
        )


def follow(
    server: JobServer, info: JobInfo, write: Callable[[str], object], tell: Callable[[JobInfo], object]
) -> JobInfo:
    """Wait until a job is over, and give what it prints to `write`, nothing twice, and each change of its status to `tell`.

    Returns its last state. The log is polled: it comes whole, so the longer it takes, the less often it is asked for.
    """
    printed, told = 0, ""
    while True:
        if info.status != told:
            told = info.status
            tell(info)
        before = time.monotonic()
        printed += write_more(server, info, printed, write)
        if info.is_over:
            return info
        time.sleep(min(POLL_MAX_S, max(POLL_S, (time.monotonic() - before) / SHARE)))
        info = server.info(info.submission_id)


def write_more(server: JobServer, info: JobInfo, printed: int, write: Callable[[str], object]) -> int:
    """Write what a job has printed beyond so many characters; the number of those."""
    try:
        text = server.logs(info.submission_id)
    except (JobServerRefused, NotFound) as failure:
        # The server cannot decode a character that is half written, nor read the log of a node that is lost.
        if info.is_over:
            write(f"\n(the rest of the log cannot be read: {failure})\n")
        return 0
    more = text[printed:]
    if more:
        write(more)
    return len(more)
