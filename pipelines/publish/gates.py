"""Gates: what must hold before readers see a version. Asked at three moments: at plan, before the commit, before the tag.

A run's work is judged by `run_gates`, a version of a table by `tag_gates`. A run and the upkeep of a table ask the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from operators.errors import GateRefused


@dataclass(frozen=True)
class Gate:
    """One gate, measured. `asks` and `remedy` are for the error, where it does not hold."""

    name: str  # key of the job's section `gates`
    moment: Literal["plan", "commit", "tag"]
    of: str  # what was measured: the "table", the objects "listed" or of the "run", an "index", by the "suite", the "vectors"
    value: float | None  # None: it could not be measured, or there is nothing to measure it against; `why` says which
    limit: float
    held: bool  # whether a version may be published
    why: str  # what was found, in words
    asks: str  # what the job asks for
    remedy: str
    column: str | None = None  # vector column, where the gate is asked of one
    measured_at: int | None = None  # version of the table that `value` is of; None: of what is not committed yet
    measure: str | None = None  # of the suite, as ir-measures writes it
    suite_hash: str | None = None  # of the suite and its files
    worst: tuple[Mapping[str, Any], ...] = ()  # what speaks most against it, such as queries with their values

    def to_json(self) -> dict[str, Any]:
        """The gate for the report of the run."""
        unsaid = {"asks", "remedy"} | {name for name in ("measure", "suite_hash", "worst") if not getattr(self, name)}
        told = {key: value for key, value in asdict(self).items() if key not in unsaid}
        told |= {"value": None if self.value is None else round(self.value, 6)}
        return told | ({"worst": [dict(entry) for entry in self.worst]} if self.worst else {})


def check_gates(gates: Sequence[Gate], outcome: str = "Nothing was published.") -> None:
    """Raise `GateRefused` unless all gates hold. Of a gate that does not, all that was found is told, then `outcome`."""
    failed = [gate for gate in gates if not gate.held]
    if not failed:
        return
    told = []
    for name, asks in dict.fromkeys((gate.name, gate.asks) for gate in failed):
        told.append(f"{'; '.join(gate.why for gate in gates if (gate.name, gate.asks) == (name, asks))}{asks}")
    worst = [f"{gate.name}, worst: {told_of(entry)}" for gate in failed for entry in gate.worst]
    remedies = dict.fromkeys(gate.remedy for gate in failed)
    raise GateRefused("\n  ".join([f"{'; '.join(told)} {outcome}", *worst, *remedies]))


def told_of(entry: Mapping[str, Any]) -> str:
    """What stands against a gate, in one line."""
    return ", ".join(f"{name} {shown(value)}" for name, value in entry.items())


def shown(value: Any) -> str:
    """A value for people: numbers with four digits, texts in quotes and not longer than a line."""
    if isinstance(value, float):
        return f"{value:.4f}"
    text = " ".join(str(value).split())
    return f"'{text if len(text) <= 60 else text[:59] + '…'}'"


def to_json(gates: Iterable[Gate]) -> list[dict[str, Any]]:
    """Gates for a report."""
    return [gate.to_json() for gate in gates]
