"""Deleting objects for good: from rows, rejects and records, and from every version that still holds them.

The table is held, so no run is under way. The steps can be repeated: after a crash, the next call finishes them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterable, Iterator
from datetime import timedelta
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lance import LanceDataset, LanceOperation, Transaction
from lance.file import LanceFileReader
from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from latentlake.filters import check_filter, explain_filter
from latentlake.formats import StoredFormat
from latentlake.indexes import choose_index, count_vectors, describe_indexes
from latentlake.keys import LOOK_UP_BLOCK, index_config
from latentlake.provenance import columns_of
from latentlake.recall import measure_recall
from latentlake.storage import Storage
from latentlake.tuning.settings import read_settings
from latentlake.tuning.tune import tune_index
from latentlake.tuning.upkeep import goal_of
from operators.errors import AccountingError, NotFound, SpecError, Unreadable
from pipelines.planning.listing import part_names, read_parquet
from pipelines.publish import deletion
from pipelines.publish.gates import Gate, to_json
from pipelines.publish.stored_gates import stored_gates
from pipelines.publish.tag_gates import row_gate
from pipelines.publish.tags import settle_tags
from pipelines.publish.tuned import stored_queries_of
from pipelines.resume import cut_short, discard
from pipelines.state.forgotten import FORGOTTEN, PENDING_FILE, Forgotten, read_forgotten, write_forgotten
from pipelines.state.lease import Lease, hold_table
from pipelines.state.ledger import (
    WORK_FOLDER,
    new_run_id,
    open_dataset,
    rejects_name,
)
from pipelines.state.manifest import unreadable_runs
from pipelines.upkeep.maintain import FRAGMENT_ROWS, move_tags, note_maintenance, open_newest, remove_folders
from pipelines.upkeep.traces import clean_ledger, delete_evaluations, delete_rejects, evaluations_with

log = logging.getLogger(__name__)

WITHOUT = "the same rows without deleted objects"


class Shape(TypedDict):
    """The file of a deletion under way."""

    ids: list[str]
    before: int  # the table's version that the deletion began with


PENDING, PENDING_SHAPE = StoredFormat("the deletion under way"), TypeAdapter(Shape)


def delete_objects(
    lake: Storage, table: str, ids: Iterable[str] = (), where: str | None = None, wait: bool = False
) -> dict[str, Any]:
    """Delete objects, by id or with a row for which the SQL filter `where` holds, so that no file of the lake holds them.

    Deletes their rows, vectors, rejects and entries in listings in one new version, moves the tags of the newest version
    to it, removes all older versions that no tag marks, and remembers the objects, so that no run reads them again
    (`allow_again` lifts that). Unfinished runs are discarded. Returns what was done, with a proof.

    Raises `SpecError` for a bad filter or where another tag marks a version that holds them, `NotFound`, `WriterConflict`.
    """
    folder, began = lake.child(WORK_FOLDER, table), time.time()
    with hold_table(folder, "delete", wait) as lease:
        dataset = open_dataset(lake, table, block_size=LOOK_UP_BLOCK)
        if dataset is None:
            raise NotFound(f"no table '{table}' in lake '{lake.uri}'.")
        settle_tags(lease, dataset)
        pending = read_pending(folder)
        wanted = {*ids, *(pending["ids"] if pending else ()), *(objects_where(dataset, where) if where else ())}
        if not wanted:
            return {"table": table, "objects": 0, "version": int(dataset.version)}
        before = pending["before"] if pending else int(dataset.version)
        names = pa.array(sorted(wanted), pa.string())
        check_tags(lake, table, dataset, before, names)
        folder.put(PENDING_FILE, PENDING.write({"ids": names.to_pylist(), "before": before}).encode())
        forgotten = read_forgotten(folder).with_objects(wanted)
        write_forgotten(folder, forgotten)
        discard_runs(lake, table, dataset)
        report: dict[str, Any] = {"table": table, "objects": len(wanted), "version_before": before}
        report["rows_deleted"] = delete_rows(dataset, names, lease)
        report["indexes_rebuilt"] = rewrite(lake, table, open_newest(lake, table), lease)
        after = open_newest(lake, table)
        report |= {"version": int(after.version), "rows": after.count_rows()}
        report["gates"] = to_json(ask_rows(lake, table, after))
        report["tags_moved"] = move_tags(lease, after, before, WITHOUT) if after.version != before else []
        if after.version != before:
            note_maintenance(lake, table, before, after, report, began, "deleted")
        report["rejects_deleted"] = delete_rejects(lake, table, wanted)
        report["listing_entries_masked"] = mask_listings(folder, forgotten)
        report["run_reports_changed"] = clean_ledger(lake, table, wanted)
        report["evaluations_deleted"] = delete_evaluations(lake, table, wanted)
        done = after.cleanup_old_versions(
            older_than=timedelta(0), delete_unverified=True, error_if_tagged_old_versions=False
        )
        remove_folders(lake, table, [])
        report |= {"versions_removed": int(done.old_versions), "data_files_removed": int(done.data_files_removed)}
        report["proof"] = prove(lake, table, names)
        folder.remove(PENDING_FILE)
    return {**report, "seconds": round(time.time() - began, 3)}


def allow_again(lake: Storage, table: str, ids: Iterable[str], wait: bool = False) -> int:
    """Let the next run read deleted objects again; how many were deleted. Raises `WriterConflict`."""
    folder = lake.child(WORK_FOLDER, table)
    with hold_table(folder, "delete", wait):
        known = read_forgotten(folder)
        kept = known.without_objects(ids)
        freed = known.hashes - kept.hashes
        write_forgotten(folder, kept)
        for place in listings(folder):
            files: set[str | None] = set()
            for name in part_names(place):
                files.update(row["uri"] for row in read_parquet(place, name).to_pylist() if is_masked(row, freed))
            for name in part_names(place) if files else ():
                rewrite_part(place, name, lambda rows, files=files: unlist(rows, freed, files))
    return len(freed)


def read_pending(folder: Storage) -> Shape | None:
    """The deletion that a crash has cut short; None where there is none."""
    try:
        text = folder.fs.cat_file(folder.path(PENDING_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return PENDING.check(PENDING_SHAPE, PENDING.read(text))


def objects_where(dataset: LanceDataset, where: str) -> set[str]:
    """Ids of the objects with a row for which a SQL filter holds. Raises `SpecError`."""
    check_filter(dataset, where)
    with explain_filter(where):
        batches = dataset.scanner(columns=["object_id"], filter=where).to_batches()
        return {name for batch in batches for name in batch["object_id"].to_pylist()}


def check_tags(lake: Storage, table: str, newest: LanceDataset, before: int, ids: pa.Array) -> None:
    """Raise `SpecError`, with their names, where tags mark versions that hold the objects and are not the newest."""
    tags = {tag: int(found["version"]) for tag, found in newest.tags.list().items()}
    others = {tag: version for tag, version in tags.items() if version not in (before, int(newest.version))}
    blocking = [t for t, version in others.items() if files_with(lake, table, [newest.checkout_version(version)], ids)]
    if blocking:
        told = ", ".join(f"'{tag}' (version {others[tag]})" for tag in sorted(blocking))
        raise SpecError(
            f"tags mark older versions of table '{table}' that hold these objects: {told}. Nothing was deleted.\n"
            "  Let a run move the tag to the newest version, or remove it: lake.open(TABLE).to_lance().tags.delete(TAG)."
        )


def files_with(lake: Storage, table: str, versions: Iterable[LanceDataset], ids: pa.Array) -> set[str]:
    """Data files of versions in which the id of one of the objects stands, also in a row that is marked as deleted."""
    data, seen, holding = lake.child(f"{table}.lance", "data"), set[str](), set[str]()
    for dataset in versions:
        field = next(found.id() for found in dataset.lance_schema.fields() if found.name() == "object_id")
        for fragment in dataset.get_fragments():
            for file in fragment.metadata.files:
                if field not in file.fields or file.path in seen:
                    continue
                seen.add(file.path)
                reader = LanceFileReader(f"{data.lance_uri}/{file.path}", columns=["object_id"], **data.lance_arguments)
                if any(pc.any(pc.is_in(b["object_id"], ids)).as_py() for b in reader.read_all().to_batches()):
                    holding.add(file.path)
    return holding


def discard_runs(lake: Storage, table: str, dataset: LanceDataset) -> None:
    """Give up the runs that could be resumed: what they have written may hold the objects."""
    for manifest, obstacle in list(cut_short(lake, table, dataset)):
        discard(lake, manifest, obstacle or "objects are deleted that it may hold")
    for run_id in unreadable_runs(lake, table):
        lake.child(WORK_FOLDER, table).remove(run_id)


def delete_rows(dataset: LanceDataset, ids: pa.Array, lease: Lease) -> int:
    """Commit a version without the rows of the objects; how many they were.

    Not by Lance's own `delete`, which keeps its condition in the transaction, with the ids.
    """
    found = deletion.delete_objects(dataset, [pa.table({"object_id": ids})], len(ids))
    if not found.rows:
        return 0
    operation = LanceOperation.Update(
        removed_fragment_ids=found.removed,
        updated_fragments=found.updated,
        new_fragments=[],
        fields_modified=[],
        update_mode="",
    )
    rows = dataset.count_rows()
    lease.check()
    properties = {"run_id": new_run_id(), "fence": str(lease.fence)}
    done = LanceDataset.commit(
        dataset, Transaction(dataset.version, operation, transaction_properties=properties), max_retries=0
    )
    if done.count_rows() != rows - found.rows:
        raise AccountingError(
            f"version {done.version} holds {done.count_rows()} rows, {rows - found.rows} are accounted for. No tag was moved."
        )
    return found.rows


def rewrite(lake: Storage, table: str, dataset: LanceDataset, lease: Lease) -> list[str]:
    """Write the fragments with deleted rows again without them, and the indexes that hold such rows; the columns of these."""
    lease.check()
    dataset.optimize.compact_files(
        target_rows_per_fragment=FRAGMENT_ROWS, materialize_deletions=True, materialize_deletions_threshold=0.0
    )
    dataset = open_newest(lake, table)
    there = {fragment.fragment_id for fragment in dataset.get_fragments()}
    # A fragment that vanished as a whole was not written again, so that an index still holds its rows.
    stale = {
        found.name
        for found in dataset.describe_indices()
        if any(set(segment.fragment_ids) - there for segment in found.segments)
    }
    stored = columns_of(dataset.schema)
    rebuilt = []
    for info in describe_indexes(dataset):
        if info.name not in stale:
            continue
        lease.check()
        rebuilt.append(info.column)
        if info.metric is None:
            kind = index_config(dataset.count_rows()) if info.type == "btree" else info.type.upper()
            dataset.create_scalar_index(info.column, kind, name=info.name, replace=True)
            continue
        if (settings := read_settings(dataset.schema, info.column)) is not None:
            queries = stored_queries_of(lake, table, info.column)(dataset)
            rows = count_vectors(dataset, info.column)
            tune_index(dataset, info.column, stored[info.column].metric, rows, "auto", goal_of(settings), queries)
            continue
        dimension = dataset.schema.field(info.column).type.list_size
        choice = choose_index(info.rows_indexed + info.rows_unindexed, dimension, info.metric, info.type)  # type: ignore[arg-type]
        if choice is None:
            dataset.drop_index(info.name)
            continue
        dataset.create_index(info.column, name=info.name, replace=True, **choice)
        least = least_recall(lake, table)
        recall = measure_recall(dataset, info.column, stored[info.column].metric) if least is not None else 1.0
        if least is not None and recall < least:
            log.warning("the new index of '%s' finds %.3f of the nearest: it is searched exactly", info.column, recall)
            dataset.drop_index(info.name)
    return rebuilt


def least_recall(lake: Storage, table: str) -> float | None:
    """`gates.min_recall` of the table's job; where its gates are unknown, more than an index can have. None: it asks for none."""
    try:
        return stored_gates(lake, table).gates.min_recall
    except Unreadable as failure:
        log.warning("the job's gates are unknown: %s", failure)
        return math.inf


