"""An operator for any job on a Ray cluster. It needs nothing of LatentLake on either side."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from .client.attempts import Submission, submit_attempt
from .client.errors import ClusterError, LatentLakeError, SpecError
from .client.jobs import JobInfo, JobServer
from .client.packages import Package, list_files, pack
from .following import LogTail, look, read_log, reason_in
from .hook import RayJobHook
from .trigger import FIRST_POLL_S, RayJobTrigger

KILL_PATIENCE_S = 10.0  # Airflow ends a task's process soon after it was told to stop


class SubmitRayJobOperator(BaseOperator):
    """Runs a command on a Ray cluster as a job, shows its log, and waits for it without a worker slot.

    The job's id is its name (DAG, task, and map index), the slot (the run's logical date, else its id) and the number of the
    attempt. A try whose slot has a job that is pending, running or done takes that one over, and submits nothing. So a worker
    that is lost costs nothing. The return value has the job's `submission_id`, `status` and `exit_code`.
    """

    template_fields: Sequence[str] = ("entrypoint", "job", "slot", "working_dir", "runtime_env", "metadata")
    ui_color = "#e0f0fa"
    # Of exit codes: what they say, and for which another try is of no use. None is known of a stranger's program.
    meanings: ClassVar[Mapping[int, str]] = {}
    final_codes: ClassVar[Collection[int]] = ()

    def __init__(
        self,
        *,
        entrypoint: str,
        working_dir: str | None = None,
        runtime_env: dict[str, Any] | None = None,
        metadata: dict[str, str] | None = None,
        job: str | None = None,
        slot: str | None = None,
        conn_id: str = RayJobHook.default_conn_name,
        deferrable: bool = True,
        poll_s: float = FIRST_POLL_S,
        retries: int = 2,
        **kwargs: Any,
    ) -> None:
        """Describe the job.

        `entrypoint` is a shell command. `working_dir`: a folder that is sent, less what its .gitignore and .rayignore leave out;
        a relative one is sought beside the DAG's file. `runtime_env` and `metadata` can be read by everyone who may use the
        cluster: no secret belongs there. `job` and `slot` replace the names of which the id is made. Without `deferrable` the
        worker waits. `poll_s`: between two looks at the job. After `execution_timeout` the job is stopped.
        """
        super().__init__(retries=retries, **kwargs)
        self.entrypoint, self.working_dir = entrypoint, working_dir
        self.runtime_env, self.metadata = runtime_env, metadata
        self.job, self.slot = job, slot
        self.conn_id, self.deferrable, self.poll_s = conn_id, deferrable, poll_s
        self._submission_id: str | None = None  # of the job that `on_kill` stops

    def execute(self, context: Any) -> Any:
        """Submit the job, or take over the one that is there, and wait for it."""
        with as_failures(), RayJobHook(self.conn_id).get_conn() as server:
            submission, packages = self.prepare(context)
            server.version()  # says what is wrong with the address or the token, before anything is sent
            for package in packages:
                if server.upload(package):
                    self.log.info("sent %d files, %d kB compressed", package.files, len(package.content) // 1000)
            job, slot = as_name(self.job or job_of(context)), as_name(self.slot or slot_of(context))
            info, new = submit_attempt(server, job, slot, submission)
            self._submission_id = info.submission_id
            context["ti"].xcom_push(key="submission_id", value=info.submission_id)
            at = f"{info.submission_id} at {server.address}"
            self.log.info("%s: submitted" if new else f"%s: {info.status} already; nothing was submitted", at)
            if info.is_over:
                return self.finish(context, server, LogTail())
            limit = self.execution_timeout
            deadline = None if limit is None else time.time() + limit.total_seconds()
            if not self.deferrable:
                return self.wait(context, server, deadline)
        return self.defer(
            trigger=RayJobTrigger(self.conn_id, info.submission_id, self.poll_s, deadline), method_name="resume"
        )

    def resume(self, context: Any, event: dict[str, Any]) -> Any:
        """Go on after the trigger has fired."""
        self._submission_id = event["submission_id"]
        with as_failures(), RayJobHook(self.conn_id).get_conn() as server:
            if event["ended"] == "late":
                self.stop_late(server)
            if event["ended"] != "over":
                raise ClusterError(f"{self._submission_id}: {event['why']}\n  The next try takes the job over.")
            return self.finish(context, server, LogTail(event["printed"]))

    def wait(self, context: Any, server: JobServer, deadline: float | None) -> Any:
        """Wait in the worker."""
        tail = LogTail()
        while True:
            info, lines = look(server, str(self._submission_id), tail)
            for line in lines:
                self.log.info("%s", line)
            if info.is_over:
                return self.finish(context, server, tail)
            if deadline is not None and time.time() > deadline:
                self.stop_late(server)
            time.sleep(self.poll_s)

    def finish(self, context: Any, server: JobServer, tail: LogTail) -> Any:
        """The result of a job that is over; what it printed beyond `tail` goes to the log. Raises if the job has failed."""
        info = server.info(str(self._submission_id))
        text = read_log(server, info)
        for line in tail.more(text, True):
            self.log.info("%s", line)
        lines = LogTail().more(text, True)
        code = info.exit_code if info.driver_exit_code is None else info.driver_exit_code
        if info.status == "SUCCEEDED":
            return self.result(context, info, lines)
        self.failed(context, info, lines)
        told = [f"{info.submission_id}: {info.reason}", self.meanings.get(code or 1, ""), reason_in(lines)]
        text_of = "\n".join(part for part in told if part)
        raise AirflowFailException(text_of) if code in self.final_codes else AirflowException(text_of)

    def prepare(self, context: Any) -> tuple[Submission, list[Package]]:
        """What is submitted, and what has to be sent before."""
        environment, packages = dict(self.runtime_env or {}), []
        if self.working_dir is not None:
            folder = beside_dag(context, self.working_dir)
            packages.append(pack(list_files(folder), folder))
            environment["working_dir"] = packages[0].uri
        return Submission(self.entrypoint, "", environment, {**run_of(context), **(self.metadata or {})}), packages

    def result(self, context: Any, info: JobInfo, lines: list[str]) -> Any:
        """The task's return value, for a job that has printed these lines."""
        return {"submission_id": info.submission_id, "status": info.status, "exit_code": info.exit_code}

    def failed(self, context: Any, info: JobInfo, lines: list[str]) -> None:
        """Called before the task fails because its job has."""

    def stop_late(self, server: JobServer) -> None:
        """Stop the job after the time that the task has, and fail."""
        server.stop(str(self._submission_id))
        raise ClusterError(f"{self._submission_id} was told to stop: the task's execution_timeout has passed.")

    def on_kill(self) -> None:
        """Stop the job, as the task is."""
        if self._submission_id is None:
            return
        try:
            with RayJobHook(self.conn_id, KILL_PATIENCE_S).get_conn() as server:
                server.stop(self._submission_id)
        except LatentLakeError as failure:
            self.log.warning("%s was not told to stop: %s", self._submission_id, failure)
        else:
            self.log.info("%s was told to stop", self._submission_id)


