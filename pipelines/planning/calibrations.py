"""What earlier runs of a table measured: how fast their models and stages were. The ledger keeps it, in the report of each run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from latentlake.provenance import fingerprint_of
from latentlake.storage import Storage
from pipelines.job.spec import EmbedSpec, JobSpec
from pipelines.planning.pools import Pool
from pipelines.state.ledger import CALIBRATED, read_report, read_runs

ENOUGH_ROWS = 100  # that a calibration stands on; those on fewer count where there is no other


@dataclass(frozen=True)
class Calibration:
    """What one run measured; `columns` and `stages` are those of its report (docs/report.md)."""

    run_id: str
    measured_at: datetime
    sampled: bool  # by `latentlake calibrate`
    runner: str  # "ray" | "inline"
    fingerprints: Mapping[str, str]
    columns: Mapping[str, Mapping[str, Any]]
    stages: Mapping[str, Any]
    seconds: Mapping[str, float]

    def measured(self, column: str) -> Mapping[str, Any] | None:
        """How fast the column's model was, and where; None where a service runs it, or nothing was embedded."""
        found: Mapping[str, Any] | None = self.columns.get(column, {}).get("calibration")
        return found

    @property
    def rows(self) -> int:
        """Rows that it stands on, of the column with the least."""
        return min((int(found["rows"]) for found in self.stages.get("embed", {}).values()), default=0)

    def fault(self, spec: JobSpec, pools: Sequence[Pool], accelerators: Sequence[str]) -> str | None:
        """Why it says nothing of this job on these pools; None: it does."""
        for embed, pool in zip(spec.embed, pools, strict=True):
            measured, rows = self.measured(embed.column), self.stages.get("embed", {}).get(embed.column, {}).get("rows")
            same = self.fingerprints.get(embed.column) == fingerprint_of_column(spec, embed)
            if same and rows and not embed.config.calibrates:  # a service runs the model: the device does not matter
                continue
            if not same or measured is None:
                return f"no run has measured '{embed.column}' as this job makes it"
            if not is_place_of(measured, pool, accelerators):
                return (
                    f"'{embed.column}' was measured on {place_of(measured)}, not on {place_named(pool, accelerators)}"
                )
        if not self.stages.get("read", {}).get("objects"):
            return "the run that measured the models did not measure the stages"
        return None


def fingerprint_of_column(spec: JobSpec, embed: EmbedSpec) -> str:
    """The fingerprint of a column of a resolved job."""
    return fingerprint_of(embed.config, spec.chain, embed.dtype)


def is_place_of(measured: Mapping[str, Any], pool: Pool, accelerators: Sequence[str]) -> bool:
    """Whether a model was measured on the device of a pool, and on a GPU of one of the names, where there are any."""
    if measured["device"] != pool.device:
        return False
    return pool.device == "cpu" or any(is_accelerator(measured, name) for name in accelerators or [""])


def is_accelerator(measured: Mapping[str, Any], name: str) -> bool:
    """Whether a model was measured on a GPU of that name, as Ray has it ("L4", "A100-40G"); of no name: on any."""
    words = re.split(r"[\s\-_]+", (measured["accelerator"] or "").lower())
    return not name or re.split(r"[\s\-_]+", name.lower())[0] in words


def place_of(measured: Mapping[str, Any]) -> str:
    """Where a model was measured, for people."""
    if measured["device"] == "cpu":
        return f"a CPU ({measured['threads']} threads)"
    return measured["accelerator"] or "a GPU that did not tell its name"


def place_named(pool: Pool, accelerators: Sequence[str]) -> str:
    """Where a pool's actors run, for people."""
    return "a CPU" if pool.device == "cpu" else " or ".join(accelerators) or "a GPU"


def read_calibrations(lake: Storage, table: str) -> Iterator[Calibration]:
    """Those of the runs of a table, the newest first."""
    for line in read_runs(lake, table, f"state IN ('published', 'unchanged', '{CALIBRATED}')"):
        report = read_report(line["report"])
        if report.get("columns"):
            yield Calibration(
                run_id=line["run_id"],
                measured_at=line["finished_at"],
                sampled=line["state"] == CALIBRATED,
                runner=str(report.get("runner", "")).partition(":")[0],
                fingerprints=report.get("fingerprints", {}),
                columns=report["columns"],
                stages=report.get("stages", {}),
                seconds=report.get("seconds", {}),
            )


def model_rates(found: Iterable[Calibration]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The newest rate of each fingerprint on each kind of device; see `report.calibration`."""
    rates: dict[tuple[str, str], Mapping[str, Any]] = {}
    for one in found:
        for column, fingerprint in one.fingerprints.items():
            if measured := one.columns.get(column, {}).get("calibration"):
                rates.setdefault((fingerprint, measured["device"]), measured)
    return rates


def best_calibration(
    found: Iterable[Calibration], spec: JobSpec, pools: Sequence[Pool], runner: str, accelerators: Sequence[str]
) -> tuple[Calibration | None, str]:
    """The one to forecast a run by, and if there is none, why the newest will not do.

    Those of the same runner are better than others, and then those that stand on enough rows; among equals the newest is best.
    """
    fitting, why = [], "no run of this table has measured anything"
    for number, one in enumerate(found):
        fault = one.fault(spec, pools, accelerators)
        if fault is None:
            fitting.append(one)
        elif not number:
            why = fault
    best = max(fitting, key=lambda one: (one.runner == runner, one.rows >= ENOUGH_ROWS), default=None)
    return best, "" if best is not None else why