def ask_rows(lake: Storage, table: str, dataset: LanceDataset) -> list[Gate]:
    """`min_rows` of what a deletion leaves. It is told, and holds nothing up: what must be deleted is deleted."""
    try:
        least = stored_gates(lake, table).gates.min_rows
    except Unreadable:
        return []
    gates = [] if least is None else [row_gate(least, dataset.count_rows(), int(dataset.version))]
    for gate in gates:
        if not gate.held:
            log.warning("%s%s", gate.why, gate.asks)
    return gates


def listings(folder: Storage) -> Iterator[Storage]:
    """The listings that a table's folder of work holds."""
    for name in folder.list_names():
        if part_names(place := folder.child(name, "listing")):
            yield place


def mask_listings(folder: Storage, forgotten: Forgotten) -> int:
    """Mask the entries of deleted objects in all listings; how many."""
    masked = 0
    for place in listings(folder):
        for name in part_names(place):
            masked += rewrite_part(place, name, lambda rows: forget_rows(rows, forgotten))
    return masked


def forget_rows(rows: list[dict[str, Any]], forgotten: Forgotten) -> int:
    """Mask the entries of deleted objects among the rows of a listing; how many."""
    found = 0
    for row in rows:
        if row["error"] != FORGOTTEN and (name := forgotten.hash_of(row["object_id"])) in forgotten.hashes:
            own = row["position"] is None
            row |= {"object_id": name, "error": FORGOTTEN}
            row |= {"uri": None, "version": None, "size": None} if own else {}
            found += 1
    return found


