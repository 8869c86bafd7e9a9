"""The metrics of a run: what each means, and their recording by Ray, whose nodes export them to Prometheus.

Ray puts `ray_` before each name. Few labels, of few values each: nothing is counted per object.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """One metric. A counter only rises; a gauge is what is true now, and goes with the process that runs the job."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    labels: tuple[str, ...]
    meaning: str


OBJECTS = Metric(
    "latentlake_objects_total",
    "counter",
    "objects",
    ("table", "column", "outcome"),
    "Objects of finished shards, by what became of them: embedded, reused, unchanged, filtered, rejected.",
)
ROWS = Metric(
    "latentlake_rows_total", "counter", "rows", ("table", "column"), "Rows that the column's model made a vector for."
)
REJECTS = Metric(
    "latentlake_rejects_total",
    "counter",
    "rejects",
    ("table", "stage"),
    "Rejects, by the stage that made them: list, read, parse, decode, preprocess, prepare, embed.",
)
TOKENS = Metric(
    "latentlake_tokens_total", "counter", "tokens", ("table", "column"), "Tokens that a text model was given."
)
BYTES = Metric("latentlake_read_bytes_total", "counter", "bytes", ("table",), "Bytes of the objects that were read.")
MODEL_SECONDS = Metric(
    "latentlake_model_seconds_total", "counter", "seconds", ("table", "column"), "Time that models took for their rows."
)
BATCH_FILL = Metric(
    "latentlake_batch_fill_ratio",
    "gauge",
    "share",
    ("table", "column"),
    "Of what the batches of the last finished shard could hold, the share that its rows took.",
)
QUEUED = Metric(
    "latentlake_queue_shards", "gauge", "shards", ("table", "column"), "Shards that are read and wait for the model."
)
ACTORS = Metric("latentlake_actors", "gauge", "actors", ("table", "column"), "Actors of the pool that live.")
ACTORS_MIN = Metric(
    "latentlake_actors_min", "gauge", "actors", ("table", "column"), "Actors that the pool has at least, as planned."
)
PHASE = Metric(
    "latentlake_phase", "gauge", "0 or 1", ("table", "phase"), "1 for the phase that the run is in, 0 for those before."
)
DONE = Metric("latentlake_objects_done", "gauge", "objects", ("table",), "Objects of the run that are finished.")
PLANNED = Metric("latentlake_objects_planned", "gauge", "objects", ("table",), "Objects that the run has to do.")
PROGRESS = Metric(
    "latentlake_progress_timestamp_seconds",
    "gauge",
    "seconds since the epoch",
    ("table",),
    "When a shard was last finished, or a phase began.",
)
LEASE = Metric(
    "latentlake_lease_timestamp_seconds",
    "gauge",
    "seconds since the epoch",
    ("table",),
    "When the run last renewed its lease of the table.",
)
MACHINE_SECONDS = Metric(
    "latentlake_machine_seconds_total",
    "counter",
    "seconds",
    ("table",),
    "Seconds of the cluster's living nodes while shards were worked on.",
)
COST = Metric(
    "latentlake_cost_total",
    "counter",
    "currency of the profile",
    ("table",),
    "Cost of the living machines while shards were worked on, where the cluster profile states all prices.",
)
RUNS = Metric("latentlake_runs_total", "counter", "runs", ("table", "state"), "Runs that ended, by their state.")

METRICS = (
    OBJECTS,
    ROWS,
    REJECTS,
    TOKENS,
    BYTES,
    MODEL_SECONDS,
    BATCH_FILL,
    QUEUED,
    ACTORS,
    ACTORS_MIN,
    PHASE,
    DONE,
    PLANNED,
    PROGRESS,
    LEASE,
    MACHINE_SECONDS,
    COST,
    RUNS,
)


# Whoever records holds it, and whoever ends the connection to Ray: Ray's core must not end while something is recorded.
CONNECTION = threading.Lock()


class Meter:
    """Records the metrics of one table's run. Where this process is not connected to a Ray, nothing is recorded."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._made: dict[str, Any] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        """Itself: Ray Data copies its settings, of which this is a part."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """A new one, where Ray Data sends its settings to another process."""
        return Meter, (self._table,)

    def add(self, metric: Metric, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Let a counter rise. `labels` are those besides the table."""
        if value > 0:
            self._record(metric, value, labels or {})

    def set(self, metric: Metric, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Set a gauge. `labels` are those besides the table."""
        self._record(metric, value, labels or {})

    def _record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        with CONNECTION:
            if not is_exported():
                return
            from ray.util.metrics import Counter, Gauge

            if metric.name not in self._made:
                kind = Counter if metric.kind == "counter" else Gauge
                self._made[metric.name] = kind(metric.name, metric.meaning, metric.labels)
            made, tags = self._made[metric.name], {"table": self._table, **labels}
            made.inc(value, tags) if metric.kind == "counter" else made.set(value, tags)


def is_exported() -> bool:
    """Whether what is recorded now gets anywhere: this process is connected to a Ray, and not by Ray's client."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    return not ray.util.client.ray.is_connected()
