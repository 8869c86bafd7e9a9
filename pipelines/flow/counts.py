"""Objects by what became of them, once per vector column: listed = embedded + reused + unchanged + filtered + rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from operators.errors import AccountingError
from pipelines.flow.shard import Origin, Status

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