def unlist(rows: list[dict[str, Any]], hashes: Collection[str], files: Collection[str | None]) -> int:
    """Take masked entries out, and let the next run look at their `files` again; how many rows that changed."""
    changed = 0
    for row in rows:
        if row["uri"] in files:
            row["version"] = None
            changed += 1
    rows[:] = [row for row in rows if not is_masked(row, hashes)]
    return changed


def is_masked(row: dict[str, Any], hashes: Collection[str]) -> bool:
    """Whether a row of a listing is the masked entry of one of these objects."""
    return row["error"] == FORGOTTEN and row["object_id"] in hashes


def rewrite_part(place: Storage, name: str, change: Any) -> int:
    """Change the rows of one part of a listing in place; what `change` says, and 0 leaves the part as it is."""
    table = read_parquet(place, name)
    rows = table.to_pylist()
    changed = int(change(rows))
    if changed:
        file = BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
        place.put(name, file.getvalue())
    return changed


def prove(lake: Storage, table: str, ids: pa.Array) -> dict[str, Any]:
    """Look for the objects in all that is left. Raises `AccountingError` where one is found."""
    newest = open_newest(lake, table)
    versions = [newest.checkout_version(int(found["version"])) for found in newest.versions()]
    known = {f.path for version in versions for fragment in version.get_fragments() for f in fragment.metadata.files}
    unknown = set(lake.child(f"{table}.lance", "data").list_names()) - known
    holding = files_with(lake, table, versions, ids)
    rejects = open_dataset(lake, rejects_name(table))
    batches = () if rejects is None else rejects.scanner(columns=["object_id"]).to_batches()
    rejected = sum(int(pc.sum(pc.is_in(batch["object_id"], ids)).as_py() or 0) for batch in batches)
    listed = sum(
        int(pc.sum(pc.is_in(read_parquet(place, name)["object_id"], ids)).as_py() or 0)
        for place in listings(lake.child(WORK_FOLDER, table))
        for name in part_names(place)
    )
    evaluated = len(evaluations_with(lake, table, set(ids.to_pylist())))
    found = {
        "versions": [int(version.version) for version in versions],
        "data_files": len(known),
        "data_files_with_these_objects": len(holding),
        "data_files_of_no_version": len(unknown),
        "rejects_of_these_objects": rejected,
        "listing_entries_of_these_objects": listed,
        "evaluations_of_these_objects": evaluated,
    }
    if holding or unknown or rejected or listed or evaluated:
        raise AccountingError(f"the objects are not gone: {found}.\n  Run the command again: it takes up the deletion.")
    return found