@contextmanager
def as_failures() -> Iterator[None]:
    """Our errors as Airflow's: what is wrong with the call or the token will not be right at another try."""
    try:
        yield
    except SpecError as failure:
        raise AirflowFailException(f"{type(failure).__name__}: {failure}") from None
    except LatentLakeError as failure:
        raise AirflowException(f"{type(failure).__name__}: {failure}") from None


def job_of(context: Any) -> str:
    """The name of a task's jobs: DAG and task, and the index of a mapped task."""
    ti = context["ti"]
    name = f"{ti.dag_id}.{ti.task_id}"
    return name if ti.map_index is None or ti.map_index < 0 else f"{name}.{ti.map_index}"


def slot_of(context: Any) -> str:
    """What a run of the DAG is for: its logical date in UTC, else (as after an asset's event) its id."""
    date = context.get("logical_date")
    return context["run_id"] if date is None else date.astimezone(UTC).strftime("%Y-%m-%dT%H%M%S")


def as_name(text: str) -> str:
    """A text with what an id can hold."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


def run_of(context: Any) -> dict[str, str]:
    """What the job's record on the cluster says about where it comes from."""
    ti = context["ti"]
    return {"dag_id": ti.dag_id, "task_id": ti.task_id, "dag_run_id": context["run_id"]}


def beside_dag(context: Any, path: str) -> Path:
    """A path, which if relative is sought beside the DAG's file."""
    return Path(context["dag"].fileloc).parent / path
