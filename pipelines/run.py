"""A run from end to end: plan, stream, account, gate, commit, index, tag, and what is remembered of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from clusters import ClusterProfile, this_machine
from latentlake.indexes import build_index
from latentlake.provenance import columns_of
from operators.errors import GateRefused, LatentLakeError, SourceError
from pipelines.accounting import Counts, count_run
from pipelines.cluster import running_ray
from pipelines.ledger import open_dataset, record_run, write_rejects
from pipelines.memory import PeakMemory
from pipelines.plan import Plan, check_removal, make_plan, write_work
from pipelines.report import actors_over_time, build_report, stages_of, stream_window
from pipelines.shard import read_record
from pipelines.spec import JobSpec

log = logging.getLogger(__name__)

Report = dict[str, Any]
Progress = Callable[[int, int], None]  # objects done, objects to do


def run_job(spec: JobSpec, profile: ClusterProfile | None = None, progress: Progress | None = None) -> Report:
    """Run a job and return its report (see `docs/report.md`).

    Raises `SpecError` and `SourceError` before anything starts, `GateRefused` where a gate kept the table from being
    published, `WriterConflict`, `AccountingError`. What readers see is then unchanged.
    """
    began = time.time()
    with PeakMemory() as memory:
        plan = make_plan(spec, profile or this_machine())
        run = Run(plan, began, progress or (lambda done, total: None))
        try:
            run.execute()
        except BaseException as failure:  # whatever ends the run is noted, then goes on its way
            report = run.finish(state_of(failure), memory.peak_mb, failure)
            if isinstance(failure, LatentLakeError):
                failure.report = report
            raise
        return run.finish(run.state, memory.peak_mb)


class Run:
    """A run under way: what it has found so far."""

    def __init__(self, plan: Plan, began: float, progress: Progress) -> None:
        self.plan = plan
        self.began = began
        self.progress = progress
        self.state = "unchanged"
        self.report: Report = {}
        self.seconds = {"setup": 0.0, "stream": 0.0, "commit": 0.0, "index": 0.0}
        self.listing = f"{plan.run_id}/listing"

    def execute(self) -> None:
        """Everything between the plan and the ledger."""
        plan = self.plan
        if not plan.changes.listed:
            raise SourceError(f"the source '{plan.spec.source.uri}' holds no objects. Check uri, include and exclude.")
        check_removal(plan)
        version = plan.base_version
        records: list[dict[str, Any]] = []
        actors: dict[str, Any] = {}
        if plan.shards:
            version, records, actors = self._stream()
        else:
            self.seconds["setup"] = time.time() - self.began
        totals = count_run(plan.changes, records, len(plan.shards), plan.spec.columns)
        self.report = build_report(plan, self.state, totals, records, actors, self.seconds)
        self._check_rejects(totals, records)
        version = self._publish(version, records)
        if version is None:
            raise SourceError("no object of the source could be embedded, and there is no table yet.")
        self._tag(version, moved=self.state == "published" or plan.base_run is None)

    def _stream(self) -> tuple[int | None, list[dict[str, Any]], dict[str, Any]]:
        """Run the flow; the version that was written for, the shards' records, and actors over time."""
        from pipelines.sinks.lance import add_columns

        plan = self.plan
        write_work(plan)
        with running_ray(plan.profile):
            from pipelines.embed import embed_shards  # imports Ray, which must find its authentication set

            version = add_columns(plan)
            done, total = 0, plan.changes.work.num_rows
            self.progress(0, total)
            for shard in embed_shards(plan, version):
                done += shard["listed"]
                self.progress(done, total)
            place = plan.place.child("shards")
            records = [read_record(place, shard) for shard in range(len(plan.shards))]
            window = stream_window(records) or (self.began, self.began)
            self.seconds["setup"], self.seconds["stream"] = window[0] - self.began, window[1] - window[0]
            actors = {column: actors_over_time(actor_lives(records, column), window[0]) for column in plan.spec.columns}
        return version, records, actors

    def _check_rejects(self, totals: Mapping[str, Counts], records: Sequence[dict[str, Any]]) -> None:
        """Refuse to publish where too much was rejected; the rejects can be read all the same."""
        column, worst = max(totals.items(), key=lambda item: item[1].rejected)
        limit, spec = self.plan.spec.gates.max_reject_rate, self.plan.spec
        if worst.rejected <= limit * worst.listed:
            return
        self._write_rejects(records, None)
        raise GateRefused(
            f"{worst.rejected} of {worst.listed} objects ({worst.rejected / worst.listed:.1%}) were rejected for '{column}'; "
            f"gates.max_reject_rate allows {limit:.1%}. Nothing was published.\n"
            f"  Read the reasons: latentlake rejects {spec.table.uri} {spec.table.name}"
        )

    def _publish(self, version: int | None, records: Sequence[dict[str, Any]]) -> int | None:
        """Commit, write the rejects, bring the indexes up to date; the version that readers may get."""
        from pipelines.sinks.lance import commit

        plan = self.plan
        began = time.time()
        summary = {key: self.report[key] for key in ("run_id", "counts", "rows_written", "fingerprints")}
        committed = commit(plan, version, records, summary)
        self.state = "published" if committed is not None else "unchanged"
        if records or committed is not None or len(plan.changes.left):
            self._write_rejects(records, committed or version)
        self.seconds["commit"] = time.time() - began
        if committed is None and plan.base_run is not None and version == plan.base_version:
            return version
        return self._index() if committed or version else None

    def _index(self) -> int:
        """Build or extend the index of each column; the version with all of them."""
        began = time.time()
        table = open_dataset(self.plan.spec.table.lake, self.plan.spec.table.name)
        assert table is not None
        stored = columns_of(table.schema)
        for column in self.plan.spec.columns:
            built = build_index(table, column, stored[column].metric, self.plan.spec.index_type(column))
            self.report["indexes"].append(asdict(built))
        self.seconds["index"] = time.time() - began
        return int(table.version)

    def _tag(self, version: int, moved: bool) -> None:
        """Put the tag that readers follow on `version`.

        Where the run `moved` nothing, a tag that is elsewhere was put there by hand, and stays.
        """
        tag, spec = self.plan.spec.publish.tag, self.plan.spec
        self.report |= {"version": version, "tag": tag, "state": self.state}
        if tag is None:
            return
        table = open_dataset(spec.table.lake, spec.table.name)
        assert table is not None
        tags = table.tags.list()
        if tag not in tags:
            table.tags.create(tag, version)
        elif tags[tag]["version"] != version and not moved:
            log.warning(
                "tag '%s' is at version %d, not at the newest, %d; it stays", tag, tags[tag]["version"], version
            )
        elif tags[tag]["version"] != version:
            table.tags.update(tag, version)

    def _write_rejects(self, records: Sequence[dict[str, Any]], version: int | None) -> None:
        """Write the rejects of the run's shards beside the table; see `ledger.write_rejects`."""
        plan = self.plan
        rows = [
            {**reject, "run_id": plan.run_id, "version": version}
            for record in records
            for reject in record["status"]["rejects"]
        ]
        settled = pa.array([], pa.string())
        if version is not None:
            settled = pa.concat_arrays(
                [plan.changes.work["object_id"].combine_chunks(), plan.changes.gone, plan.changes.left]
            )
        write_rejects(plan.spec.table.lake, plan.spec.table.name, rows, settled, plan.run_id)

    def finish(self, state: str, peak_mb: float, failure: BaseException | None = None) -> Report:
        """Complete the report, note the run in the ledger, and clear its folder of what nobody needs."""
        plan = self.plan
        self.report |= {
            "run_id": plan.run_id,
            "state": state,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "peak_memory_mb": round(peak_mb, 1),
        }
        if failure is not None:
            self.report["error"] = f"{type(failure).__name__}: {failure}"
        if state == "unchanged" and not plan.shards and plan.base_run is not None:
            self.listing = plan.base_run.listing  # the listing is the same; the one that is there serves
            plan.place.fs.rm(plan.place.root, recursive=True)
        else:
            for folder in ("work",) if failure else ("work", "shards"):
                if plan.place.fs.exists(plan.place.path(folder)):
                    plan.place.fs.rm(plan.place.path(folder), recursive=True)
        record_run(
            plan.spec.table.lake,
            {
                "run_id": plan.run_id,
                "table": plan.spec.table.name,
                "job": plan.spec.name,
                "state": state,
                "started_at": datetime.fromtimestamp(self.began, UTC),
                "base_version": plan.base_version,
                "version": self.report.get("version") if failure is None else plan.base_version,
                "listing": self.listing,
                "state_key": plan.state_key,
                "report": self.report,
            },
        )
        return self.report


def state_of(failure: BaseException) -> str:
    """How the ledger names the end of a run."""
    if isinstance(failure, GateRefused):
        return "refused"
    return "interrupted" if isinstance(failure, KeyboardInterrupt) else "failed"


def actor_lives(records: Sequence[dict[str, Any]], column: str) -> dict[str, tuple[float, float | None]]:
    """Begin and end (seconds since the epoch) of each actor that embedded for a column, as Ray knows them."""
    from ray._private import state

    known = state.actors()
    names = {stage["actor"] for stage in stages_of(records, column)}
    lives = {}
    for name in names & known.keys():
        began, ended = int(known[name].get("StartTime") or 0), int(known[name].get("EndTime") or 0)
        lives[name] = (began / 1000, ended / 1000 if ended else None)
    return lives
