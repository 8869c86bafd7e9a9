"""Rows that hold the same: of equal content, or with vectors that are nearly equal. See docs/exploring.md."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latentlake.exploration.near_pairs import find_pairs, partition_rows
from latentlake.exploration.points import pick_column, points_of
from latentlake.results import Rows
from latentlake.vectors import array_of
from operators.errors import SpecError, unknown_name

if TYPE_CHECKING:
    from latentlake.table import Table

Keep = Literal["nearest", "farthest"]
BATCH_ROWS = 4096  # read at once
PAIRS = pa.schema([("id_a", pa.string()), ("id_b", pa.string()), ("distance", pa.float32())])
REDUNDANT = pa.schema([("id", pa.string()), ("duplicate_of", pa.string()), ("distance", pa.float32())])


@dataclass(frozen=True)
class Duplicates:
    """Pairs of rows whose vectors are nearly equal, rows of equal content, and which rows one could do without."""

    column: str
    threshold: float
    version: int
    rows: int  # that were compared
    is_exhaustive: bool  # each with each; else pairs that no partition holds both of may be missing
    pairs: pa.Table  # `id_a`, `id_b`, `distance`; each pair once, nearest first
    equal_content: pa.Table  # `id`, `same_as`: rows whose content another row has too, and the first such row
    order: pa.Array  # ids in pairs, those to keep first

    @cached_property
    def redundant(self) -> pa.Table:
        """`id`, `duplicate_of` and `distance` of the rows that one could drop, so that no two rows that stay are a pair.

        Every row is compared with those kept before it, as in SemDeDup (Abbas et al., arXiv:2303.09540).
        """
        first, second = (pc.index_in(self.pairs[name], self.order).to_numpy() for name in ("id_a", "id_b"))
        earlier, later = np.minimum(first, second), np.maximum(first, second)
        ids = pc.rank(self.order).to_numpy()  # two rows that are as near: the first id
        by_row = np.lexsort([ids[earlier], self.pairs["distance"].to_numpy(), later])
        kept = bytearray(b"\1") * len(self.order)
        dropped = []
        for at, one, other in zip(by_row.tolist(), later[by_row].tolist(), earlier[by_row].tolist(), strict=True):
            if kept[one] and kept[other]:
                kept[one] = 0
                dropped.append(at)
        chosen = np.array(dropped, np.int64)
        names = [self.order.take(pa.array(rows[chosen])) for rows in (later, earlier)]
        distances = self.pairs["distance"].take(pa.array(chosen))
        return pa.table([*names, distances], schema=REDUNDANT)

    def __len__(self) -> int:
        return int(self.pairs.num_rows)

    def __str__(self) -> str:
        missing = "" if self.is_exhaustive else " (pairs across partitions may be missing)"
        told = f"{len(self)} pairs of {self.rows} rows within {self.threshold}{missing}; {self.equal_content.num_rows} rows of equal content"
        return f"{told}\n{Rows(self.pairs)}"

    def _repr_html_(self) -> str:
        return Rows(self.pairs)._repr_html_()


def find_duplicates(
    table: Table, threshold: float, column: str | None, where: str | None, keep: str, seed: int
) -> Duplicates:
    """See `Explorable.duplicates`."""
    if keep not in get_args(Keep):
        raise unknown_name("choice of what to keep", keep, get_args(Keep))
    if not threshold >= 0:
        raise SpecError(f"threshold is {threshold}; it must be 0 or more.")
    chosen = pick_column(table, column)
    partitions = partition_rows(table, chosen, where, seed)
    first, second, distances = find_pairs(table, chosen, partitions, threshold)
    places = np.unique(np.concatenate([first, second]))
    ids, order = describe_rows(table, chosen, partitions.row_ids[places], partitions.centers, keep)
    names = [ids.take(pa.array(np.searchsorted(places, rows))) for rows in (first, second)]
    found = pa.table([*names, pa.array(distances)], schema=PAIRS)
    return Duplicates(
        column=chosen,
        threshold=threshold,
        version=table.version,
        rows=len(partitions.row_ids),
        is_exhaustive=len(partitions.centers) <= 1,
        pairs=found.sort_by([(name, "ascending") for name in ("distance", "id_a", "id_b")]),
        equal_content=equal_content(table, where),
        order=order,
    )


def describe_rows(
    table: Table, column: str, row_ids: np.ndarray, centers: np.ndarray, keep: str
) -> tuple[pa.Array, pa.Array]:
    """Ids of rows, and the same ids in the order in which they are kept: by the distance to the nearest centre."""
    stored = table.provenance(column)
    dataset = table.to_lance()
    ids, away = [pa.array([], pa.string())], [np.zeros(0)]
    for start in range(0, len(row_ids), BATCH_ROWS):
        found = dataset._take_rows(row_ids[start : start + BATCH_ROWS].tolist(), columns=["id", column])
        ids.append(found["id"].combine_chunks())
        points = points_of(array_of(found[column].combine_chunks(), True), stored)
        nearest = ((centers**2).sum(axis=1) - 2 * points @ centers.T).argmin(axis=1)
        away.append(np.linalg.norm(points - centers[nearest], axis=1).astype(np.float64))
    sign = 1 if keep == "nearest" else -1
    names = pa.concat_arrays(ids)
    described = pa.table({"id": names, "away": sign * np.round(np.concatenate(away), 6)})
    order = pc.sort_indices(described, [("away", "ascending"), ("id", "ascending")])
    return names, names.take(order)


def equal_content(table: Table, where: str | None) -> pa.Table:
    """`id` and `same_as` of the rows whose content an earlier row (by id) has too.

    It reads hashes once, and where some are equal, rows once more. It holds 8 bytes per row, and the rows of equal content.
    """
    pieces = [hashes_of(batch["content_hash"]) for batch in table.vectors(["content_hash"], where)]
    hashes = np.sort(np.concatenate([np.zeros(0, np.int64), *pieces]))
    again = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    fields = pa.schema([("id", pa.string()), ("content_hash", pa.string())])
    alike = [fields.empty_table()]
    if len(again):
        for batch in table.vectors(fields.names, where):
            is_again = np.isin(hashes_of(batch["content_hash"]), again)
            alike.append(pa.Table.from_batches([batch.filter(pa.array(is_again))]).cast(fields))
    rows = pa.concat_tables(alike)
    firsts = rows.group_by("content_hash").aggregate([("id", "min")])
    places = pc.index_in(rows["content_hash"], firsts["content_hash"], skip_nulls=True)
    told = pa.table({"id": rows["id"], "same_as": firsts["id_min"].take(places)})
    return told.filter(pc.not_equal(told["id"], told["same_as"])).sort_by("id")


def hashes_of(texts: pa.Array) -> np.ndarray:
    """Hashes of texts, int64 (n,), equal within this process."""
    return np.fromiter(map(hash, texts.to_pylist()), np.int64, len(texts))
