"""What a table knows of a shard's content: the vectors of equal content, which are copied and not computed again.

Keys come first, through the index of `content_hash`; vectors are taken by row id, and only those that are used. However many
rows share a content, one row per vector column is taken of it, besides the rows of the shard's own objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latentlake.credentials import Credentials
from latentlake.indexes import has_vector
from latentlake.keys import open_for_look_ups, scan_keys, take_rows
from latentlake.storage import Storage

LookUp = Callable[[Sequence[str], Sequence[str]], pa.Table | None]  # see `KnownVectors.look_up`
KEYS = ("content_hash", "object_id")


class KnownVectors:
    """Vectors of one version of a table (pylance), by content."""

    def __init__(self, table: Any, columns: Sequence[Sequence[str]], extra: Sequence[str] = ()) -> None:
        """`columns` are names of columns that belong together, the vectors first; `extra` are names of others to give."""
        self._table = table
        self._columns = columns
        self._names = [*KEYS, *extra, *(name for parts in columns for name in parts)]

    def look_up(self, hashes: Sequence[str], objects: Sequence[str]) -> pa.Table | None:
        """Rows whose `content_hash` is among `hashes`, with `_rowid`; None if there is nothing to find.

        All rows of `objects`, and for each vector column and content one row that has a vector, if there is one.
        """
        if not hashes or len(self._names) == len(KEYS):
            return None
        try:
            return self._look_up(hashes, objects)
        except (OSError, ValueError):  # Lance's: whoever tries again opens the table again
            opened.cache_clear()
            raise

    def _look_up(self, hashes: Sequence[str], objects: Sequence[str]) -> pa.Table:
        own, first, counts = self._find(hashes, objects)
        found = take_rows(self._table, {*own, *(first.values() if self._columns else ())}, self._names)
        others = set()
        for vectors, *_ in self._columns:
            there = set(pc.filter(found["content_hash"], found[vectors].is_valid()).to_pylist())
            taken = Counter(found["content_hash"].to_pylist())
            lacking = {value for value, rows in counts.items() if value not in there and rows > taken[value]}
            others |= self._find_with_vector(lacking, vectors)
        return pa.concat_tables([found, take_rows(self._table, others, self._names)]) if others else found

    def _find(self, hashes: Sequence[str], objects: Sequence[str]) -> tuple[list[int], dict[str, int], Counter[str]]:
        """Row ids of the rows of `objects`, the first row of each content, and how many rows have it."""
        own: list[int] = []
        first: dict[str, int] = {}
        counts: Counter[str] = Counter()
        asked = pa.array(sorted(set(objects)), pa.string())
        for batch in scan_keys(self._table, "content_hash", hashes, KEYS):
            own += batch["_rowid"].filter(pc.is_in(batch["object_id"], asked)).to_pylist()
            values = batch["content_hash"].to_pylist()
            for value, row in zip(values, batch["_rowid"].to_pylist(), strict=True):
                first.setdefault(value, row)
            counts.update(values)
        return own, first, counts

    def _find_with_vector(self, hashes: Collection[str], column: str) -> set[int]:
        """Row id of the first row of each content that has a vector in `column`."""
        first: dict[str, int] = {}
        if not hashes:
            return set()
        for batch in scan_keys(self._table, "content_hash", sorted(hashes), ["content_hash"], has_vector(column)):
            for value, row in zip(batch["content_hash"].to_pylist(), batch["_rowid"].to_pylist(), strict=True):
                first.setdefault(value, row)
            if len(first) == len(hashes):
                break
        return set(first.values())


def open_known(lake: Storage, name: str, version: int, place: Storage) -> Any:
    """The table of a run (`place`: the run's folder) at the version that it looks contents up in.

    Opened once per process and run, so that what is read of its indexes is read once, however many shards there are; again if
    the storage options, or the way to the credentials, have come to say something else.
    """
    table = lake.child(f"{name}.lance")
    options = table.lance_arguments["storage_options"] or {}
    return opened(table, version, place, frozenset(options.items()), table.credentials)


@lru_cache(maxsize=1)
def opened(
    table: Storage, version: int, place: Storage, options: frozenset[Any], credentials: Credentials | None
) -> Any:
    """See `open_known`, whose last answer is kept."""
    return open_for_look_ups(table, version)


def match_rows(
    known: pa.Table | None, column: str, hashes: Sequence[str], objects: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """For each row the index in `known` of a vector of the same content (-1: none), and whether it is the object's own."""
    at, own = np.full(len(hashes), -1, dtype=np.int64), np.zeros(len(hashes), dtype=bool)
    if known is None or column not in known.column_names:
        return at, own
    present = known[column].is_valid().to_pylist()
    by_hash: dict[str, int] = {}
    by_object: dict[tuple[str, str], int] = {}
    for index, (value, name) in enumerate(
        zip(known["content_hash"].to_pylist(), known["object_id"].to_pylist(), strict=True)
    ):
        if present[index]:
            by_hash.setdefault(value, index)
            by_object.setdefault((value, name), index)
    for row, key in enumerate(zip(hashes, objects, strict=True)):
        own[row] = key in by_object
        at[row] = by_object[key] if own[row] else by_hash.get(key[0], -1)
    return at, own


def repeats(hashes: Sequence[str], among: np.ndarray) -> np.ndarray:
    """Indices, among the rows where `among` is True, of those whose hash an earlier one has."""
    seen: set[str] = set()
    found = []
    for row in np.flatnonzero(among).tolist():
        if hashes[row] in seen:
            found.append(row)
        seen.add(hashes[row])
    return np.array(found, dtype=np.int64)
