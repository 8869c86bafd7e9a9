"""Objects by what became of them, once per vector column: listed = embedded + reused + unchanged + filtered + rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from operators.errors import AccountingError
from pipelines.flow.shard import Origin, Status

OUTCOMES = ("embedded", "reused", "unchanged", "filtered", "rejected")
# Of an object whose rows have several of these, the last one counts.
FATES = (Origin.UNCHANGED, Origin.REUSED, Origin.EMBEDDED, Origin.REJECTED)


@dataclass(frozen=True)
class Counts:
    """Objects of one vector column, by what became of them."""

    listed: int = 0
    embedded: int = 0
    reused: int = 0
    unchanged: int = 0
    filtered: int = 0
    rejected: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in ("listed", *OUTCOMES)))

    def check(self, what: str) -> Counts:
        """Itself. Raises `AccountingError` unless every listed object is accounted for."""
        total = sum(getattr(self, name) for name in OUTCOMES)
        if total != self.listed:
            parts = ", ".join(f"{name} {getattr(self, name)}" for name in OUTCOMES)
            raise AccountingError(f"{what}: {self.listed} objects were listed, {total} are accounted for ({parts}).")
        return self


def count_shard(status: Status, rows: pa.Table, columns: Sequence[str]) -> dict[str, Counts]:
    """Accounting of one shard, by vector column. Raises `AccountingError`."""
    whole = [reject["outcome"] for reject in status.rejects if reject["column"] is None]
    counts = {}
    for column in columns:
        origins = rows[f"origin.{column}"].to_numpy()
        unfilled = (rows[column].is_null().to_numpy() != (origins == Origin.REJECTED)).sum()
        if unfilled:
            raise AccountingError(
                f"shard {status.shard}, column '{column}': {unfilled} rows have neither vector nor reject."
            )
        of_origin = np.bincount(object_fates(rows, column)[1], minlength=len(Origin)).tolist()
        counts[column] = Counts(
            listed=status.listed,
            embedded=of_origin[Origin.EMBEDDED],
            reused=of_origin[Origin.REUSED],
            unchanged=of_origin[Origin.UNCHANGED] + status.unchanged,
            filtered=whole.count("filtered"),
            rejected=of_origin[Origin.REJECTED] + whole.count("rejected"),
        ).check(f"shard {status.shard}, column '{column}'")
    return counts


def object_fates(rows: pa.Table, column: str) -> tuple[pa.Array, np.ndarray]:
    """Ids of the objects of a shard's rows, and for each the `Origin` that it counts by in a vector column, int8 (n,)."""
    objects = rows["object_id"].combine_chunks().dictionary_encode()
    codes, origins = objects.indices.to_numpy(), rows[f"origin.{column}"].to_numpy()
    fates = np.zeros(len(objects.dictionary), dtype=np.int8)
    for origin in FATES:
        fates[codes[origins == origin]] = origin
    return objects.dictionary, fates


def fates_by_object(rows: pa.Table, columns: Sequence[str]) -> dict[str, list[int]]:
    """The `Origin` that each object of a shard's rows counts by, one per vector column."""
    fates = [object_fates(rows, column)[1].tolist() for column in columns]
    objects = object_fates(rows, columns[0])[0].to_pylist()
    return dict(zip(objects, map(list, zip(*fates, strict=True)), strict=True))
