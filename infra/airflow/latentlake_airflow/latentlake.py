"""Operators for LatentLake's commands. LatentLake runs on the cluster, where it must be installed; here it need not be."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import yaml
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException

from .client.attempts import Submission
from .client.errors import SpecError
from .client.jobs import JobInfo
from .client.packages import Package, list_files, pack
from .following import last_object
from .operators import SubmitRayJobOperator, beside_dag, run_of

STOP_WAIT_S = 30  # that a job which is told to stop may take to end in good order; Ray's own 3 s are too short for that
EXIT_CODES = {
    1: "The run failed. The next try resumes it.",
    2: "The job, or the call, is wrong. Another try would not help.",
    3: "A gate refused publication: readers see what they saw before. Another try would not help.",
    4: "Another writer holds the table, or has changed it.",
    130: "The run was stopped. The next try resumes it.",
}
FACTS = ("table", "version", "tag", "run_id", "state", "rows_written")  # of a report, that an asset's event has
MOVED = re.compile(r"tag '(?P<tag>.+)' is at version (?P<version>\d+), it was at (?P<before>\d+)\.$")


class LatentLakeOperator(SubmitRayJobOperator):
    """Runs a command of LatentLake as a job. Base of the operators below."""

    meanings: ClassVar[Mapping[int, str]] = EXIT_CODES
    final_codes = (2, 3)

    def submission(self, context: Any, arguments: Sequence[str], environment: dict[str, Any]) -> Submission:
        """The job that runs `latentlake ARGUMENTS`."""
        given = {**(self.runtime_env or {}), **environment}
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **given.get("env_vars", {})}
        return Submission(
            shlex.join(["python", "-m", "pipelines", *arguments]),
            "" if "--wait" in arguments else " --wait",
            {**given, "env_vars": variables},
            {**run_of(context), **(self.metadata or {})},
        )

    def announce(self, context: Any, facts: Mapping[str, Any]) -> None:
        """Give these facts to the events of the task's assets."""
        for asset in self.outlets:
            if isinstance(asset, Asset):
                context["outlet_events"][asset].extra = {name: facts[name] for name in FACTS if name in facts}


