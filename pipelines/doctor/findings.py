"""What a check finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from operators.batch import describe
from operators.errors import LatentLakeError, redact_url

Status = Literal["ok", "do", "not checked"]
OK: Status = "ok"
DO: Status = "do"
NOT_CHECKED: Status = "not checked"


@dataclass(frozen=True)
class Finding:
    """One line: `told` is what was found, what to do, or why nothing was looked at. It holds no secret."""

    subject: str
    status: Status
    told: str

    def to_json(self) -> dict[str, str]:
        """JSON-able."""
        return asdict(self)


Check = Callable[[], Iterator[Finding]]


def made(subject: str, check: Check) -> Iterator[Finding]:
    """What a check finds. One that raises has found what is to be done."""
    try:
        yield from check()
    except Exception as failure:  # whatever a store, a model or a cluster raises: it is what the check is for
        told = str(failure) if isinstance(failure, LatentLakeError) else describe(failure)
        yield Finding(subject, DO, redact_url(told))
