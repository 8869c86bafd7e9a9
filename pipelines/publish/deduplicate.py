"""Semantic deduplication: of the rows that a run has written, those that are nearly equal to a row that stays are dropped.

It comes between the last shard and the commit. Fragments that hold dropped rows are written again without them; they are
in no version yet. What was decided is noted in the run's folder, so that a run that is resumed does not decide again.
See docs/job.md.
"""

from __future__ import annotations

import errno
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from latentlake.exploration.points import unit
from latentlake.formats import StoredFormat
from latentlake.indexes import has_vector
from latentlake.keys import take_rows
from latentlake.storage import Storage
from latentlake.table import DUPLICATE_FIELDS
from latentlake.vectors import READ_AHEAD_BATCHES, READ_AHEAD_BYTES, array_of
from operators.embedders.base import short_hash
from operators.errors import LatentLakeError, Unreadable
from pipelines.flow.columns import PATCHES_FOLDER, ROW_ID
from pipelines.flow.counts import Counts
from pipelines.job.spec import DeduplicateSpec
from pipelines.planning.plan import Plan
from pipelines.publish.commit import data_files, named_files, replaced_keys
from pipelines.publish.near_rows import Dropped, NearRows
from pipelines.publish.tally import PIECE, Tally
from pipelines.publish.written_rows import BATCH_ROWS, KEYS, drop_rows, read_fragment
from pipelines.state.ledger import open_dataset
from pipelines.state.manifest import DECISION, DUPLICATES

log = logging.getLogger(__name__)

STAGE = "deduplicate"  # of the rejects
NAMES = ["id", "object_id"]


class Decision(TypedDict):
    """What was decided about the rows of a run; the rows themselves are in `DUPLICATES`."""

    of: str  # hash of the fragments that were looked at
    fragments: list[str]  # in their place, without the dropped rows
    dropped: int  # rows
    truncated: dict[str, int]  # of these, those with more text than the model takes, by vector column
    filtered: dict[str, dict[str, int]]  # by vector column, how many objects of an outcome lost all of their rows
    objects: int  # that lost all of their rows
    clusters: int
    rows: int  # new ones with a vector


FORMAT = StoredFormat("the note on duplicates")
SHAPE = TypeAdapter(Decision)


def deduplicate(plan: Plan, version: int | None, tally: Tally, totals: Mapping[str, Counts]) -> dict[str, Counts]:
    """Drop duplicates among the rows that the run has written, in `tally`; the accounting without them.

    Rows of the table at `version` that the run does not replace stay. Raises `LatentLakeError` where local disk is full.
    """
    asked = plan.spec.deduplicate
    if asked is None or not tally.fragments:
        return dict(totals)
    decision = read_decision(plan.place)
    if decision is None or not is_of(decision, plan, tally):
        decision = decide(plan, asked, version, tally)
    tally.drop(decision["fragments"], decision["dropped"], decision["truncated"], rejects_of(plan.place))
    tally.deduplicated = {
        **asked.model_dump(mode="json", exclude={"clusters"}),
        "clusters": decision["clusters"],
        "rows": decision["rows"],
        "rows_dropped": decision["dropped"],
        "objects_filtered": decision["objects"],
    }
    changed = {}
    for column, total in totals.items():
        moved = decision["filtered"][column]
        tally.embedded_dropped[column] = moved.get("embedded", 0)
        less = {name: -number for name, number in moved.items()}
        changed[column] = (total + Counts(filtered=sum(moved.values()), **less)).check(f"column '{column}'")
    return changed


def read_decision(place: Storage) -> Decision | None:
    """What the run of a folder decided before it was cut short; None where it did not, or it cannot be read."""
    if not place.fs.exists(place.path(DECISION)):
        return None
    try:
        return FORMAT.check(SHAPE, FORMAT.read(place.fs.cat_file(place.path(DECISION))))
    except Unreadable as failure:
        log.warning("%s It is decided again", failure)
        return None


def is_of(decision: Decision, plan: Plan, tally: Tally) -> bool:
    """Whether a decision is about the run's fragments as they are now, and its own files are there."""
    lake, name = plan.spec.table.lake, plan.spec.table.name
    there = decision["of"] == short_hash(tally.fragments)
    return there and not named_files(decision["fragments"]) - data_files(lake, name)


def decide(plan: Plan, asked: DeduplicateSpec, version: int | None, tally: Tally) -> Decision:
    """Find the duplicates, write the fragments again that hold some, and note all of it in the run's folder."""
    lake, name = plan.spec.table.lake, plan.spec.table.name
    table = None if plan.replaces_all or version is None else open_dataset(lake, name, version)
    with tempfile.TemporaryDirectory(prefix="ll-vectors-") as folder:
        numbers, points = copy_vectors(plan, asked.column, tally.fragments, Path(folder) / "vectors")
        others = 0 if table is None else tally.patched if asked.column in plan.patched else table.count_rows()
        near = NearRows(points, others, asked.threshold, asked.keep, asked.clusters)
        for vectors, names in staying_rows(plan, asked.column, table, tally) if len(points) else ():
            near.show(vectors, names)
        found = near.decide()
    kept = np.where(found.is_new, numbers[np.where(found.is_new, found.kept, 0)], found.kept)
    found = replace(found, rows=numbers[found.rows], kept=kept)
    written = drop_rows(plan, found.rows, found.kept[found.is_new])
    with plan.place.fs.open(plan.place.path(DUPLICATES), "wb") as file:
        pq.write_table(describe(found, written.keys, table), file)
    decision = Decision(
        of=short_hash(tally.fragments),
        fragments=written.fragments,
        dropped=len(found.rows),
        truncated=written.truncated,
        filtered=written.filtered,
        objects=written.objects,
        clusters=near.clusters,
        rows=len(numbers),
    )
    plan.place.put(DECISION, FORMAT.write(dict(decision)).encode())
    log.info("%d of %d rows duplicate others by '%s'", len(found.rows), len(numbers), asked.column)
    return decision


