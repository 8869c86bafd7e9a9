"""The gates of a version of a table, as the job says that it was written by and that the lake remembers."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from latentlake.storage import Storage
from pipelines.job.spec import GateSpec
from pipelines.state.ledger import SPEC, read_runs


class EmbedShape(TypedDict):
    """What is read of an entry of a stored job's `embed`."""

    column: str


class JobShape(TypedDict):
    """What is read of a stored job."""

    gates: GateSpec
    embed: list[EmbedShape]


JOB = TypeAdapter(JobShape)


@dataclass(frozen=True)
class JobGates:
    """The gates of a job, and the vector columns that it fills; no columns: those of the table."""

    gates: GateSpec
    columns: tuple[str, ...] = ()


def stored_gates(lake: Storage, table: str, version: int | None = None) -> JobGates:
    """The gates of the job that a version was written by; of the newest job, where that is not known.

    A table that no job has written has no gates. Raises `Unreadable`, also for gates that this release does not know.
    """
    columns = ("head", "spec", "finished_at")
    lines = [line for line in read_runs(lake, table, "head IS NOT NULL", columns) if line["spec"]]
    chosen = next((line for line in lines if line["head"] == version), lines[0] if lines else None)
    if chosen is None:
        return JobGates(GateSpec())
    job = SPEC.check(JOB, SPEC.read(chosen["spec"]))
    return JobGates(job["gates"], tuple(embed["column"] for embed in job["embed"]))
