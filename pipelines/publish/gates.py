"""Gates: what must hold before readers see a version. Asked at three moments: at plan, before the commit, before the tag.

Each function measures what one key of the job's section `gates` bounds. A run and the upkeep of a table ask the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NotRequired

from lance import LanceDataset
from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from latentlake.indexes import describe_indexes
from latentlake.provenance import columns_of
from latentlake.recall import measure_recall
from latentlake.storage import Storage
from latentlake.tuning.settings import read_settings
from operators.errors import GateRefused
from pipelines.flow.counts import Counts
from pipelines.planning.plan import Plan
from pipelines.publish.tally import Tally
from pipelines.state.ledger import SPEC, known_rejects, read_runs

RUN_REJECTS = 20  # fewer never keep a run from being published, if they are a small share of what is listed


@dataclass(frozen=True)
class Gate:
    """One gate, measured. `asks` and `remedy` are for the error, where it does not hold."""

    name: str  # key of the job's section `gates`
    moment: Literal["plan", "commit", "tag"]
    of: str  # what was measured: the "table", the objects "listed" or of the "run", an "index"
    value: float
    limit: float
    held: bool  # whether a version may be published
    why: str  # what was found, in words
    asks: str  # what the job asks for
    remedy: str
    column: str | None = None  # vector column, where the gate is asked of one
    measured_at: int | None = None  # version of the table that `value` is of; None: of what is not committed yet

    def to_json(self) -> dict[str, Any]:
        """The gate for the report of the run."""
        told = {key: value for key, value in asdict(self).items() if key not in ("asks", "remedy")}
        return told | {"value": round(self.value, 6)}


def check_gates(gates: Sequence[Gate], outcome: str = "Nothing was published.") -> None:
    """Raise `GateRefused` unless all gates hold. Of a gate that does not, all that was found is told, then `outcome`."""
    failed = [gate for gate in gates if not gate.held]
    if not failed:
        return
    told = []
    for name in dict.fromkeys(gate.name for gate in failed):
        asked = [gate for gate in gates if gate.name == name]
        told.append(f"{'; '.join(gate.why for gate in asked)}{asked[0].asks}")
    remedies = dict.fromkeys(gate.remedy for gate in failed)
    raise GateRefused("\n  ".join([f"{'; '.join(told)} {outcome}", *remedies]))


# at plan


def gates_at_plan(plan: Plan) -> list[Gate]:
    """`max_objects_removed`: how much of the table the run deletes because it is gone from the source.

    A run that is resumed was asked when it was planned. There is no gate where there is no table, or nothing is listed.
    """
    changes, limit = plan.changes, plan.spec.gates.max_objects_removed
    if plan.base_version is None or plan.retry is not None:
        return []
    deletes = (plan.removes > 0 or plan.replaces_all) and plan.resumed is None
    return [
        Gate(
            name="max_objects_removed",
            moment="plan",
            of="table",
            value=changes.gone_share,
            limit=limit,
            held=not deletes or changes.gone_share <= limit,
            why=f"{changes.gone} of the table's {changes.in_table} objects ({changes.gone_share:.1%}) are gone from the source",
            asks=f"; gates.max_objects_removed allows {limit:.1%}.",
            remedy="Check the source; if it is right, raise the gate for this run: --set gates.max_objects_removed=1.",
            measured_at=plan.base_version,
        )
    ]


# before the commit


def gates_before_commit(plan: Plan, totals: Mapping[str, Counts], tally: Tally) -> list[Gate]:
    """`max_reject_rate`, of all objects listed and of those that the run decided on (see `decided`).

    Each is asked of the column where it looks worst.
    """
    columns = plan.spec.columns
    listed = [reject_gate(plan, "listed", c, totals[c].rejected, totals[c].listed) for c in columns]
    run = [reject_gate(plan, "run", c, *without_known(plan, c, *decided(plan, c, totals[c]), tally)) for c in columns]
    return [max(gates, key=lambda gate: (not gate.held, gate.value)) for gates in (listed, run)]


def reject_gate(plan: Plan, of: str, column: str, rejected: int, objects: int) -> Gate:
    """`max_reject_rate`, asked of one set of objects for one column."""
    limit, table = plan.spec.gates.max_reject_rate, plan.spec.table
    share = rejected / objects if objects else 0.0
    what = "objects" if of == "listed" else "objects that this run decided on"
    return Gate(
        name="max_reject_rate",
        moment="commit",
        of=of,
        value=share,
        limit=limit,
        held=not refuses(of, rejected, objects, limit),
        why=f"{rejected} of {objects} {what} ({share:.1%}) were rejected for '{column}'",
        asks=f". gates.max_reject_rate allows {limit:.1%}.",
        remedy=f"Read the reasons: latentlake rejects {table.uri} {table.name}\n"
        "  To publish all the same: --set gates.max_reject_rate=1",
        column=column,
    )


def refuses(of: str, rejected: int, objects: int, limit: float) -> bool:
    """Whether so many rejects keep a version from readers."""
    least = 1 if of == "listed" else RUN_REJECTS
    return rejected >= least and rejected / objects > limit


def decided(plan: Plan, column: str, total: Counts) -> tuple[int, int]:
    """How many objects the run rejected for a column, and of how many it decided the fate.

    That is all that it read but what turned out to be unchanged: neither that nor what was carried over says how good the
    new objects are.
    """
    carried = plan.changes.carried[column]
    return total.rejected - carried.rejected, plan.changes.work - (total.unchanged - carried.unchanged)


def without_known(plan: Plan, column: str, rejected: int, objects: int, tally: Tally) -> tuple[int, int]:
    """The counts without the objects that were rejected before, and now again: they have not kept readers from a version then.

    They are looked up only where the gate would refuse.
    """
    spec = plan.spec
    if not refuses("run", rejected, objects, spec.gates.max_reject_rate):
        return rejected, objects

    def rejects() -> Iterator[list[str]]:
        """Objects that the run rejected for the column, in pieces."""
        for piece in tally.rejects():
            yield [r["object_id"] for r in piece if r["outcome"] == "rejected" and r["column"] in (None, column)]

    known = known_rejects(spec.table.lake, spec.table.name, rejects(), column, plan.run_id)
    return rejected - known, objects - known


# before the tag


def gates_before_tag(
    min_recall: float | None,
    recalls: Mapping[str, float | None],
    version: int,
    measured_at: Mapping[str, int | None] | None = None,
) -> list[Gate]:
    """`min_recall` of each index, by vector column; none where the job asks for nothing, or a column is searched exactly.

    `version` is the table's version that the recalls were measured at, unless `measured_at` names an earlier one.
    """
    if min_recall is None:
        return []
    return [
        Gate(
            name="min_recall",
            moment="tag",
            of="index",
            value=recall,
            limit=min_recall,
            held=recall >= min_recall,
            why=f"the index of '{column}' finds {recall:.3f} of the 10 nearest",
            asks=f"; gates.min_recall asks for {min_recall:.3f}.",
            remedy="Choose another index type, or lower the gate; the next run gates this version again.",
            column=column,
            measured_at=(measured_at or {}).get(column) or version,
        )
        for column, recall in recalls.items()
        if recall is not None
    ]


# of a version that no run is at work on


class GateShape(TypedDict):
    """What is read of a stored job's gates."""

    min_recall: NotRequired[float | None]


