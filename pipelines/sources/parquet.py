"""Objects that are rows of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentlake.storage import Storage
from pipelines.sources._tables import Record, TableSource, check_columns


class Source(TableSource):
    """Rows of Parquet files; the content column holds strings or bytes."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")

    kind: Literal["parquet"] = "parquet"

    def scan(self, storage: Storage, uri: str) -> Iterator[Record]:
        """Ids, read from the id column alone."""
        with storage.fs.open(storage.path_of(uri), "rb") as file:
            parquet = pq.ParquetFile(file)
            check_columns(uri, [self.id, *self.columns], parquet.schema_arrow.names)
            rows = parquet.metadata.num_rows
            bytes_a_row = sum(group_bytes(parquet, g, self.content) for g in range(parquet.num_row_groups)) // max(
                1, rows
            )
            position = 0
            for batch in parquet.iter_batches(columns=[self.id]):
                for value in batch.column(0).to_pylist():
                    yield Record(value, position, bytes_a_row)
                    position += 1

    def fetch(
        self, storage: Storage, uri: str, version: str, positions: Sequence[int], sizes: Sequence[int]
    ) -> dict[str, list[Any]]:
        """Rows out of the row groups they lie in; the last group is kept, for the next shard often lies in it too."""
        starts = group_starts(storage, uri, version)
        groups = np.searchsorted(starts, positions, side="right") - 1
        tables = []
        for group in dict.fromkeys(groups.tolist()):
            table = read_group(storage, uri, version, group, tuple(self.columns))
            tables.append(
                table.take([p - int(starts[group]) for p, g in zip(positions, groups, strict=True) if g == group])
            )
        found = pa.concat_tables(tables) if tables else pa.table({name: [] for name in self.columns})
        return {name: found[name].to_pylist() for name in self.columns}

    def infer_fields(self, storage: Storage, uri: str) -> list[pa.Field]:
        """Types as the file declares them; dictionaries are decoded."""
        with storage.fs.open(storage.path_of(uri), "rb") as file:
            schema = pq.read_schema(file)
        return [pa.field(name, plain_type(schema.field(name).type)) for name in self.metadata]


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of a dictionary's values; every other type as it is."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def group_bytes(parquet: pq.ParquetFile, group: int, column: str) -> int:
    """Uncompressed bytes of a column in a row group."""
    described = parquet.metadata.row_group(group)
    return sum(
        described.column(index).total_uncompressed_size
        for index in range(described.num_columns)
        if described.column(index).path_in_schema.split(".")[0] == column
    )


@lru_cache(maxsize=64)
def group_starts(storage: Storage, uri: str, version: str) -> np.ndarray:
    """Position of each row group's first row, int64."""
    with storage.fs.open(storage.path_of(uri), "rb") as file:
        described = pq.read_metadata(file)
    rows = [described.row_group(group).num_rows for group in range(described.num_row_groups)]
    return np.cumsum([0, *rows[:-1]], dtype=np.int64)


@lru_cache(maxsize=1)
def read_group(storage: Storage, uri: str, version: str, group: int, columns: tuple[str, ...]) -> pa.Table:
    """One row group of a file. A reader of successive shards reads it once."""
    with storage.fs.open(storage.path_of(uri), "rb") as file:
        return pq.ParquetFile(file).read_row_group(group, columns=list(dict.fromkeys(columns)))
