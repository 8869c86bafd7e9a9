"""One run, as those who watch it see it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from pipelines.progress import Event
from pipelines.telemetry import metrics
from pipelines.telemetry.metrics import Meter
from pipelines.telemetry.spans import Spans

log = logging.getLogger(__name__)

ShardFacts = Mapping[str, Any]  # see `flow.facts`


class Watched:
    """Tells of one table's run as it goes by: its phases, its finished shards, its lease, its end. A context."""

    def __init__(self, table: str, job: str) -> None:
        self._meter = Meter(table)
        self._spans = Spans({"table": table, "job": job})
        self._phases: list[str] = []  # in their order

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        """The run is in no phase any more, whatever ended it."""
        self._spans.end("failed", "the run ended before it was recorded")
        for phase in self._phases:
            self._meter.set(metrics.PHASE, 0, {"phase": phase})

    def begin(self, event: Event) -> None:
        """A phase began, or so many objects are finished."""
        if event.phase not in self._phases:
            self._phases.append(event.phase)
            self._spans.begin(event.phase)
            log.info(
                "%s", event.phase, extra={"event": "phase", "phase": event.phase, "seconds": round(event.seconds, 3)}
            )
        for phase in self._phases:
            self._meter.set(metrics.PHASE, float(phase == event.phase), {"phase": phase})
        self._meter.set(metrics.DONE, event.done)
        self._meter.set(metrics.PLANNED, event.total)
        self._meter.set(metrics.PROGRESS, time.time())

    def renewed(self, moment: float) -> None:
        """The lease was renewed, at a moment in seconds since the epoch. May be called by another thread."""
        self._meter.set(metrics.LEASE, moment)

    def shard(self, facts: ShardFacts) -> None:
        """A shard is finished."""
        told = {name: facts[name] for name in ("shard", "rows", "counts", "rejects", "models")}
        log.info("shard %d is finished", facts["shard"], extra={"event": "shard", **told})
        self._spans.shard(facts)
        meter = self._meter
        meter.add(metrics.BYTES, facts["bytes_read"])
        for stage, number in facts["rejects"].items():
            meter.add(metrics.REJECTS, number, {"stage": stage})
        for column, counts in facts["counts"].items():
            for outcome, number in counts.items():
                meter.add(metrics.OBJECTS, number, {"column": column, "outcome": outcome})
        for column, work in facts["models"].items():
            labels = {"column": column}
            meter.add(metrics.ROWS, work["rows"], labels)
            meter.add(metrics.TOKENS, work["tokens"], labels)
            meter.add(metrics.MODEL_SECONDS, work["model_s"], labels)
            if work["fill"] is not None:
                meter.set(metrics.BATCH_FILL, work["fill"], labels)

    def planned(self, run_id: str) -> None:
        """The run has a name."""
        self._spans.describe({"run_id": run_id})

    def ended(self, report: Mapping[str, Any]) -> None:
        """The run has ended, and this is its report."""
        state = report["state"]
        self._spans.describe(
            {name: report[name] for name in ("version", "rows_written") if report.get(name) is not None}
        )
        self._spans.end(state, report.get("error"))
        log.info("the run ended: %s", state, extra={"event": "end", "state": state})
        self._meter.add(metrics.RUNS, 1, {"state": state})
