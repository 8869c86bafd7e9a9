"""A run from end to end: plan, stream, account, gate, commit, index, gate, tag, and what is remembered of it. See ADR 4."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from clusters import ClusterProfile
from latentlake.building import build_index
from latentlake.column_indexes import lacks, update_column_index
from latentlake.keys import open_for_look_ups, update_key_indexes
from latentlake.provenance import columns_of
from latentlake.query import QueryModels
from operators.batch import describe
from operators.errors import BudgetSpent, GateRefused, LatentLakeError, SourceError, WriterConflict
from pipelines.flow.columns import forget_unreadable
from pipelines.flow.counts import Counts
from pipelines.flow.runners.base import Lives, Runner
from pipelines.flow.runners.start import runner_ahead
from pipelines.flow.shard import record_name
from pipelines.job.checks import check_suite
from pipelines.job.spec import JobSpec, PublishSpec
from pipelines.planning.budget import Budget, BudgetMeter
from pipelines.planning.choice import RunnerName, check_runner
from pipelines.planning.plan import Plan, resolve_models
from pipelines.planning.work import GONE, LEFT, read_ids, read_work_ids
from pipelines.progress import (
    COMMITTING,
    DEDUPLICATING,
    EMBEDDING,
    INDEXING,
    LOADING,
    PUBLISHING,
    STARTING,
    Phases,
    Progress,
)
from pipelines.publish.accounting import count_run
from pipelines.publish.building import Building
from pipelines.publish.gates import Gate, check_gates, to_json
from pipelines.publish.indexes import known_indexes
from pipelines.publish.memory import PeakMemory
from pipelines.publish.query_models import models_of
from pipelines.publish.report import actors_over_time, build_report
from pipelines.publish.run_gates import gates_at_plan, gates_before_commit
from pipelines.publish.subject import make_subject
from pipelines.publish.tag_gates import gates_before_tag, recall_gates
from pipelines.publish.tags import move_tag, settle_tags
from pipelines.publish.tally import Tally, read_records, readable_records
from pipelines.publish.tuned import prepare_queries, stored_queries_of
from pipelines.ray_connection import reached
from pipelines.resume import clear_folder, plan_run
from pipelines.state.journal import forgive
from pipelines.state.lease import Lease, hold_table
from pipelines.state.ledger import SPEC, WORK_FOLDER, open_dataset, record_run, write_rejects
from pipelines.state.manifest import (
    MANIFEST,
    RESUMABLE,
    SHARDS_FOLDER,
    Retry,
    finished_shards,
    write_manifest,
)
from pipelines.state.reports import write_report
from pipelines.telemetry.logs import about
from pipelines.telemetry.run import Watched

log = logging.getLogger(__name__)

Report = dict[str, Any]


def run_job(
    spec: JobSpec,
    profile: ClusterProfile | None = None,
    progress: Progress | None = None,
    *,
    fresh: bool = False,
    wait: bool = False,
    retry: Retry | None = None,
    runner: RunnerName | Runner = "auto",
    limit: int | None = None,
    budget: Budget | None = None,
) -> Report:
    """Run a job and return its report (see `docs/report.md`).

    An interrupted run of the same job is resumed, unless `fresh` discards it. If another writer holds the
    table, `wait` for it. With `retry`, only what an earlier run rejected is done again. `runner` "auto" is Ray, or for little
    work one process without it (see `docs/clusters.md`). `progress` is called with an `Event` as each phase begins, and each
    time a shard is finished. With a `limit`, only so many objects are worked on, spread over the listing; the version is
    not tagged, and nothing counts as gone. Once a `budget` is spent, the shards in flight are finished, and the run ends with
    `BudgetSpent`.

    Raises `SpecError` and `SourceError` before anything starts, `GateRefused` where a gate kept the table from being
    published, `WriterConflict`, `AccountingError`. What readers see is then unchanged.
    """
    began = time.time()
    watched = Watched(spec.table.name, spec.name)
    phases = Phases(began, watched.begin, progress)
    profile = profile or ClusterProfile()
    if budget:
        budget.check(profile)
    asked = check_runner(runner if isinstance(runner, str) else "inline")
    if limit is not None:
        spec = spec.model_copy(update={"limit": limit, "publish": PublishSpec(tag=None)})
    if spec.limit is None:
        check_suite(spec.gates)  # not after hours of work
    spec = resolve_models(spec)
    folder = spec.table.lake.child(WORK_FOLDER, spec.table.name)
    folder.check_conditional_writes()
    with (
        about(table=spec.table.name, job=spec.name),
        PeakMemory() as memory,
        BudgetMeter(budget, profile, began) if budget else nullcontext() as meter,
        hold_table(folder, f"job '{spec.name}'", wait) as lease,
        nullcontext() if asked == "inline" else reached(profile),
        watched,
        ExitStack() as names,
        runner_ahead(runner, spec, profile) as runner_of,
    ):
        lease.listener = watched.renewed
        settle_tags_of(spec, lease)
        prepare_queries(spec)
        plan = replace(plan_run(spec, profile, fresh, retry, asked, phases), budget_meter=meter)
        run = Run(plan, runner_of(plan), lease, phases, watched)
        names.enter_context(about(run_id=plan.run_id))
        watched.planned(plan.run_id)
        try:
            run.execute()
            settle_tags_of(spec, lease)
        except BaseException as failure:  # whatever ends the run is recorded, then raised again
            if isinstance(failure, Exception) and not isinstance(failure, WriterConflict):
                lease.check_after(failure)
            if lease.lost:  # who took over may have finished this run: its line and its folder are not ours any more
                raise
            try:
                report = run.finish(state_of(failure), memory.peak_mb, failure)
            except Exception as second:  # a full disk, say: what ended the run counts
                log.warning("the ledger has no line of this run: %s", describe(second))
            else:
                if isinstance(failure, LatentLakeError):
                    failure.report = report
            raise
        return run.finish(run.state, memory.peak_mb)


def settle_tags_of(spec: JobSpec, lease: Lease) -> None:
    """See `tags.settle_tags`."""
    table = open_dataset(spec.table.lake, spec.table.name)
    if table is not None:
        settle_tags(lease, table)


class Run:
    """A run under way: what it has found so far."""

    def __init__(self, plan: Plan, runner: Runner, lease: Lease, phases: Phases, watched: Watched) -> None:
        self.plan = plan
        self.runner = runner
        self.lease = lease
        self.began = phases.began
        self.phases = phases
        self.watched = watched
        self.first_read: float | None = None
        self.state = "unchanged"
        self.head: int | None = None  # the table's version whose rows the listing accounts for
        self.report: Report = {}
        self.gates: list[Gate] = []  # asked so far
        self.seconds = {"setup": 0.0, "stream": 0.0, "commit": 0.0, "index": 0.0}

    def execute(self) -> None:
        """Everything between the plan and the ledger."""
        plan = self.plan
        if not plan.changes.listed and not plan.changes.forgotten:
            raise SourceError(f"the source '{plan.spec.source.uri}' holds no objects. Check uri, include and exclude.")
        self._check_removal()
        version = self._prepare()
        with Tally(plan.spec.columns, self.lease.token) as tally:
            totals, actors = self._stream(version, tally)
            totals = self._deduplicate(version, tally, totals)
            window = tally.window or (time.time(), time.time())
            self.first_read = None if tally.window is None else window[0]
            self.seconds["setup"], self.seconds["stream"] = window[0] - self.began, window[1] - window[0]
            lines = {column: actors_over_time(lives, window[0]) for column, lives in actors.items()}
            self.report = build_report(plan, self.state, totals, tally, lines, self.seconds)
            self._check_rejects(totals, tally)
            committed = self._commit(version, tally)
        changed = committed is not None or plan.unpublished or plan.base_run is None or version != plan.base_version
        if changed or self._lacks_an_index():
            self._index()
            self._tag()
        else:
            self.report |= {"version": version, "tag": plan.spec.publish.tag}

    def _check_removal(self) -> None:
        """Refuse to delete more of the table than the job allows."""
        if self.plan.changes.unlisted and self.plan.spec.table.prune:
            log.warning("%d files could not be listed: nothing is pruned, see the rejects", self.plan.changes.unlisted)
        self.gates = gates_at_plan(self.plan)
        check_gates(self.gates)

    def _prepare(self) -> int | None:
        """Make the table ready for what will be written; that version. From here on the run can be resumed."""
        from pipelines.publish.commit import prepare_table

        plan = self.plan
        if plan.resumed is not None:
            return plan.resumed.version
        republishes = plan.restores and plan.unpublished
        if not plan.shards and not plan.removes and not plan.replaces_all and not republishes:
            return plan.base_version
        version = prepare_table(plan)
        write_manifest(plan.spec.table.lake, plan.manifest(version, self.began))
        return version

    def _stream(self, version: int | None, tally: Tally) -> tuple[dict[str, Counts], dict[str, Lives]]:
        """Finish the shards that have left no record. The accounting of all, and when the actors lived, by column."""
        plan = self.plan
        finished = self._take_over()
        todo = [shard for shard in range(len(plan.shards)) if shard not in finished]
        if not todo and not plan.patched:
            return self._count(tally), {}
        if plan.budget_meter is not None:
            plan.budget_meter.watch(plan.place)
        self.phases.begin(STARTING)
        with self.runner as runner:
            done, total = sum(plan.shards[shard] for shard in finished), sum(plan.shards)
            self.phases.begin(LOADING, done, total)
            # Closed also where this loop fails, for its error keeps what it was iterating over.
            with closing(runner.embed_shards(plan, version, todo, self.lease.token)) as finishing:
                for shard in finishing if todo else ():
                    if not shard["facts"]:  # it is left for the next run
                        continue
                    done += shard["listed"]
                    self.watched.shard(json.loads(shard["facts"]))
                    self.phases.begin(EMBEDDING, done, total)
            self._check_budget()
            totals = self._count(tally)
            if tally.patches and version is not None:
                runner.merge_columns(plan, version, tally.patches)
            return totals, {column: runner.lives(tally.actors[column]) for column in plan.spec.columns}

    def _check_budget(self) -> None:
        """Raise `BudgetSpent` where shards were left for that reason; a run whose shards are all finished is published."""
        plan = self.plan
        if plan.budget_meter is not None and plan.budget_meter.spent_at is not None:
            finished = len(finished_shards(plan.place))
            if finished < len(plan.shards):
                raise plan.budget_meter.failure(finished, len(plan.shards))

    def _take_over(self) -> set[int]:
        """Shards that have left a record, and whose files are still there."""
        from pipelines.publish.commit import data_files, named_files

        plan = self.plan
        if plan.resumed is None:
            return set()
        forgive(plan.place)
        forget_unreadable(plan.place)
        there = data_files(plan.spec.table.lake, plan.spec.table.name)
        for record in readable_records(plan.place):
            if named_files(record["fragments"]) - there:
                log.warning("files of shard %d are gone; it is done again", record["status"]["shard"])
                plan.place.remove(SHARDS_FOLDER, record_name(record["status"]["shard"]))
        return set(finished_shards(plan.place))

    def _count(self, tally: Tally) -> dict[str, Counts]:
        """The accounting of all shards, which `tally` takes in. Raises `AccountingError`."""
        plan = self.plan
        records = read_records(plan.place, finished_shards(plan.place))
        return count_run(plan.changes, tally.count(records), len(plan.shards), plan.spec.columns)

    def _deduplicate(self, version: int | None, tally: Tally, totals: dict[str, Counts]) -> dict[str, Counts]:
        """Drop duplicates, where the job asks for it; the accounting then."""
        if self.plan.spec.deduplicate is None:
            return totals
        from pipelines.publish.deduplicate import deduplicate

        self.phases.begin(DEDUPLICATING)
        return deduplicate(self.plan, version, tally, totals)

    def _check_rejects(self, totals: Mapping[str, Counts], tally: Tally) -> None:
        """Refuse to publish where too much was rejected; the rejects can be read all the same."""
        gates = gates_before_commit(self.plan, totals, tally)
        self.gates += gates
        if not all(gate.held for gate in gates):
            self._write_rejects(tally, None)
        check_gates(gates)

    def _commit(self, version: int | None, tally: Tally) -> int | None:
        """Commit, and write the rejects; the version committed, None where there was nothing to commit."""
        from pipelines.publish.commit import commit

        plan = self.plan
        began = time.time()
        self.phases.begin(COMMITTING)
        summary = {key: self.report[key] for key in ("run_id", "counts", "rows_written", "fingerprints")}
        committed = commit(plan, version, tally, summary, self.lease)
        self.state = "published" if committed is not None else "unchanged"
        self.head = committed or version
        if self.head is None:
            raise SourceError("no object of the source could be embedded, and there is no table yet.")
        if tally.shards or committed is not None or plan.changes.left:
            self._write_rejects(tally, self.head)
        self.seconds["commit"] = time.time() - began
        return committed

    def _lacks_an_index(self) -> bool:
        """Whether the job declares a full-text or scalar index that the table does not have."""
        spec = self.plan.spec
        table = open_dataset(spec.table.lake, spec.table.name) if spec.column_indexes else None
        return table is not None and lacks(table, spec.column_indexes)

    def _index(self) -> None:
        """Build or extend the index of each column. Raises `GateRefused` where one finds too little."""
        began = time.time()
        self.phases.begin(INDEXING)
        spec = self.plan.spec
        table = open_dataset(spec.table.lake, spec.table.name)
        assert table is not None
        stored = columns_of(table.schema)
        known = known_indexes(spec.table.lake, spec.table.name, self.plan.base_version)
        for column in spec.columns:
            self.lease.check()
            asked, metric = spec.index_of(column), stored[column].metric
            queries = stored_queries_of(spec.table.lake, spec.table.name, column)
            building = Building(self.plan, asked.build, self.lease.check)
            built = build_index(table, column, metric, asked.type, known.get(column), asked.goal, queries, building)
            self.report["indexes"].append(asdict(replace(built, built=building.how)))
            self.head = int(table.version)
        for wanted in spec.column_indexes:
            self.lease.check()
            update_column_index(table, wanted)
            self.head = int(table.version)
        self.lease.check()
        keyed = open_for_look_ups(spec.table.lake.child(f"{spec.table.name}.lance"), int(table.version))
        update_key_indexes(keyed)
        self.head = int(keyed.version)
        self.seconds["index"] = time.time() - began
        recalls = {built["column"]: built["recall"] for built in self.report["indexes"]}
        measured_at = {built["column"]: built["measured_at"] for built in self.report["indexes"]}
        gates = self._ask_before_tag(recalls, measured_at)
        self.gates += gates
        check_gates(gates, f"Version {self.head} is not published.")

    def _ask_before_tag(self, recalls: Mapping[str, float | None], measured_at: Mapping[str, int | None]) -> list[Gate]:
        """The gates of exactly the version that is tagged next. Of a sample of the source only the index is judged."""
        spec, version = self.plan.spec, self.head
        assert version is not None
        least = spec.gates.min_recall
        if spec.limit is not None or not spec.gates.reads_version:
            return [] if least is None else recall_gates(least, recalls, version, measured_at)
        lake, name = spec.table.lake, spec.table.name
        # For the models of another job's version nobody vouches here but the table itself.
        subject = make_subject(lake, name, version, spec.publish.tag, spec.columns, models_of(spec), QueryModels({}))
        return gates_before_tag(spec.gates, subject, recalls, measured_at)

    def _tag(self) -> None:
        """Put the tag that readers follow on the version that was gated."""
        tag, spec = self.plan.spec.publish.tag, self.plan.spec
        self.phases.begin(PUBLISHING)
        self.report |= {"version": self.head, "tag": tag}
        if tag is None:
            return
        table = open_dataset(spec.table.lake, spec.table.name)
        assert table is not None and self.head is not None
        move_tag(self.lease, table, tag, self.head, f"run {self.plan.run_id}")

    def _write_rejects(self, tally: Tally, version: int | None) -> None:
        """Write the rejects of the run's shards beside the table; see `ledger.write_rejects`."""
        plan = self.plan
        rows = (
            [{**reject, "run_id": plan.run_id, "version": version} for reject in piece] for piece in tally.rejects()
        )
        settled = (read_work_ids(plan.place), read_ids(plan.place, GONE), read_ids(plan.place, LEFT))
        lake, name = plan.spec.table.lake, plan.spec.table.name
        deduplicated = plan.spec.deduplicate is not None
        write_rejects(lake, name, rows, settled if version is not None else (), plan.run_id, deduplicated)

    def finish(self, state: str, peak_mb: float, failure: BaseException | None = None) -> Report:
        """Complete the report, note the run in the ledger, and clear its folder of what nobody needs."""
        plan, spec = self.plan, self.plan.spec
        self.report |= {
            "run_id": plan.run_id,
            "state": state,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "phases": self.phases.seconds(self.first_read),
            "runner": str(plan.runner),
            **({} if plan.whole is None else {"whole": dict(zip(("objects", "bytes"), plan.whole, strict=True))}),
            "peak_memory_mb": round(peak_mb, 1),
            "gates": to_json(self.gates),
        }
        if failure is not None:
            self.report["error"] = describe(failure)
        listing = plan.listing
        if state == "unchanged" and not plan.shards and plan.base_run is not None:
            listing = plan.base_run.listing  # the same; the one that is there serves
        write_report(spec.table.lake.child(WORK_FOLDER, spec.table.name), self.report)
        record_run(
            spec.table.lake,
            {
                "run_id": plan.run_id,
                "table": spec.table.name,
                "job": spec.name,
                "state": state,
                "started_at": datetime.fromtimestamp(self.began, UTC),
                "base_version": plan.base_version,
                "version": self.report.get("version") if failure is None else plan.base_version,
                "listing": listing,
                "state_key": plan.state_key,
                "report": self.report,
                "head": self.head if state not in RESUMABLE else None,
                "tag": self.report.get("tag") if failure is None else None,
                "spec": SPEC.write(spec.to_json()),
            },
        )
        if listing != plan.listing:
            plan.place.remove()
        elif state not in RESUMABLE:
            clear_folder(plan.place)
        elif not plan.place.fs.exists(plan.place.path(MANIFEST)):
            plan.place.remove()  # it had not begun
        self.watched.ended(self.report)
        return self.report


def state_of(failure: BaseException) -> str:
    """How the ledger names the end of a run."""
    if isinstance(failure, GateRefused):
        return "refused"
    return "interrupted" if isinstance(failure, KeyboardInterrupt | SystemExit | BudgetSpent) else "failed"
