"""Every object is accounted for, once for each vector column: listed = embedded + reused + unchanged + filtered + rejected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from operators.errors import AccountingError
from pipelines.flow.counts import Counts
from pipelines.state.manifest import Changes


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
