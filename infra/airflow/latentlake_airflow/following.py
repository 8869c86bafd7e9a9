"""What a job prints, as it comes, and what it says in the end."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .client.errors import JobServerRefused, NotFound
from .client.jobs import JobInfo, JobServer

ERROR = re.compile(r"[A-Z]\w*: ")  # how the last error of a program begins
LAST_LINES = 15  # of a log, that stand for a reason where no error is found
REASON_LIMIT = 4000  # characters


@dataclass
class LogTail:
    """The lines of a log that were not given yet. `printed`: characters that were."""

    printed: int = 0

    def more(self, text: str, is_over: bool) -> list[str]:
        """Whole lines beyond those; also the last one, of a job that is over. Of a line that was overwritten, its last state."""
        piece = text[self.printed :]
        piece = piece if is_over else piece[: piece.rfind("\n") + 1]
        self.printed += len(piece)
        return [line.rstrip("\r").rsplit("\r", 1)[-1] for line in piece.removesuffix("\n").split("\n")] if piece else []


def look(server: JobServer, submission_id: str, tail: LogTail) -> tuple[JobInfo, list[str]]:
    """A job's state, and the lines that it has printed since the last look. Raises `NotFound`, `ClusterError`."""
    info = server.info(submission_id)
    return info, tail.more(read_log(server, info), info.is_over)


def read_log(server: JobServer, info: JobInfo) -> str:
    """All that a job has printed so far; empty while that cannot be read."""
    try:
        return server.logs(info.submission_id)
    except (JobServerRefused, NotFound) as failure:
        # The server cannot decode a character that is half written, nor read the log of a node that is lost.
        return f"(the log cannot be read: {failure})\n" if info.is_over else ""


def last_object(lines: list[str]) -> dict[str, Any] | None:
    """The last line that is a JSON object, as `latentlake run --json` prints its report."""
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return None


def reason_in(lines: list[str]) -> str:
    """Why a program has failed, by its log: its last error with what is said below it, else the last lines."""
    told = [line for line in lines if line.strip() and not line.startswith("{")]
    starts = [number for number, line in enumerate(told) if ERROR.match(line)]
    if not starts:
        return "\n".join(told[-LAST_LINES:])[-REASON_LIMIT:]
    first = starts[-1]
    below = [line for line in told[first + 1 :] if line.startswith(" ")]
    return "\n".join([told[first], *below])[:REASON_LIMIT]
