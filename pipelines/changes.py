"""What a listing asks for, next to what the table holds: the objects to read, and the accounting of all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.base import LISTING_SCHEMA

# A row of work: an entry of the listing, with the hash that the table holds for the object (null: it holds none).
WORK_SCHEMA = LISTING_SCHEMA.append(pa.field("base_hash", pa.string()))


@dataclass(frozen=True)
class Carried:
    """Objects that are counted without being read, for one column."""

    unchanged: int = 0
    rejected: int = 0
    filtered: int = 0


@dataclass(frozen=True)
class Changes:
    """The work of a run, and what is carried over from the version it builds on."""

    listed: int
    work: pa.Table  # WORK_SCHEMA
    carried: dict[str, Carried]  # by vector column
    gone: pa.Array  # ids of objects that are in the table and no longer in the source
    in_table: int  # objects of the table
    left: pa.Array  # ids that have a reject and are no longer in the source

    @property
    def gone_share(self) -> float:
        """Share of the table's objects that are gone from the source."""
        return len(self.gone) / self.in_table if self.in_table else 0.0


INCOMPLETE = ""  # in place of the hash of an object that lacks a vector: no content is equal to it


def table_objects(base: lance.LanceDataset | None, complete_for: Sequence[str] = ()) -> pa.Table:
    """One row an object of the table: object_id, object_hash (`INCOMPLETE` where a row of it lacks a vector).

    `complete_for` are the vector columns that every row must have; looking them up reads these columns whole.
    """
    if base is None:
        return pa.table({"object_id": pa.array([], pa.string()), "object_hash": pa.array([], pa.string())})
    rows = base.to_table(columns=["object_id", "object_hash"])
    grouped = rows.group_by("object_id").aggregate([("object_hash", "min")])
    hashes = grouped["object_hash_min"]
    wanted = [column for column in complete_for if column in base.schema.names]
    if wanted:
        lacking = base.to_table(columns=["object_id"], filter=" OR ".join(f"{column} IS NULL" for column in wanted))
        hashes = pc.if_else(pc.is_in(grouped["object_id"], lacking["object_id"]), INCOMPLETE, hashes)
    return pa.table({"object_id": grouped["object_id"], "object_hash": hashes})


def find_changes(
    listing: pa.Table, previous: pa.Table | None, objects: pa.Table, rejects: pa.Table, columns: Sequence[str]
) -> Changes:
    """Compare a listing with the one that the table's version stands for.

    `previous` None: nothing is known of what the source held, and every object is read and compared by its hash. An
    entry is unchanged when its file and version are the same and its fate is known: its object is in the table, or was
    rejected (whole, or in every column) or filtered then. An object that could not be *read* is tried again, also where the
    table holds rows of an earlier content; one that could not be listed stays rejected beside such rows.
    """
    ids = listing["object_id"].combine_chunks()
    in_table_at = pc.index_in(ids, objects["object_id"])
    in_table = in_table_at.is_valid().to_numpy(zero_copy_only=False)
    whole = rejects.filter(rejects["column"].is_null())
    unread = member(ids, whole.filter(pc.equal(whole["stage"], "read"))["object_id"])
    whole = whole.filter(pc.not_equal(whole["stage"], "read"))
    rejected = member(ids, whole.filter(pc.equal(whole["outcome"], "rejected"))["object_id"])
    filtered = member(ids, whole.filter(pc.equal(whole["outcome"], "filtered"))["object_id"])
    partly = rejects.filter(rejects["column"].is_valid())
    missing = {c: member(ids, partly.filter(pc.equal(partly["column"], c))["object_id"]) | rejected for c in columns}
    rejected |= np.all(list(missing.values()), axis=0)
    same = same_version(listing, previous) & (in_table | rejected | filtered) & ~unread
    carried = {
        column: Carried(
            unchanged=int((same & in_table & ~missing[column]).sum()),
            rejected=int((same & np.where(in_table, missing[column], rejected)).sum()),
            filtered=int((same & filtered & ~in_table & ~rejected).sum()),
        )
        for column in columns
    }
    base_hash = objects["object_hash"].combine_chunks().take(in_table_at)
    work = listing.append_column(WORK_SCHEMA.field("base_hash"), base_hash).filter(pa.array(~same))
    gone = objects["object_id"].combine_chunks().filter(pc.invert(pc.is_in(objects["object_id"], ids)).combine_chunks())
    refused = rejects["object_id"].combine_chunks().unique()
    left = refused.filter(pc.invert(pc.is_in(refused, ids)))
    return Changes(listing.num_rows, work, carried, gone, objects.num_rows, left)


def same_version(listing: pa.Table, previous: pa.Table | None) -> np.ndarray:
    """For each entry, whether the previous listing has it in the same file at the same version; bool."""
    if previous is None:
        return np.zeros(listing.num_rows, dtype=bool)
    at = pc.index_in(listing["object_id"], previous["object_id"]).combine_chunks()
    same = pa.array(np.ones(listing.num_rows, dtype=bool))
    for name in ("uri", "version", "position"):
        before, now = previous[name].combine_chunks().take(at), listing[name].combine_chunks()
        equal = pc.fill_null(pc.equal(before, now), False)
        if name == "position":
            equal = pc.or_(equal, pc.and_(before.is_null(), now.is_null()))
        same = pc.and_(same, equal)
    return pc.and_(same, at.is_valid()).to_numpy(zero_copy_only=False)


def member(values: pa.Array, known: pa.ChunkedArray) -> np.ndarray:
    """For each value whether it is among `known`; bool."""
    return pc.is_in(values, value_set=known.combine_chunks()).to_numpy(zero_copy_only=False)
