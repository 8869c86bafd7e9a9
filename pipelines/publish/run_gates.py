"""The gates of a run's work: at plan, and before the commit. See `pipelines.publish.gates`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipelines.flow.counts import Counts
from pipelines.planning.plan import Plan
from pipelines.publish.gates import Gate
from pipelines.publish.tally import Tally
from pipelines.state.ledger import known_rejects

RUN_REJECTS = 20  # fewer never keep a run from being published, if they are a small share of what is listed


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
