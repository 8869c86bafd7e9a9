"""Timestamps in Parquet's old INT96: to the nanosecond over nine million years, which no Arrow type holds.

Arrow reads them as nanoseconds, and wraps the year 2263 round to 1677 without a word; as microseconds it drops what is below.
Read both ways, they tell which is right.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NANOSECONDS = "\0nanoseconds"  # behind a column's name: the three digits below its microseconds
MOST_MICROSECONDS = (2**63 - 1) // 1000  # that nanoseconds reach


def int96_columns(schema: pq.ParquetSchema) -> dict[str, bool]:
    """Top-level columns that hold INT96, and whether they are such a value themselves."""
    leaves = [schema.column(at) for at in range(len(schema))]
    return {
        leaf.path.split(".")[0] if leaf.path != leaf.name else leaf.name: leaf.path == leaf.name
        and not leaf.max_repetition_level
        for leaf in leaves
        if leaf.physical_type == "INT96"
    }


def add_nanoseconds(micro: pa.RecordBatch, nano: pa.RecordBatch) -> pa.RecordBatch:
    """Rows with timestamps in microseconds, and behind them the digits that nanoseconds have more."""
    for name in nano.schema.names:
        fine, coarse = (batch.column(name).view(pa.int64()).fill_null(0).to_numpy() for batch in (nano, micro))
        digits = fine.view(np.uint64) - coarse.view(np.uint64) * np.uint64(
            1000
        )  # right however far the first has wrapped
        micro = micro.append_column(name + NANOSECONDS, pa.array(digits.astype(np.int64)))
    return micro


def moments(rows: pa.Table, name: str) -> tuple[pa.ChunkedArray, np.ndarray]:
    """A column of `add_nanoseconds` in microseconds, or in nanoseconds where it needs and bears these; the rows that need them in vain."""
    micro = rows[name]
    if name + NANOSECONDS not in rows.column_names:
        return micro, np.zeros(0, dtype=np.int64)
    digits = rows[name + NANOSECONDS].to_numpy()
    counts = micro.combine_chunks().view(pa.int64()).fill_null(0).to_numpy()
    if not digits.any():
        return micro, np.zeros(0, dtype=np.int64)
    if np.abs(counts).max() < MOST_MICROSECONDS:
        whole = pa.array(counts * 1000 + digits, mask=micro.is_null().to_numpy())
        return pa.chunked_array([whole.cast(pa.timestamp("ns"))]), np.zeros(0, dtype=np.int64)
    return micro, np.flatnonzero(digits)