class SubmitEmbeddingJobOperator(LatentLakeOperator):
    """Runs a job file. The return value is the report of the run; the events of `outlets` have table, version and tag.

    Exit codes 2 (the job is wrong) and 3 (a gate refused) fail without another try; the report is then in XCom as `report`.
    """

    template_fields: Sequence[str] = (
        "job_file", "overrides", "cluster", "job", "slot", "working_dir", "runtime_env", "metadata",
    )  # fmt: skip

    def __init__(
        self,
        *,
        job_file: str,
        overrides: dict[str, Any] | None = None,
        cluster: str | None = None,
        limit: int | None = None,
        working_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Describe the run.

        `job_file` is a file beside the DAG's file, or an absolute path on Airflow's machine. It is sent with its folder, or with
        `working_dir`, which must hold it. `overrides`: values of the job by their path, as `--set`. `cluster`: a cluster profile,
        by its path in that folder. `limit`: as `latentlake run --limit`. All else: see `SubmitRayJobOperator`.
        """
        super().__init__(entrypoint="", working_dir=working_dir, **kwargs)
        self.job_file, self.overrides, self.cluster, self.limit = job_file, overrides, cluster, limit

    def prepare(self, context: Any) -> tuple[Submission, list[Package]]:
        """What is submitted, and what has to be sent before. Raises `SpecError`."""
        path = beside_dag(context, self.job_file)
        if not path.is_file():
            raise SpecError(f"no job file '{path}'.\n  A relative path is sought beside the DAG's file.")
        folder = path.parent if self.working_dir is None else beside_dag(context, self.working_dir)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise SpecError(f"the job file '{path}' is not in the working directory '{folder}'.")
        name = path.resolve().relative_to(folder.resolve()).as_posix()
        check_places(path.read_text(encoding="utf-8"), self.overrides or {})
        package = pack({**list_files(folder), name: path}, folder)
        arguments = ["run", name, "--json"]
        for key, value in (self.overrides or {}).items():
            arguments += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        arguments += [] if self.cluster is None else ["--cluster", self.cluster]
        arguments += [] if self.limit is None else ["--limit", str(self.limit)]
        return self.submission(context, arguments, {"working_dir": package.uri}), [package]

    def result(self, context: Any, info: JobInfo, lines: list[str]) -> dict[str, Any]:
        """The report of the run."""
        report = last_object(lines)
        if report is None:
            raise AirflowFailException(
                f"{info.submission_id} has succeeded, but its log has no report: the log was lost with its node, perhaps.\n"
                "  `latentlake runs` shows the run."
            )
        self.announce(context, report)
        return report

    def failed(self, context: Any, info: JobInfo, lines: list[str]) -> None:
        """Keep the report of a run that was refused or has failed."""
        if (report := last_object(lines)) is not None:
            context["ti"].xcom_push(key="report", value=report)


def check_places(text: str, overrides: Mapping[str, Any]) -> None:
    """Raise `SpecError` for a job whose source or table is at a relative path: there, a lake vanishes with the job.

    What else is wrong with the job, the cluster tells.
    """
    try:
        job = yaml.safe_load(text)
    except yaml.YAMLError:
        return
    for section in ("source", "table"):
        part = job.get(section) if isinstance(job, dict) else None
        uri = overrides.get(f"{section}.uri", part.get("uri") if isinstance(part, dict) else None)
        path = str(uri or "/").removeprefix("file://")
        if "://" not in path and not path.startswith("/"):
            raise SpecError(
                f"{section}.uri: '{uri}' would be in the folder where the cluster unpacks the job, which is deleted with it.\n"
                "  Give an object store (s3://…), or a folder that every node mounts."
            )


class TableCommandOperator(LatentLakeOperator):
    """Runs a command on a table of a lake. Base of the operators below."""

    template_fields: Sequence[str] = ("lake", "table", "options", "job", "slot", "runtime_env", "metadata")

    def __init__(self, *, lake: str, table: str, options: dict[str, str] | None = None, **kwargs: Any) -> None:
        """`lake`: a URI that the cluster reaches. `options`: storage options; a secret as env:NAME, read on the cluster."""
        super().__init__(entrypoint="", **kwargs)
        self.lake, self.table, self.options = lake, table, options

    def arguments(self) -> list[str]:
        """The command, its options, and what it is given beside lake and table."""
        raise NotImplementedError

    def prepare(self, context: Any) -> tuple[Submission, list[Package]]:
        """What is submitted; nothing is sent."""
        command, *more = self.arguments()
        given = [part for name, value in (self.options or {}).items() for part in ("--option", f"{name}={value}")]
        return self.submission(context, [command, self.lake, self.table, "--wait", *more, *given], {}), []


class MaintainTableOperator(TableCommandOperator):
    """Compacts a table, merges its indexes, removes old versions. The return value is what was done."""

    def __init__(self, *, keep_days: float = 7, **kwargs: Any) -> None:
        """`keep_days`: untagged versions that are older are removed."""
        super().__init__(**kwargs)
        self.keep_days = keep_days

    def arguments(self) -> list[str]:
        """`latentlake maintain`."""
        return ["maintain", "--json", "--keep-days", str(self.keep_days)]

    def result(self, context: Any, info: JobInfo, lines: list[str]) -> dict[str, Any] | None:
        """What was done."""
        done = last_object(lines)
        self.announce(context, done or {})
        return done


class RollbackTableOperator(TableCommandOperator):
    """Moves a tag to a version that it marked before, or to any version (`to`), which then must pass the gates of the tag.

    The return value has `table`, `tag`, `version` and `before`.
    """

    template_fields: Sequence[str] = (*TableCommandOperator.template_fields, "tag", "to")

    def __init__(self, *, tag: str = "prod", to: int | str | None = None, **kwargs: Any) -> None:
        """`to`: a version, or a template that gives one; without it the version that the tag marked before."""
        super().__init__(**kwargs)
        self.tag, self.to = tag, to

    def arguments(self) -> list[str]:
        """`latentlake rollback`."""
        return ["rollback", "--tag", self.tag, *([] if self.to is None else ["--to", str(self.to)])]

    def result(self, context: Any, info: JobInfo, lines: list[str]) -> dict[str, Any]:
        """What the tag marks now, and what it did."""
        found = next((match for line in reversed(lines) if (match := MOVED.search(line))), None)
        moved = {} if found is None else {"version": int(found["version"]), "before": int(found["before"])}
        facts = {"table": self.table, "tag": self.tag, **moved}
        self.announce(context, facts)
        return facts
