"""A client of the job server that every Ray cluster has beside its dashboard: packages and jobs, over HTTP. It needs no Ray.

The server is Ray 2.60's `ray/dashboard/modules/job/job_head.py`. It answers what has gone wrong with a traceback as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from .errors import CredentialsError, JobServerRefused, JobServerUnreachable, NotFound, SpecError
from .packages import LIMIT_MB, Package
from .tokens import TOKEN_REMEDY, header_of

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
OWN_CODES = frozenset({0, 1, 2, 3, 4, 130})  # exit codes of `latentlake run`
INTERRUPTED = 130
BUSY = frozenset({429, 502, 503, 504})  # what proxies answer, too, while a server starts
NOT_YET = "please try again later"  # the server's words while the agent that starts jobs is not there
PATIENCE_S = 60.0  # how long a server that does not answer is asked again
TIMEOUT = httpx.Timeout(60, connect=10)
SENDING = httpx.Timeout(600, connect=10)  # for 100 MiB over a slow line
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
TOLD = 300  # characters of an answer that an error repeats


@dataclass(frozen=True)
class JobInfo:
    """What the server knows of a job. Times in seconds since the epoch."""

    submission_id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    message: str = ""
    error_type: str | None = None
    driver_exit_code: int | None = None
    entrypoint: str = ""
    started: float | None = None
    ended: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> JobInfo:
        """As the server tells it."""
        return cls(
            found.get("submission_id") or "",
            found["status"],
            found.get("message") or "",
            found.get("error_type"),
            found.get("driver_exit_code"),
            found.get("entrypoint") or "",
            None if found.get("start_time") is None else found["start_time"] / 1000,
            None if found.get("end_time") is None else found["end_time"] / 1000,
            found.get("metadata") or {},
        )

    @property
    def is_over(self) -> bool:
        """Whether its status will not change any more."""
        return self.status in ENDED

    @property
    def exit_code(self) -> int | None:
        """The job's own exit code; 130 if it was stopped, 1 if it ended without a code of its own; None while it is not over."""
        if not self.is_over:
            return None
        if self.status == "STOPPED":
            return INTERRUPTED
        found = 0 if self.status == "SUCCEEDED" else self.driver_exit_code
        return found if found in OWN_CODES else 1

    @property
    def reason(self) -> str:
        """Why it did not succeed, in a line or more; the log says the same of what the job itself reported."""
        if self.status == "FAILED" and self.driver_exit_code is not None:
            return f"it ended with exit code {self.driver_exit_code}"
        return self.message.strip() or self.status


