"""New vector columns of a table: their values are merged into the fragments that are there, whose other columns stay as they are.

A shard leaves its rows' new values in a patch, beside the row ids of the table; then each fragment takes in what the patches
have for it, as one more data file. Lance joins by row id.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Json, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from latentlake.formats import StoredFormat
from latentlake.storage import Storage
from operators.errors import Unreadable
from pipelines.flow.shard import FragmentShape
from pipelines.state.ledger import open_dataset

log = logging.getLogger(__name__)

PATCHES_FOLDER, MERGED_FOLDER = "patches", "merged"  # in a run's folder
ROW_ID = "_rowid"
RECORD = StoredFormat("the record of a merged fragment")
FRAGMENT_BITS = 32  # of a row id: the fragment's number is above, the row's place in it below


class RecordShape(TypedDict):
    """What a merged fragment's record must have to be understood at all."""

    fragment: Json[FragmentShape]
    fields: list[int]


SHAPE = TypeAdapter(RecordShape)


@dataclass(frozen=True)
class MergeColumns:
    """Merges patches into fragments, one at a time. Safe to retry: the first record of a fragment counts."""

    lake: Storage
    table: str
    version: int  # of the table, for which the patches were made
    place: Storage  # folder of the run
    work: tuple[tuple[int, tuple[str, ...]], ...]  # a fragment, and the patches that have rows of it

    def __call__(self, block: pa.Table) -> pa.Table:
        """Merge the fragments of a block (`id`: places in `work`)."""
        for at in block["id"].to_pylist():
            self._merge(*self.work[at])
        return block

    def _merge(self, number: int, names: Sequence[str]) -> None:
        merged = self.place.child(MERGED_FOLDER)
        if merged.fs.exists(merged.path(merged_name(number))):
            return
        table = open_dataset(self.lake, self.table, self.version)
        assert table is not None, "the base version was there when the run was planned"
        rows = pa.concat_tables([read_patch(self.place, name, number) for name in names])
        fragment, fields = table.get_fragment(number).update_columns(rows, left_on=ROW_ID, right_on=ROW_ID)
        record = {"fragment": json.dumps(fragment.to_json()), "fields": list(fields)}
        merged.put_if_absent(merged_name(number), RECORD.write(record).encode())


def merged_name(number: int) -> str:
    """File name of a merged fragment's record."""
    return f"{number:012}.json"


def read_merged(place: Storage) -> list[dict[str, Any]]:
    """Records of the merged fragments in a run's folder: fragment (JSON) and the ids of the fields that were filled.

    Raises `Unreadable`.
    """
    return [read_record(place, name) for name in merged_names(place)]


def merged_names(place: Storage) -> list[str]:
    """File names of the records of the merged fragments in a run's folder."""
    return [name for name in place.child(MERGED_FOLDER).list_names() if name.endswith(".json")]


def read_record(place: Storage, name: str) -> dict[str, Any]:
    """The record of one merged fragment. Raises `Unreadable`."""
    merged = place.child(MERGED_FOLDER)
    record = RECORD.read(merged.fs.cat_file(merged.path(name)))
    RECORD.check(SHAPE, record)
    return record


def forget_unreadable(place: Storage) -> None:
    """Take away the records that cannot be read: their fragments are merged again."""
    for name in merged_names(place):
        try:
            read_record(place, name)
        except Unreadable as failure:
            log.warning("%s: %s It is merged again", name, failure)
            place.remove(MERGED_FOLDER, name)


def write_patch(place: Storage, shard: int, rows: pa.Table, columns: Sequence[str]) -> dict[str, Any] | None:
    """Write a shard's new values: what its record says of them. None if no row has any.

    `rows` have their row id, and the columns to fill; a row whose vectors are all null has nothing to merge.
    """
    vectors = [name for name in columns if pa.types.is_fixed_size_list(rows.schema.field(name).type)]
    filled = np.any([rows[name].is_valid().to_numpy() for name in vectors], axis=0)
    rows = rows.filter(pa.array(filled)).select([ROW_ID, *columns]).sort_by(ROW_ID)
    if not rows.num_rows:
        return None
    folder, name = place.child(PATCHES_FOLDER), f"{shard:09}-{secrets.token_hex(4)}.arrow"
    folder.fs.makedirs(folder.root, exist_ok=True)
    with folder.fs.open(folder.path(name), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)
    fragments = np.unique(rows[ROW_ID].to_numpy() >> FRAGMENT_BITS)
    return {"file": name, "fragments": fragments.tolist(), "rows": rows.num_rows}


def read_patch(place: Storage, name: str, fragment: int) -> pa.Table:
    """The rows of a patch that lie in one fragment."""
    folder = place.child(PATCHES_FOLDER)
    with folder.fs.open(folder.path(name), "rb") as file:
        rows = pa.ipc.open_file(file).read_all()
    first = fragment << FRAGMENT_BITS
    low = pc.greater_equal(rows[ROW_ID], pa.scalar(first, pa.uint64()))
    high = pc.less(rows[ROW_ID], pa.scalar(first + (1 << FRAGMENT_BITS), pa.uint64()))
    return rows.filter(pc.and_(low, high))


def place_rows(rows: pa.Table, known: pa.Table | None, unchanged: set[str]) -> tuple[pa.Table, set[str]]:
    """Add `_rowid`: where the table holds a row of an object that needs only its new columns, null elsewhere; these objects.

    `known` are rows of the table (`id`, `content_hash`, `_rowid`). An object is patched as a whole, and only where all of
    its rows are there as they would be written.
    """
    keys = zip(rows["id"].to_pylist(), rows["content_hash"].to_pylist(), strict=True)
    at: Mapping[Any, int] = {}
    if known is not None:
        names = zip(known["id"].to_pylist(), known["content_hash"].to_pylist(), strict=True)
        at = dict(zip(names, known[ROW_ID].to_pylist(), strict=True))
    places, objects = [at.get(key) for key in keys], rows["object_id"].to_pylist()
    whole = {name for name, place in zip(objects, places, strict=True) if place is None}
    patched = (set(objects) & unchanged) - whole
    values = [place if name in patched else None for name, place in zip(objects, places, strict=True)]
    return rows.append_column(ROW_ID, pa.array(values, pa.uint64())), patched


def merge_deletions(
    merged: Sequence[Mapping[str, Any]], removed: Sequence[int], updated: Sequence[lance.FragmentMetadata]
) -> list[lance.FragmentMetadata]:
    """Fragments with both their new data files and what a deletion (`removed`, `updated`) takes from them."""
    fragments = {f.id: f for f in (lance.FragmentMetadata.from_json(record["fragment"]) for record in merged)}
    for fragment in updated:
        if fragment.id in fragments:
            fragments[fragment.id].deletion_file = fragment.deletion_file
        else:
            fragments[fragment.id] = fragment
    return [fragment for number, fragment in sorted(fragments.items()) if number not in removed]
