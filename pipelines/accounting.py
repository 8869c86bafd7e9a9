"""Every object is accounted for, once for each vector column: listed = embedded + reused + unchanged + filtered + rejected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from operators.errors import AccountingError
from pipelines.changes import Changes
from pipelines.shard import Origin, Status

OUTCOMES = ("embedded", "reused", "unchanged", "filtered", "rejected")


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
    objects = rows["object_id"].combine_chunks().dictionary_encode()
    codes, number = objects.indices.to_numpy(), len(objects.dictionary)
    counts = {}
    for column in columns:
        origins = rows[f"origin.{column}"].to_numpy()
        unfilled = (rows[column].is_null().to_numpy() != (origins == Origin.REJECTED)).sum()
        if unfilled:
            raise AccountingError(
                f"shard {status.shard}, column '{column}': {unfilled} rows have neither vector nor reject."
            )
        fates = {origin: np.zeros(number, dtype=bool) for origin in Origin}
        for origin, objects_of in fates.items():
            objects_of[codes[origins == origin]] = True
        rejected = fates[Origin.REJECTED]
        embedded = fates[Origin.EMBEDDED] & ~rejected
        reused = fates[Origin.REUSED] & ~rejected & ~embedded
        unchanged = fates[Origin.UNCHANGED] & ~rejected & ~embedded & ~reused
        counts[column] = Counts(
            listed=status.listed,
            embedded=int(embedded.sum()),
            reused=int(reused.sum()),
            unchanged=int(unchanged.sum()) + status.unchanged,
            filtered=whole.count("filtered"),
            rejected=int(rejected.sum()) + whole.count("rejected"),
        ).check(f"shard {status.shard}, column '{column}'")
    return counts


def count_run(
    changes: Changes, records: Iterable[Mapping[str, Any]], shards: int, columns: Sequence[str]
) -> dict[str, Counts]:
    """Accounting of a run: its shards' and what was carried over. Raises `AccountingError`."""
    totals = {
        column: Counts(
            listed=changes.listed - changes.work,
            unchanged=changes.carried[column].unchanged,
            filtered=changes.carried[column].filtered,
            rejected=changes.carried[column].rejected,
        )
        for column in columns
    }
    seen: set[int] = set()
    for record in records:
        seen.add(record["status"]["shard"])
        for column in columns:
            totals[column] += Counts(**record["counts"][column])
    missing = [shard for shard in range(shards) if shard not in seen]
    if missing or len(seen) > shards:
        raise AccountingError(f"{len(missing)} of {shards} shards left no record, the first is {missing[:1]}.")
    for column, total in totals.items():
        total.check(f"column '{column}'")
        if total.listed != changes.listed:
            raise AccountingError(
                f"column '{column}': the source listed {changes.listed} objects, shards saw {total.listed}."
            )
    return totals