class JobServer:
    """The job server at an address. Use it in a `with` statement, or close it.

    Where there is no answer, it asks again for `patience_s`. All methods raise `ClusterError` if there is still none, or if
    the server refuses, and `CredentialsError` if it wants another token.
    """

    def __init__(self, address: str, token: str | None = None, patience_s: float = PATIENCE_S) -> None:
        """`address` is http(s)://HOST:8265. Raises `SpecError` for an address of another kind."""
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise SpecError(
                f"'{address}' is no address of a job server.\n  Give that of the cluster's dashboard: http://HOST:8265."
            )
        self.address, self.patience_s = address.rstrip("/"), patience_s
        self._has_token = token is not None
        # A proxy that the environment names is not asked for this machine.
        self._http = httpx.Client(headers=header_of(token), timeout=TIMEOUT, trust_env=parts.hostname not in LOOPBACK)

    def version(self) -> str:
        """Version of the cluster's Ray."""
        return str(self._json("GET", "/api/version")["ray_version"])

    def upload(self, package: Package) -> bool:
        """Send a package, unless the cluster has it; whether it was sent. The cluster keeps it for a job that starts soon."""
        path = f"/api/packages/gcs/{package.name}"
        if self._ask("GET", path, may_lack=True).status_code != httpx.codes.NOT_FOUND:
            return False
        self._ask("PUT", path, content=package.content, timeout=SENDING)
        return True

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        runtime_env: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bool:
        """Start a job; False, and nothing is started, if there is a job of that id in any state.

        All of it can be read by whoever may use the cluster: no secret belongs in it.
        """
        body = {
            "submission_id": submission_id,
            "entrypoint": entrypoint,
            "runtime_env": runtime_env,
            "metadata": metadata,
        }
        asked = {name: value for name, value in body.items() if value}
        try:
            self._ask("POST", "/api/jobs/", json=asked)
        except JobServerRefused as refusal:
            if "already exists" in str(refusal):
                return False
            raise
        return True

    def info(self, submission_id: str) -> JobInfo:
        """A job's state. Raises `NotFound`."""
        return JobInfo.from_json(self._json("GET", job_path(submission_id), what=submission_id))

    def logs(self, submission_id: str) -> str:
        """All that a job has printed so far. Raises `NotFound`."""
        return str(self._json("GET", job_path(submission_id, "/logs"), what=submission_id)["logs"])

    def stop(self, submission_id: str) -> bool:
        """Ask a job to stop (SIGTERM, and SIGKILL 3 seconds later); whether it ran. Raises `NotFound`."""
        return bool(self._json("POST", job_path(submission_id, "/stop"), what=submission_id)["stopped"])

    def delete(self, submission_id: str) -> None:
        """Forget a job that is over, which frees its id; its log stays. Raises `NotFound`, `ClusterError` if it is not over."""
        self._json("DELETE", job_path(submission_id), what=submission_id)

    def list(self) -> list[JobInfo]:
        """Every job that was submitted to the cluster, the newest first."""
        found = [JobInfo.from_json(entry) for entry in self._json("GET", "/api/jobs/") if entry.get("submission_id")]
        return sorted(found, key=lambda job: job.started or 0, reverse=True)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _json(self, method: str, path: str, what: str = "") -> Any:
        answer = self._ask(method, path, may_lack=bool(what))
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise NotFound(
                f"no job '{what}' at {self.address}.\n  `latentlake list` names those that the cluster knows; a new head knows none."
            )
        try:
            return answer.json()
        except ValueError as failure:
            raise JobServerRefused(self._no_job_server(answer)) from failure

    def _ask(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        timeout: httpx.Timeout = TIMEOUT,
        may_lack: bool = False,
    ) -> httpx.Response:
        """An answer that is as it should be, or 404 where that may be. To ask a second time does no harm."""
        for attempt in Retrying(
            retry=retry_if_exception_type(JobServerUnreachable),
            stop=stop_after_delay(self.patience_s),
            wait=wait_exponential(multiplier=0.25, max=10),
            reraise=True,
        ):
            with attempt:
                try:
                    answer = self._http.request(
                        method, self.address + path, json=json, content=content, timeout=timeout
                    )
                except httpx.TransportError as failure:
                    raise JobServerUnreachable(
                        f"no answer from the job server at {self.address}: {failure or type(failure).__name__}.\n"
                        "  Is its head running, and is its port (8265) open to this machine?"
                    ) from failure
                if not answer.is_success and not (may_lack and answer.status_code == httpx.codes.NOT_FOUND):
                    raise self._failure(answer)
        return answer

    def _failure(self, answer: httpx.Response) -> Exception:
        """What to raise for an answer that is not as it should be."""
        status, told = answer.status_code, last_line(answer.text)
        if status == httpx.codes.UNAUTHORIZED:
            return CredentialsError(f"the job server at {self.address} wants a token ({told}).\n  {TOKEN_REMEDY}")
        if status == httpx.codes.FORBIDDEN:
            given = "does not take this token" if self._has_token else "lets nobody in without a token"
            return CredentialsError(f"the job server at {self.address} {given} ({told}).\n  {TOKEN_REMEDY}")
        if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return SpecError(
                f"the job server at {self.address} does not take what is sent: it is too large ({told}).\n"
                f"  Ray takes {LIMIT_MB} MiB, a proxy before it maybe less. Leave files out with a .rayignore."
            )
        if status == httpx.codes.NOT_FOUND or answer.is_redirect:
            return JobServerRefused(self._no_job_server(answer))
        failed = JobServerUnreachable if status in BUSY or NOT_YET in answer.text else JobServerRefused
        return failed(f"the job server at {self.address} answers {status}: {told}")

    def _no_job_server(self, answer: httpx.Response) -> str:
        return (
            f"what answers at {self.address} is no job server of Ray ({answer.status_code} for {answer.request.url.path}).\n"
            "  Give the address of the cluster's dashboard: http://HOST:8265."
        )

    def __enter__(self) -> JobServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def job_path(submission_id: str, more: str = "") -> str:
    """Path of a job."""
    return f"/api/jobs/{quote(submission_id, safe='@')}{more}"


def last_line(text: str) -> str:
    """The end of an answer, which of a traceback is the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-TOLD:] if lines else "no more was said"