class JobShape(TypedDict):
    """What is read of a stored job."""

    gates: GateShape


JOB = TypeAdapter(JobShape)


def stored_min_recall(lake: Storage, table: str) -> float | None:
    """`gates.min_recall` of the job that the table was last written by; None: it asks for nothing. Raises `Unreadable`."""
    specs = [line["spec"] for line in read_runs(lake, table, "head IS NOT NULL") if line["spec"]]
    return SPEC.check(JOB, SPEC.read(specs[0]))["gates"].get("min_recall") if specs else None


def measure_recalls(dataset: LanceDataset) -> dict[str, float]:
    """Recall of each index of a version of a table, by vector column; of a tuned one that which was measured with queries."""
    stored = columns_of(dataset.schema)
    columns = [info.column for info in describe_indexes(dataset) if info.metric and info.column in stored]
    tuned = {column: read_settings(dataset.schema, column) for column in columns}
    return {
        column: settings.measured.recall if settings else measure_recall(dataset, column, stored[column].metric)
        for column, settings in tuned.items()
    }


def tuned_at(dataset: LanceDataset) -> dict[str, int]:
    """The versions that the recalls of tuned columns were measured at."""
    columns = columns_of(dataset.schema)
    return {column: found.measured_at for column in columns if (found := read_settings(dataset.schema, column))}


def to_json(gates: Iterable[Gate]) -> list[dict[str, Any]]:
    """Gates for a report."""
    return [gate.to_json() for gate in gates]
