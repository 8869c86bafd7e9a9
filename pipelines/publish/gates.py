"""Gates on what a run rejected: of all objects listed, and of those that the run itself decided on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.flow.counts import Counts
from pipelines.planning.plan import Plan
from pipelines.publish.tally import Tally
from pipelines.state.ledger import known_rejects

RUN_REJECTS = 20  # fewer never keep a run from being published, if they are a small share of what is listed


@dataclass(frozen=True)
class RejectGate:
    """`gates.max_reject_rate`, asked of one set of objects, for the column where it looks worst."""

    of: str  # "listed": all objects; "run": those whose fate this run decided
    column: str
    rejected: int
    objects: int
    limit: float
    least: int = 1  # rejects from which on the gate may refuse

    @property
    def value(self) -> float:
        """Share of the objects that were rejected."""
        return self.rejected / self.objects if self.objects else 0.0

    @property
    def held(self) -> bool:
        """Whether a version may be published."""
        return self.rejected < self.least or self.value <= self.limit

    def to_json(self) -> dict[str, Any]:
        """The gate for the report of the run."""
        return {"name": "max_reject_rate", **asdict(self), "value": round(self.value, 6), "held": self.held}

    def __str__(self) -> str:
        what = "objects" if self.of == "listed" else "objects that this run decided on"
        return f"{self.rejected} of {self.objects} {what} ({self.value:.1%}) were rejected for '{self.column}'"


def reject_gates(plan: Plan, totals: Mapping[str, Counts], tally: Tally) -> list[RejectGate]:
    """The gate, asked of all objects listed and of those that the run decided on; see `decided`."""
    limit, columns = plan.spec.gates.max_reject_rate, plan.spec.columns
    listed = [RejectGate("listed", c, totals[c].rejected, totals[c].listed, limit) for c in columns]
    run = [RejectGate("run", c, *decided(plan, c, totals[c]), limit, RUN_REJECTS) for c in columns]
    run = [gate if gate.held else without_known(plan, gate, tally) for gate in run]
    return [max(listed, key=lambda gate: gate.value), max(run, key=lambda gate: (not gate.held, gate.value))]


def decided(plan: Plan, column: str, total: Counts) -> tuple[int, int]:
    """How many objects the run rejected for a column, and of how many it decided the fate.

    That is all that it read but what turned out to be unchanged: neither that nor what was carried over says how good the
    new objects are.
    """
    carried = plan.changes.carried[column]
    return total.rejected - carried.rejected, plan.changes.work - (total.unchanged - carried.unchanged)


def without_known(plan: Plan, gate: RejectGate, tally: Tally) -> RejectGate:
    """The gate without the objects that were rejected before, and now again: they have not kept readers from a version then."""

    def rejected() -> Iterator[list[str]]:
        """Objects that the run rejected for the column, in pieces."""
        for piece in tally.rejects():
            yield [r["object_id"] for r in piece if r["outcome"] == "rejected" and r["column"] in (None, gate.column)]

    spec = plan.spec
    known = known_rejects(spec.table.lake, spec.table.name, rejected(), gate.column, plan.run_id)
    return RejectGate("run", gate.column, gate.rejected - known, gate.objects - known, gate.limit, gate.least)
