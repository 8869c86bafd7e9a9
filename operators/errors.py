"""Every error we raise, as one tree.

LatentLakeError
├── SpecError                    the job or the call is wrong; nothing was started (exit 2)
│   ├── InvalidSpec              a job file, with every error in it
│   ├── UnknownName              a name no registry has, with the nearest ones
│   ├── MissingExtra             a family whose libraries are not installed
│   ├── ModelNotFound            a model, or weights, that cannot be found
│   ├── CredentialsError         credentials that cannot be found, are refused, or are asked for in two ways
│   ├── PoolUnschedulable        an actor pool that the cluster can never hold
│   ├── FingerprintMismatch      one column would hold vectors of two origins
│   └── SchemaMismatch           a column that already has another type in the table
├── NotFound                     a table, version, tag, column or row that is not there (exit 2)
├── SourceError                  the source could not be listed (exit 1)
├── Unreadable                   what a lake keeps of a run, or of a column, is damaged or of a later release (exit 1)
├── Unavailable                  a service that a model needs cannot be reached now, or wants to be asked later (exit 1)
├── ClusterError                 Ray, or its job server, cannot be started or reached, or nothing moves on it (exit 1)
├── BudgetSpent                  a run has used the hours or the money it was given; it can be resumed (exit 1)
├── AccountingError              an object is not accounted for; nothing was published (exit 1)
├── GateRefused                  a gate refused publication (exit 3)
└── WriterConflict               another writer holds, or changed, the table (exit 4)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

# Where secrets stand in addresses, and in what object stores answer: each pattern keeps its first group.
SECRETS = (
    re.compile(r"(://)[^/?#\s'\"]*(?=@)"),
    re.compile(
        r"([?&;](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|awsaccesskeyid|googleaccessid|sig|token"
        r"|access_token|refresh_token|api_key|apikey|password|secret)=)[^&;\s'\"<>)]+",
        re.IGNORECASE,
    ),
    re.compile(
        r"(<(?:AWSAccessKeyId|SignatureProvided|StringToSign|StringToSignBytes|CanonicalRequest|CanonicalRequestBytes|Token-\d"
        r"|SessionToken)>)[^<]+"
    ),
    re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\n]+", re.IGNORECASE),
    re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b"),
)


def redact_url(text: str) -> str:
    """A text without the secrets of the addresses in it: user and password, signatures, tokens, access key ids."""
    for pattern in SECRETS:
        text = pattern.sub(r"\1***", text)
    return text


class LatentLakeError(Exception):
    """Base of the tree. `exit_code` is what the CLI ends with. A message is redacted as it is made."""

    exit_code: ClassVar[int] = 1
    report: dict[str, Any] | None = None  # of the run that this error ended, where one was under way

    def __init__(self, *args: Any) -> None:
        super().__init__(*(redact_url(arg) if isinstance(arg, str) else arg for arg in args))

    @classmethod
    def told(cls, text: str) -> LatentLakeError:
        """The error of this kind whose message another process told."""
        return cls(text)


class SpecError(LatentLakeError):
    """The job, or the call, is wrong; nothing was started."""

    exit_code = 2


class InvalidSpec(SpecError):
    """A job with mistakes. `problems` has one line per mistake: where it is, what is wrong, how to fix it."""

    def __init__(self, problems: Sequence[str], source: str = "job") -> None:
        self.problems = [redact_url(problem) for problem in problems]
        self.source = source
        count = f"{len(self.problems)} mistake{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n  ".join([f"{source}: {count}", *self.problems]))

    @classmethod
    def told(cls, text: str) -> LatentLakeError:
        """See `LatentLakeError.told`: the first line is the source, each of the others a mistake."""
        head, *problems = text.split("\n  ")
        return cls(problems, head.rpartition(": ")[0] or head)

    def __reduce__(self) -> tuple[type, tuple[list[str], str]]:
        return type(self), (self.problems, self.source)


class UnknownName(SpecError):
    """A name that no registry has."""


class MissingExtra(SpecError):
    """The libraries of a family are not installed."""


class ModelNotFound(SpecError):
    """A model, or its weights, cannot be found."""


class CredentialsError(SpecError):
    """Credentials for an object store or a cluster cannot be found, are refused, or are asked for in two ways."""


class PoolUnschedulable(SpecError):
    """An actor pool that the cluster can never hold."""


class FingerprintMismatch(SpecError):
    """One column would hold vectors of two origins."""


class SchemaMismatch(SpecError):
    """A column that already has another type in the table."""


class NotFound(LatentLakeError):
    """A table, version, tag, column or row that is not there."""

    exit_code = 2


class SourceError(LatentLakeError):
    """The source could not be listed."""


class Unreadable(LatentLakeError):
    """What a lake keeps of a run, or of a column, is damaged, or was written by a later release."""


class Unavailable(LatentLakeError):
    """A service that a model needs cannot be reached now, or wants to be asked later.

    No row answers for it: what was asked is asked again, after `retry_after_s` where the service names it.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ClusterError(LatentLakeError):
    """Ray cannot be started or reached, or nothing moves on it. What is finished is kept."""


class JobServerRefused(ClusterError):
    """A cluster's job server answers that something has gone wrong there."""


class JobServerUnreachable(ClusterError):
    """A cluster's job server does not answer, or is not ready; asked again it may."""


class BudgetSpent(LatentLakeError):
    """A run has used the hours, or the money, that it was given. What is finished is kept; nothing was published."""


class AccountingError(LatentLakeError):
    """An object is not accounted for; nothing was published."""


class GateRefused(LatentLakeError):
    """A gate refused publication; what readers see is unchanged."""

    exit_code = 3


class WriterConflict(LatentLakeError):
    """Another writer holds the table, or changed it between our read and our commit."""

    exit_code = 4


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Say which known name is nearest to `name`: ` Did you mean 'x'?`, or the empty string."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def unknown_name(what: str, name: str, known: Iterable[str]) -> UnknownName:
    """Build the error for a name that no registry has, naming the nearest and all known ones."""
    names = sorted(known)
    return UnknownName(f"no {what} '{name}'.{did_you_mean(name, names)}\n  Available: {', '.join(names) or 'none'}")
