"""How patient we are with object stores: timeouts, and retries with backoff and jitter, in one place.

The libraries do the work. obstore and Lance both retry 5xx answers, throttling, connections that break and requests that time
out, and obstore resumes a body that broke off. Neither repeats, as measured with `tests/faults`: a listing, or the body
of an error, that breaks off; a delete; an upload in parts; a write that must not overwrite. These are `retried` by us.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from os import SEEK_END
from tempfile import SpooledTemporaryFile
from typing import IO, Any, TypeVar

import tenacity
from obstore.exceptions import BaseError, GenericError
from obstore.fsspec import FsspecStore

from latentlake.credentials import SHARED, doubt_all
from operators.errors import CredentialsError

F = TypeVar("F", bound=Callable[..., Any])

# A store that is dead is given up after RETRY_S and one more timeout; a read that stalls for less than 30 s is waited for.
CLIENT_OPTIONS = {"connect_timeout": "10s", "read_timeout": "30s", "timeout": "600s"}  # `timeout`: of a whole request
RETRY_S = 120
MAX_RETRIES = 1000  # so many that RETRY_S decides
AGAIN_S = 60  # how long after its first attempt we repeat what the libraries gave up at once
CREDENTIALS = re.compile(r"External AWS credential provider|Failed to fetch storage options|<Code>ExpiredToken")
REFUSED_KEYS = re.compile(
    r"<Code>(ExpiredToken|InvalidToken|TokenRefreshRequired|InvalidAccessKeyId|RequestTimeTooSkewed)<"
)
OUTAGE = re.compile(r"HTTP error: |status code: (5\d\d|429)")
PROBE_S = 10  # of retries when we ask a store whether it answers at all
DRAFT_BYTES = 32 << 20  # of a file being written that stay in memory


def is_transient(failure: BaseException) -> bool:
    """Whether a failure of obstore or Lance is of the connection, and not an answer of the store.

    An upload in parts that is no longer there is one whose last answer was lost. Credentials that have expired, or that a
    service of AWS does not give just now, are looked up again.
    """
    text = str(failure) if isinstance(failure, GenericError | OSError) else ""
    return "HTTP error: " in text or "NoSuchUpload" in text or lacks_credentials(failure)


def lacks_credentials(failure: BaseException | None) -> bool:
    """Whether a failure is that of credentials which we can look up again."""
    known = isinstance(failure, BaseError | OSError | ValueError)
    return known and bool(SHARED) and bool(CREDENTIALS.search(str(failure)))


def refuses_keys(failure: BaseException) -> bool:
    """Whether a store refuses the keys, and not the object: it will refuse all others too."""
    return isinstance(failure, BaseError | OSError) and bool(REFUSED_KEYS.search(str(failure)))


def is_outage(failure: BaseException) -> bool:
    """Whether a failure is one that the libraries retry: what is left when they have given up."""
    outage = isinstance(failure, GenericError | OSError) and bool(OUTAGE.search(str(failure)))
    return outage or lacks_credentials(failure) or isinstance(failure, CredentialsError)


def look_closer(state: tenacity.RetryCallState) -> None:
    """Before another attempt: look up credentials afresh where the store has called them expired."""
    if state.outcome and lacks_credentials(state.outcome.exception()):
        doubt_all()


def retried(action: F) -> F:
    """Make a function, or coroutine function, that is safe to repeat try again after transient failures."""
    again: Any = tenacity.retry(
        retry=tenacity.retry_if_exception(is_transient),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
        stop=lambda state: (state.seconds_since_start or 0.0) >= AGAIN_S,
        before_sleep=look_closer,
        reraise=True,
    )
    made: F = again(action)
    return made


def lance_patience() -> dict[str, str]:
    """Our timeouts and retries as `storage_options` of Lance."""
    return {**CLIENT_OPTIONS, "client_max_retries": str(MAX_RETRIES), "client_retry_timeout": str(RETRY_S)}


class PatientStore(FsspecStore):
    """obstore's filesystem, which also repeats what obstore does not."""

    _cat_file = retried(FsspecStore._cat_file)
    _ls = retried(FsspecStore._ls)
    _rm_file = retried(FsspecStore._rm_file)
    _pipe_file = retried(FsspecStore._pipe_file)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        """A file to read; or one to write, which appears whole when it is closed."""
        return Draft(self, path) if mode == "wb" else super()._open(path, mode, **options)


class Draft(SpooledTemporaryFile[bytes]):
    """A file being written: uploaded as it is closed; not at all after an exception, or where it is never closed."""

    def __init__(self, store: PatientStore, path: str) -> None:
        super().__init__(max_size=DRAFT_BYTES)
        self._store, self._path = store, path

    def close(self) -> None:
        """Upload the file, and end it."""
        if self.closed:
            return
        try:
            bucket, key = self._store._split_path(self._path)
            upload(self._store._construct_store(bucket), key, self)
        finally:
            super().close()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Upload what was written unless writing it failed."""
        if kind is None:
            self.close()
        else:
            super().close()

    def __del__(self) -> None:
        super().close()


@retried
def upload(store: Any, key: str, file: IO[bytes]) -> None:
    """Put a file, from its beginning, in place of what is there."""
    import obstore

    size = file.seek(0, SEEK_END)
    file.seek(0)
    obstore.put(store, key, file, use_multipart=size > DRAFT_BYTES)


@retried
def create(store: Any, key: str, content: bytes) -> bool:
    """Put a small object unless there is one; whether it now holds `content`, for an answer that was lost is asked again."""
    import obstore
    from obstore.exceptions import AlreadyExistsError

    try:
        obstore.put(store, key, content, mode="create", use_multipart=False)
    except (AlreadyExistsError, FileExistsError):
        try:
            return bytes(obstore.get(store, key).bytes()) == content
        except FileNotFoundError:
            return False
    return True