def copy_vectors(plan: Plan, column: str, fragments: Sequence[str], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The new rows that have a vector: numbers, int64 (n,), and vectors at length 1, float32 (n, dim), in a local file.

    Rows are numbered through the fragments. The file is mapped, so that memory holds what is looked at.
    """
    numbers, start = [np.zeros(0, np.int64)], 0
    try:
        with path.open("wb") as file:
            for text in fragments:
                for batch in read_fragment(plan, text, [column]):
                    present = batch[column].is_valid()
                    numbers.append(start + np.flatnonzero(present.to_numpy(zero_copy_only=False)))
                    file.write(vectors_of(batch[column].filter(present)).tobytes())
                    start += batch.num_rows
    except OSError as failure:
        if failure.errno != errno.ENOSPC:
            raise
        raise LatentLakeError(
            f"the vectors of the run's rows do not fit into '{path.parent.parent}', where they are compared.\n"
            "  Set TMPDIR to a place with more room. Finished shards are kept: run the job again."
        ) from failure
    every, dimension = np.concatenate(numbers), plan.schema.field(column).type.list_size
    shape = (len(every), dimension)
    return every, np.memmap(path, np.float32, "r", shape=shape) if len(every) else np.zeros(shape, np.float32)


def vectors_of(column: pa.Array) -> np.ndarray:
    """Vectors at length 1, float32 (n, dim), of a column of which none is null."""
    return unit(array_of(column, True).astype(np.float32))


def staying_rows(plan: Plan, column: str, table: Any, tally: Tally) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Vectors at length 1, and row ids, of the rows of the table that the run leaves there, in batches.

    Where the run adds the column, their vectors are in its patches. The objects that leave the table are told by hashes of
    8 bytes: if another object had the same hash, which is to be expected in less than one of 100,000 runs over 10^7 objects,
    its rows would not be compared.
    """
    if table is None:
        return
    if column in plan.patched:
        for name in sorted({name for names in tally.patches.values() for name in names}):
            for batch in read_patches(plan.place, name):
                there = batch.filter(batch[column].is_valid())
                yield vectors_of(there[column]), there[ROW_ID].to_numpy().astype(np.int64)
        return
    pieces = [hashes_of(piece["object_id"].to_pylist()) for piece in replaced_keys(plan, tally)]
    leaving = np.unique(np.concatenate([np.zeros(0, np.int64), *pieces]))
    scanner = table.scanner(
        columns=["object_id", column],
        filter=has_vector(column),
        with_row_id=True,
        batch_size=BATCH_ROWS,
        io_buffer_size=READ_AHEAD_BYTES,
        batch_readahead=READ_AHEAD_BATCHES,
    )
    for batch in scanner.to_batches():
        if len(leaving):
            hashes = hashes_of(batch["object_id"].to_pylist())
            places = np.minimum(np.searchsorted(leaving, hashes), len(leaving) - 1)
            batch = batch.filter(pa.array(leaving[places] != hashes))
        yield vectors_of(batch[column]), batch[ROW_ID].to_numpy().astype(np.int64)


def hashes_of(names: Sequence[str]) -> np.ndarray:
    """Hashes of names, int64 (n,), equal within this process."""
    return np.fromiter(map(hash, names), np.int64, len(names))


def read_patches(place: Storage, name: str) -> Iterator[pa.RecordBatch]:
    """Rows of a file that `flow.columns.write_patch` wrote."""
    folder = place.child(PATCHES_FOLDER)
    with folder.fs.open(folder.path(name), "rb") as file:
        reader = pa.ipc.open_file(file)
        for at in range(reader.num_record_batches):
            yield reader.get_batch(at)


def describe(found: Dropped, keys: pa.Table, table: Any) -> pa.Table:
    """The dropped rows: `KEYS`, and in `duplicate_of`, `duplicate_of_object` and `distance` the row that each duplicates.

    `keys` are those of `drop_rows`; `table` is where the rows that are not new stand.
    """
    numbers, old = keys["number"].to_numpy(), np.unique(found.kept[~found.is_new])
    names = [keys.select(NAMES)]
    if len(old):
        names.append(take_rows(table, old.tolist(), NAMES).sort_by(ROW_ID).select(NAMES).cast(names[0].schema))
    places = np.where(found.is_new, np.searchsorted(numbers, found.kept), len(keys) + np.searchsorted(old, found.kept))
    kept = pa.concat_tables(names).take(pa.array(places)).rename_columns([field.name for field in DUPLICATE_FIELDS])
    rows = keys.take(pa.array(np.searchsorted(numbers, found.rows))).select(KEYS)
    for name in kept.column_names:
        rows = rows.append_column(name, kept[name])
    return rows.append_column("distance", pa.array(found.distances, pa.float32()))


def rejects_of(place: Storage) -> Iterator[dict[str, Any]]:
    """A line of the rejects for each dropped row."""
    with place.fs.open(place.path(DUPLICATES), "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(PIECE):
            for row in batch.to_pylist():
                yield {
                    "object_id": row["object_id"],
                    "uri": row["uri"],
                    "column": None,
                    "outcome": "filtered",
                    "stage": STAGE,
                    "error": f"'{row['id']}' duplicates '{row['duplicate_of']}', at a cosine distance of {row['distance']:.4f}",
                    "sniffed_type": None,
                    "duplicate_of": row["duplicate_of"],
                    "duplicate_of_object": row["duplicate_of_object"],
                }
