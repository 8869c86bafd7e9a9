"""Upkeep of a table: few large files, merged indexes, no old versions, no orphans. See ADR 4.

It holds the table's lease, so that it never meets a running job; readers keep what they have opened, or follow the tag.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import lance
from lance.commit import CommitConflictError

from latentlake.bridges.store import FOLDER as BRIDGES_FOLDER
from latentlake.evaluation.records import EVALS_TABLE
from latentlake.indexes import describe_indexes, merge_index
from latentlake.storage import Storage
from latentlake.tuning.queries import QUERIES_FOLDER
from operators.errors import AccountingError, NotFound, Unreadable, WriterConflict
from pipelines.flow.columns import read_merged
from pipelines.publish.commit import find_commit, named_files
from pipelines.publish.deduplicate import read_decision
from pipelines.publish.gates import Gate, to_json
from pipelines.publish.indexes import indexes_after
from pipelines.publish.stored_gates import stored_gates
from pipelines.publish.tag_gates import measure_recalls, recall_gates, tuned_at
from pipelines.publish.tags import TAGS_FOLDER, move_tag, settle_tags
from pipelines.publish.tally import readable_records
from pipelines.publish.tuned import check_tuned_columns
from pipelines.resume import cut_short, discard
from pipelines.state.forgotten import FORGOTTEN_FILE, PENDING_FILE
from pipelines.state.lease import LEASE_FOLDER, Lease, hold_table
from pipelines.state.ledger import (
    RUNS_TABLE,
    WORK_FOLDER,
    new_run_id,
    open_dataset,
    read_runs,
    record_run,
    rejects_name,
)
from pipelines.state.manifest import Manifest, settle_maintenance, unreadable_runs, write_manifest
from pipelines.state.reports import REPORTS_FOLDER

log = logging.getLogger(__name__)


FRAGMENT_ROWS = 1_000_000
KEEP_VERSIONS = timedelta(days=7)
KEEP_ORPHANS = timedelta(days=1)  # a writer that does not hold the lease may be about to commit them
SAME_ROWS = "the same rows in fewer files"
LANCE_GRACE = timedelta(days=7)  # older files that no version names are removed by Lance's clean-up, whoever wrote them


def maintain_table(
    lake: Storage,
    table: str,
    *,
    keep: timedelta = KEEP_VERSIONS,
    orphans: timedelta = KEEP_ORPHANS,
    wait: bool = False,
) -> dict[str, Any]:
    """Compact a table, merge its indexes, drop versions older than `keep` and orphans older than `orphans`; what was done.

    Tagged versions stay, and so does all that an interrupted run needs to resume. Raises `NotFound`, `WriterConflict`
    where another writer holds the table (unless it is to `wait`).
    """
    folder = lake.child(WORK_FOLDER, table)
    began = time.time()
    if open_dataset(lake, table) is None:
        raise NotFound(f"no table '{table}' in lake '{lake.uri}'.")
    with hold_table(folder, "maintain", wait) as lease:
        before = open_newest(lake, table)
        settle_tags(lease, before)
        settle_maintenance(lake, table, before.version)
        resumable = []
        for run_id, why in unreadable_runs(lake, table).items():
            log.warning("run %s is not resumable, and its folder is removed: %s", run_id, why)
        for manifest, obstacle in cut_short(lake, table, before):
            if obstacle is None:
                resumable.append(manifest)
            else:
                discard(lake, manifest, obstacle)
        report = {"table": table, "version_before": before.version, "fragments_before": len(before.get_fragments())}
        report["index_segments_before"] = count_segments(before)
        after = compact(lake, table, resumable, lease)
        report |= {"version": after.version, "fragments": len(after.get_fragments()), "rows": after.count_rows()}
        report["index_segments"] = count_segments(after)
        report["recall"] = measure_recalls(after)
        gates, held = gate_again(
            lake, table, int(before.version), report["recall"], int(after.version), tuned_at(after)
        )
        report["gates"] = to_json(gates)
        report["tags_moved"] = (
            move_tags(lease, after, before.version, SAME_ROWS) if held and after.version != before.version else []
        )
        known = indexes_after(lake, table, before, after, report["recall"] if held else {})
        report["indexes"] = [asdict(index) for index in known.values()]
        if after.version != before.version:
            note_maintenance(lake, table, before.version, after, report, began)
        report["versions_removed"] = retire_versions(after, keep, resumable)
        report["orphans_removed"] = remove_orphans(lake, table, orphans, resumable)
        report["folders_removed"] = remove_folders(lake, table, resumable)
        for name in (RUNS_TABLE, EVALS_TABLE, rejects_name(table)):
            tidy(lake, name, keep)
    return {**report, "seconds": round(time.time() - began, 3)}


def compact(lake: Storage, table: str, resumable: Iterable[Manifest], lease: Lease) -> lance.LanceDataset:
    """Put small files together, merge the segments of each index, and check those that are tuned; the version that has it all.

    Rows stay as they are.
    """
    dataset = open_newest(lake, table)
    rows, version = dataset.count_rows(), dataset.version
    waiting = [manifest for manifest in resumable if manifest.version == version]
    for manifest in waiting:
        write_manifest(lake, manifest.under_maintenance())
    try:
        # Indexes first, because Lance puts no fragments together that different segments cover.
        for info in describe_indexes(dataset):
            lease.check()
            merge_index(dataset, info)
        lease.check()
        dataset.optimize.compact_files(target_rows_per_fragment=FRAGMENT_ROWS)
        dataset = open_newest(lake, table)
        check_tuned_columns(lake, table, dataset)
        if dataset.count_rows() != rows:
            raise AccountingError(f"table '{table}' had {rows} rows and has {dataset.count_rows()}. No tag was moved.")
    except BaseException as failure:
        for (
            manifest
        ) in waiting:  # another writer may have changed the rows: they are checked again before they are resumed
            write_manifest(lake, manifest)
        if isinstance(failure, OSError) and "conflict" in str(failure):
            raise WriterConflict(
                f"table '{table}' was changed by another writer during its upkeep. No tag was moved.\n  Run it again."
            ) from failure
        raise
    settle_maintenance(lake, table, dataset.version)
    return dataset


def gate_again(
    lake: Storage, table: str, before: int, recalls: Mapping[str, float], version: int, measured_at: Mapping[str, int]
) -> tuple[list[Gate], bool]:
    """The gate that merging indexes may fail, `min_recall`, and whether tags may move: not where the job's gates are unknown.

    Rows and vectors are those of the version `before`, so that every other gate would find what it found of that.
    `measured_at` names the earlier versions that recalls are of.
    """
    try:
        least = stored_gates(lake, table, before).gates.min_recall
    except Unreadable as failure:
        log.warning("no tag is moved, because the job's gates are unknown: %s", failure)
        return [], False
    gates = [] if least is None else recall_gates(least, recalls, version, measured_at)
    for gate in gates:
        if not gate.held:
            log.warning("no tag is moved: %s%s", gate.why, gate.asks)
    return gates, all(gate.held for gate in gates)


def move_tags(lease: Lease, dataset: lance.LanceDataset, before: int, why: str) -> list[str]:
    """Move the tags of the version before upkeep to the one after it."""
    moved = [tag for tag, found in dataset.tags.list().items() if found["version"] == before]
    for tag in moved:
        move_tag(lease, dataset, tag, int(dataset.version), why)
    return moved


def note_maintenance(
    lake: Storage,
    table: str,
    before: int,
    dataset: lance.LanceDataset,
    report: dict[str, Any],
    began: float,
    state: str = "maintained",
) -> None:
    """Write a line of the ledger, so that the next run finds the listing that the new version's rows come from.

    A version that was published counts as published still, also where readers were taken back from it, unless its tag had to
    stay behind: then the next run gates the new one.
    """
    behind = {tag for tag, found in dataset.tags.list().items() if found["version"] == before}
    known = next(
        (line for line in read_runs(lake, table, f"head = {before}") if line["listing"]),
        {"job": "maintain", "listing": None, "state_key": None, "tag": None, "spec": None},
    )
    record_run(
        lake,
        {
            **{name: known[name] for name in ("job", "listing", "state_key", "spec")},
            "run_id": new_run_id(),
            "table": table,
            "state": state,
            "started_at": datetime.fromtimestamp(began, UTC),
            "base_version": before,
            "version": int(dataset.version),
            "report": report,
            "head": int(dataset.version),
            "tag": None if known["tag"] in behind else known["tag"],
        },
    )


def retire_versions(dataset: lance.LanceDataset, keep: timedelta, resumable: list[Manifest]) -> int:
    """Remove versions older than `keep` that no tag marks; how many.

    None, while a run can be resumed that committed one of them already, or whose files are so old that Lance would take
    them for orphans.
    """
    oldest = min((manifest.started_at for manifest in resumable), default=time.time())
    too_old = time.time() - oldest > (LANCE_GRACE - timedelta(days=1)).total_seconds()
    if too_old or any(find_commit(dataset, found.run_id, found.base_version or 0) is not None for found in resumable):
        log.warning(
            "no version is removed: run %s can be resumed. Finish it, or run its job with --fresh",
            resumable[-1].run_id,
        )
        return 0
    removed = dataset.cleanup_old_versions(older_than=keep, error_if_tagged_old_versions=False)
    return int(removed.old_versions)


def remove_orphans(lake: Storage, table: str, older_than: timedelta, resumable: Iterable[Manifest]) -> int:
    """Remove data files that no version and no resumable run names, once they are `older_than`; how many."""
    data = lake.child(f"{table}.lance", "data")
    limit = datetime.now(UTC) - older_than
    old = {name for name, written in data.list_times() if written <= limit}
    if not old:
        return 0
    newest = open_newest(lake, table)
    for number in [version["version"] for version in newest.versions()]:
        for fragment in newest.checkout_version(number).get_fragments():
            old -= {file.path for file in fragment.metadata.files}
    for manifest in resumable:
        place = manifest.place(lake)
        written = (text for record in readable_records(place) for text in record["fragments"])
        decision = read_decision(place)
        old -= named_files(chain(written, (record["fragment"] for record in read_merged(place))))
        old -= set() if decision is None else named_files(decision["fragments"])
    for name in old:
        data.remove(name)
    return len(old)


def remove_folders(lake: Storage, table: str, resumable: Iterable[Manifest]) -> int:
    """Remove folders of runs that no run will look into again; how many."""
    versions = {version["version"] for version in open_newest(lake, table).versions()}
    kept = {
        BRIDGES_FOLDER,
        LEASE_FOLDER,
        REPORTS_FOLDER,
        TAGS_FOLDER,
        QUERIES_FOLDER,
        FORGOTTEN_FILE,
        PENDING_FILE,
        *(manifest.run_id for manifest in resumable),
    }
    for line in read_runs(lake, table):
        if line["listing"] and (line["head"] in versions or line["version"] in versions):
            kept.add(line["listing"].partition("/")[0])
    folder = lake.child(WORK_FOLDER, table)
    gone = [name for name in folder.list_names() if name not in kept]
    for name in gone:
        folder.remove(name)
    return len(gone)


def tidy(lake: Storage, name: str, keep: timedelta) -> None:
    """Compact one of our own tables next to the user's, and remove its old versions."""
    dataset = open_dataset(lake, name)
    if dataset is None:
        return
    try:
        dataset.optimize.compact_files()
    except (CommitConflictError, OSError) as failure:  # a run of another table wrote its line: the next upkeep does it
        log.info("%s is not compacted this time: %s", name, failure)
    open_newest(lake, name).cleanup_old_versions(older_than=keep, error_if_tagged_old_versions=False)


def count_segments(dataset: lance.LanceDataset) -> int:
    """Segments of all vector indexes: what a search has to visit."""
    return sum(info.segments for info in describe_indexes(dataset) if info.metric)


def open_newest(lake: Storage, table: str) -> lance.LanceDataset:
    """A table that is known to be there, at its newest version."""
    dataset = open_dataset(lake, table)
    assert dataset is not None
    return dataset
