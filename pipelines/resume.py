"""Interrupted runs: which of them a job resumes, and which are discarded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from clusters import ClusterProfile
from latentlake.storage import Storage
from pipelines.flow.columns import MERGED_FOLDER, PATCHES_FOLDER
from pipelines.job.spec import JobSpec
from pipelines.planning.budget import STOP
from pipelines.planning.choice import RunnerName
from pipelines.planning.plan import Plan, make_plan, resume_key, resume_plan
from pipelines.planning.work import GONE, LEFT, WORK
from pipelines.progress import Phases
from pipelines.state.journal import ATTEMPTS_FOLDER
from pipelines.state.ledger import open_dataset, read_runs, record_run
from pipelines.state.manifest import (
    DECISION,
    DUPLICATES,
    MANIFEST,
    RESUMABLE,
    SHARDS_FOLDER,
    Manifest,
    Retry,
    settle_maintenance,
    unfinished_runs,
    unreadable_runs,
)
from pipelines.state.tag_history import read_tag_history, tags_of, taken_back

log = logging.getLogger(__name__)


def plan_run(
    spec: JobSpec,
    profile: ClusterProfile,
    fresh: bool = False,
    retry: Retry | None = None,
    runner: RunnerName = "auto",
    phases: Phases | None = None,
) -> Plan:
    """The plan of an interrupted run of this job, or else a new one. The table must be held.

    Runs that cannot be resumed, because the table has changed since, are discarded.
    """
    lake, name = spec.table.lake, spec.table.name
    key = resume_key(spec, retry)
    table = open_dataset(lake, name)
    if table is not None:
        settle_maintenance(lake, name, table.version)
    for run_id, why in unreadable_runs(lake, name).items():
        log.warning("run %s is not resumable: %s What it had finished is done again", run_id, why)
    for manifest, obstacle in cut_short(lake, name, table):
        if manifest.resume_key != key and manifest.is_of_this_release:
            continue  # another job's
        if obstacle is None and not fresh:
            log.warning("resuming run %s", manifest.run_id)
            return resume_plan(spec, profile, manifest, runner)
        discard(lake, manifest, obstacle or "a new one was asked for")
    return make_plan(spec, profile, retry=retry, runner=runner, phases=phases)


def cut_short(lake: Storage, name: str, table: Any) -> Iterator[tuple[Manifest, str | None]]:
    """Interrupted runs of a table, newest first, each with what keeps it from being resumed; None: nothing.

    The table must be held. A run that had ended, and died as it cleared its folder, is none of them: the rest is cleared.
    """
    for manifest in unfinished_runs(lake, name):
        lines = read_runs(lake, name, f"run_id = '{manifest.run_id}'")
        if lines and lines[0]["state"] not in RESUMABLE:
            clear_folder(manifest.place(lake))
        elif not manifest.is_of_this_release:
            yield manifest, "it was started by a release that hashes objects differently"
        elif not can_resume(manifest, table) or overtaken(manifest, lake, table):
            yield manifest, "the table has changed since"
        elif table is not None and manifest.base_version in taken_back(read_tag_history(lake, name, tags_of(table))):
            yield manifest, "readers were taken back from the version that it builds on"
        else:
            yield manifest, None


def can_resume(manifest: Manifest, table: Any) -> bool:
    """Whether a run's finished shards still fit the table: it committed them already, or nobody changed the table since."""
    from pipelines.publish.commit import find_commit

    version = None if table is None else table.version
    return manifest.version == version or find_commit(table, manifest.run_id, manifest.base_version or 0) is not None


def overtaken(manifest: Manifest, lake: Storage, table: Any) -> bool:
    """Whether a run's commit was published, or taken back from readers, by another one since: it has nothing left to do."""
    from pipelines.publish.commit import find_commit

    if find_commit(table, manifest.run_id, manifest.base_version or 0) is None:
        return False
    lines = read_runs(lake, manifest.table, f"tag IS NOT NULL AND run_id <> '{manifest.run_id}'")
    return any(line["finished_at"].timestamp() > manifest.started_at for line in lines)


def discard(lake: Storage, manifest: Manifest, why: str) -> None:
    """Give up a run that was cut short. Its fragments are orphans, which `maintain` removes."""
    log.warning(
        "run %s of job '%s' is discarded: %s. What it had finished is done again", manifest.run_id, manifest.job, why
    )
    record_run(
        lake,
        {
            **{name: getattr(manifest, name) for name in ("run_id", "table", "job", "base_version", "state_key")},
            "state": "discarded",
            "started_at": datetime.fromtimestamp(manifest.started_at, UTC),
            "version": manifest.base_version,
            "report": {},
        },
    )
    manifest.place(lake).remove()


def clear_folder(place: Storage) -> None:
    """Take away what only an unfinished run needs; the manifest last, so that what is cut short here is done again."""
    for name in (STOP, WORK, SHARDS_FOLDER, ATTEMPTS_FOLDER, PATCHES_FOLDER, MERGED_FOLDER, GONE, LEFT):
        place.remove(name)
    for name in (DECISION, DUPLICATES, MANIFEST):
        place.remove(name)
