"""Where the index of a column is built: in this process, or by fragments on the machines of the run's Ray. See ADR 13."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clusters import machine_capacity
from latentlake.indexes import build_whole
from latentlake.segments import SPLIT_ROWS, UNFIT
from pipelines.job.spec import BuildMode
from pipelines.planning.plan import Plan
from pipelines.ray_connection import is_connected

# Below so many vectors one process is as fast; see docs/indexes.md for what was measured.
DISTRIBUTED_ROWS = 1_000_000


@dataclass
class Building:
    """Builds the index of one column of a run (see `indexes.Builder`). `how` it was built, and why so, is told in the report."""

    plan: Plan
    asked: BuildMode
    check: Callable[[], None]  # raises where another writer has taken the table over
    how: str | None = None

    def __call__(self, dataset: Any, column: str, name: str, build: Mapping[str, Any], rows: int) -> None:
        why = self.why_single(dataset, build, rows)
        if why is not None:
            build_whole(dataset, column, name, build, rows)
            self.how = f"single: {why}"
            return
        from pipelines.publish.segment_tasks import build_by_fragments  # imports Ray

        spec, profile = self.plan.spec.table, self.plan.profile
        table = spec.lake.child(f"{spec.name}.lance")
        self.how = f"distributed: {build_by_fragments(profile, table, dataset, column, name, build, rows, self.check)}"

    def why_single(self, dataset: Any, build: Mapping[str, Any], rows: int) -> str | None:
        """Why one process builds the index; None: it is built by fragments."""
        kind = str(build["index_type"])
        if self.asked == "single":
            return "asked for"
        if kind in UNFIT:
            return f"{kind.lower()} is not built by fragments: {UNFIT[kind]}"
        if len(dataset.get_fragments()) < 2:
            return "the table has one fragment"
        if rows < SPLIT_ROWS:
            return f"{rows} vectors are too few to be parted"
        if self.asked == "distributed":
            return None
        if self.plan.runner.name != "ray":
            return "the run does not use Ray"
        if rows < DISTRIBUTED_ROWS:
            return f"{rows:,} vectors; from {DISTRIBUTED_ROWS:,} on an index is built by fragments"
        if self.has_more_cores():
            return None
        return "Ray has no more cores than this machine, and one process uses all of them"

    def has_more_cores(self) -> bool:
        """Whether the run's Ray offers more CPUs than this machine."""
        if not is_connected():  # a private one, which ended with the stream
            return False
        from pipelines.flow.runners.ray import capacity_after_loss

        return capacity_after_loss(self.plan.profile).cpus > machine_capacity().cpus
