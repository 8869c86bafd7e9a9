"""The job that a table was last written by, as the lake remembers it: to try again what that job rejected."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from latentlake.storage import Storage
from operators.errors import NotFound, SpecError, Unreadable
from operators.model_files import in_store
from pipelines.job.jobfile import parse_job
from pipelines.job.spec import JobSpec, TableSpec
from pipelines.state.ledger import SPEC, read_runs

# Storage options that may come from a lake: they reach nothing that the reader has not named.
HARMLESS_OPTIONS = frozenset({"aws_region", "region", "aws_default_region", "aws_skip_signature", "skip_signature"})


PLACES = ("model", "weights", "idf")  # options of families that may name a place in an object store


class SourceShape(TypedDict):
    """What is looked at of a stored job's source before anything of it is believed."""

    storage_options: dict[str, str]


class JobShape(TypedDict):
    """What is looked at of a stored job before anything of it is believed."""

    source: SourceShape
    embed: list[dict[str, Any]]


SHAPE = TypeAdapter(JobShape)


def stored_job(lake: Storage, table: str) -> JobSpec:
    """The job of the newest run that published the table. Raises `NotFound`, and `SpecError` where it must be given as a file.

    What a lake says is data, not authority: a stored job that would send credentials somewhere, run a model's own code, or
    read a model from an object store, is not run.
    """
    lines = [line for line in read_runs(lake, table, "head IS NOT NULL") if line.get("spec")]
    if not lines:
        raise NotFound(f"lake '{lake.uri}' remembers no run of table '{table}'.\n  Give the job: --job FILE.")
    try:
        data = SPEC.read(lines[0]["spec"])
        shape = SPEC.check(SHAPE, data)
    except Unreadable as failure:
        raise SpecError(f"{failure}\n  Give the job: --job FILE.") from failure
    risks = [
        f"source.storage_options.{name}" for name in shape["source"]["storage_options"] if name not in HARMLESS_OPTIONS
    ]
    risks += [
        f"embed[{at}].{name}"
        for at, e in enumerate(data["embed"])
        for name in ("trust_remote_code", "base_url")
        if e.get(name)
    ]
    risks += [
        f"embed[{at}].{name}" for at, e in enumerate(data["embed"]) for name in PLACES if in_store(str(e.get(name)))
    ]
    if risks:
        raise SpecError(
            f"the job that the lake remembers sets {', '.join(risks)}, which only you can vouch for.\n"
            "  Give the job file that you trust: --job FILE."
        )
    return at_lake(parse_job(data, f"the stored job of '{table}'"), lake, table)


def at_lake(spec: JobSpec, lake: Storage, table: str) -> JobSpec:
    """The job, writing to a table of this lake, reached as the caller reaches it."""
    target = spec.table.model_dump() | {"uri": lake.uri, "name": table, "storage_options": dict(lake.options)}
    return spec.model_copy(update={"table": TableSpec(**target)})
