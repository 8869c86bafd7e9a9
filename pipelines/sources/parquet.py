"""Objects that are rows of Parquet files."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from latentlake.storage import Storage
from operators.batch import RowError
from operators.errors import SchemaMismatch
from pipelines.sources._int96 import add_nanoseconds, int96_columns, moments
from pipelines.sources._tables import UNFIT, Record, Rows, TableSource, check_present
from pipelines.sources.files import check_alive
from pipelines.values.arrays import as_bytes, nulls_of, pick, valid_texts
from pipelines.values.ids import can_name, id_texts
from pipelines.values.inference import widest
from pipelines.values.types import is_bytes, is_text, plain, plain_type

WINDOW_BYTES = 16 << 20  # of a row group that are decoded at once,
WINDOW_ROWS = 4096  # and no more rows than these
BUFFER_BYTES = 4 << 20  # of a column of a row group that are fetched at once
NOT_UTF8 = RowError("not text: the file says UTF-8, and it is not")


class Source(TableSource):
    """Rows of Parquet files; the content column holds strings or bytes."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")

    declares_types: ClassVar[bool] = True

    kind: Literal["parquet"] = "parquet"

    def scan(self, storage: Storage, uri: str) -> Iterator[Record]:
        """Ids, read from the id column alone."""
        with storage.fs.open(storage.path_of(uri), "rb") as file:
            parquet = open_parquet(file)
            check_present(uri, [self.id, *self.columns], parquet.schema_arrow.names)
            self._check_types(uri, parquet.schema_arrow, int96_columns(parquet.schema))
            rows = parquet.metadata.num_rows
            bytes_a_row = sum(group_bytes(parquet, g, self.content) for g in range(parquet.num_row_groups)) // max(
                1, rows
            )
            position = 0
            for batch in parquet.iter_batches(columns=[self.id]):
                for name in id_texts(batch.column(self.id)):  # of a name with a dot, a nested column may come along
                    yield Record(name, position, bytes_a_row)
                    position += 1

    def _check_types(self, uri: str, schema: pa.Schema, int96: Mapping[str, bool]) -> None:
        """Raise `SchemaMismatch` where ids, or contents, are of a type that is none, or metadata of one that would be falsified."""
        for name in self.metadata_names:
            if not int96.get(name, True):
                raise SchemaMismatch(
                    f"metadata column '{name}' of '{uri}' is {schema.field(name).type} and holds timestamps of Parquet's old type "
                    "INT96, which are read in columns of their own alone.\n  Write the file again with today's timestamps, or "
                    "leave the column out."
                )
        kind = schema.field(self.id).type
        if not can_name(plain_type(kind)):
            raise SchemaMismatch(
                f"id column '{self.id}' of '{uri}' is {kind}, which names no object.\n"
                "  Name a column of texts, integers, decimals, UUIDs or times."
            )
        kind = schema.field(self.content).type
        if not is_content(kind):
            raise SchemaMismatch(
                f"content column '{self.content}' of '{uri}' is {kind}: neither text, nor bytes, nor a struct that has "
                "`bytes`.\n  Name another column as `content`."
            )

    def fetch(
        self, storage: Storage, uri: str, version: str | None, positions: Sequence[int], sizes: Sequence[int]
    ) -> Rows:
        """Rows out of their row groups; the last one is kept open, for the next shard often continues in it.

        Where a row group cannot be read, its rows alone have the failure as content.
        """
        described = read_metadata(storage, uri, version)
        starts = group_starts(described)
        groups = np.searchsorted(starts, positions, side="right") - 1
        tables: list[pa.Table] = []
        failures: dict[int, Exception] = {}  # by group
        for group in dict.fromkeys(groups.tolist()):
            rows = [p - int(starts[group]) for p, g in zip(positions, groups, strict=True) if g == group]
            try:
                tables += self._take(storage, uri, version, described, group, rows)
            except FileNotFoundError:
                raise
            except UNFIT as failure:
                check_alive(storage, failure)
                failures[group] = failure
        if not tables:
            raise next(iter(failures.values()))
        found, broken = pa.concat_tables(tables), np.isin(groups, list(failures))
        if failures:  # in the place of what cannot be read: the row before
            at = np.maximum(np.cumsum(~broken) - 1, 0)
            columns = [pick(column.combine_chunks(), at) for column in found.columns]
            found = pa.Table.from_arrays(columns, schema=found.schema)
        contents = contents_of(found[self.content])
        metadata = {}
        for name in self.metadata_names:
            metadata[name], lossy = moments(found, name)
            for row in lossy.tolist():
                contents[row] = RowError(
                    f"metadata column '{name}': its nanoseconds stand beside a year beyond their reach"
                )
        for row in np.flatnonzero(broken).tolist():
            contents[row] = failures[int(groups[row])]
        return Rows(contents, metadata)

    def _take(
        self,
        storage: Storage,
        uri: str,
        version: str | None,
        described: pq.FileMetaData,
        group: int,
        rows: Sequence[int],
    ) -> list[pa.Table]:
        """Rows of one row group, which stays open; a cursor that fails is closed."""
        columns = tuple(self.columns)
        key = (storage, uri, version, group, columns)
        cursor = OPEN_GROUPS.pop(key, None)
        if cursor is None or rows[0] < cursor.start:
            if cursor is not None:
                cursor.close()
            close_groups()
            cursor = GroupCursor(storage, uri, described, group, columns)
        try:
            tables = cursor.take(rows)
        except BaseException:
            cursor.close()
            raise
        OPEN_GROUPS[key] = cursor
        return tables

    def forget(self) -> None:
        """Drop footers and the open row group."""
        read_metadata.cache_clear()
        close_groups()

    def infer_types(self, storage: Storage, uris: Sequence[str]) -> dict[str, pa.DataType | None]:
        """Types that the files declare, in the layout that a table has; a column of the null type says nothing."""
        columns: dict[str, list[pa.DataType]] = {name: [] for name in self.metadata_names}
        for uri in uris:
            with storage.fs.open(storage.path_of(uri), "rb") as file:
                schema = open_parquet(file).schema_arrow
            for name, types in columns.items():
                types.append(plain_type(schema.field(name).type))
        return {name: widest(name, types) for name, types in columns.items()}


def is_content(kind: pa.DataType) -> bool:
    """Whether a type holds contents: texts, bytes, or Hugging Face's structs of `bytes` and `path`. The null type holds none."""
    plain_kind = plain_type(kind)
    if pa.types.is_struct(plain_kind):
        at = plain_kind.get_field_index("bytes")
        return at >= 0 and is_bytes(plain_kind.field(at).type)
    return is_text(plain_kind) or is_bytes(plain_kind) or bool(pa.types.is_null(plain_kind))


def contents_of(column: pa.ChunkedArray) -> list[Any]:
    """Texts or bytes; an exception in place of a text that is not UTF-8, and of a file that a struct names without its bytes."""
    array = plain(column)
    if pa.types.is_struct(array.type):
        contents = as_bytes(plain(pc.struct_field(array, "bytes"))).to_pylist()
        at = array.type.get_field_index("path")
        paths = (
            id_texts(pc.struct_field(array, [at]))
            if at >= 0 and can_name(plain_type(array.type.field(at).type))
            else [None] * len(array)
        )
        return [
            only_named(path) if c is None and path is not None else c for c, path in zip(contents, paths, strict=True)
        ]
    if not is_text(array.type):
        return array.to_pylist()
    texts = valid_texts(array)
    broken = nulls_of(texts) & ~nulls_of(array)
    return [NOT_UTF8 if bad else text for text, bad in zip(texts.to_pylist(), broken, strict=True)]


def only_named(path: Any) -> RowError:
    """Why an object has no content of which the table knows a path alone: what that names, only its writer knows."""
    return RowError(f"the row has no bytes, only the path '{path}'; write the files' bytes into the table")


def group_bytes(parquet: pq.ParquetFile, group: int, column: str) -> int:
    """Uncompressed bytes of a column in a row group. Row groups repeat its name, which may be damaged there and is not read."""
    described, schema = parquet.metadata.row_group(group), parquet.schema
    return sum(
        described.column(index).total_uncompressed_size
        for index in range(described.num_columns)
        if schema.column(index).path.split(".")[0] == column
    )


def open_parquet(file: Any, described: pq.FileMetaData | None = None, int96: str = "us") -> pq.ParquetFile:
    """A file, of which no more is buffered than is asked for; its INT96 are timestamps in the unit `int96`."""
    return pq.ParquetFile(
        file, metadata=described, buffer_size=BUFFER_BYTES, pre_buffer=False, coerce_int96_timestamp_unit=int96
    )


@lru_cache(maxsize=16)
def read_metadata(storage: Storage, uri: str, version: str | None) -> pq.FileMetaData:
    """A file's footer."""
    with storage.fs.open(storage.path_of(uri), "rb") as file:
        return pq.read_metadata(file)


def group_starts(described: pq.FileMetaData) -> np.ndarray:
    """Position of each row group's first row, int64."""
    rows = [described.row_group(group).num_rows for group in range(described.num_row_groups)]
    return np.cumsum([0, *rows[:-1]], dtype=np.int64)


class GroupCursor:
    """Columns of one row group, read forward: a window of decoded rows, and a buffer of each column, are in memory."""

    def __init__(
        self, storage: Storage, uri: str, described: pq.FileMetaData, group: int, columns: tuple[str, ...]
    ) -> None:
        with ExitStack() as stack:

            def opened(*resolution: str) -> pq.ParquetFile:
                """The file, once more open; closed with the cursor."""
                file = stack.enter_context(storage.fs.open(storage.path_of(uri), "rb"))
                return open_parquet(file, described, *resolution)

            parquet = opened()
            size = sum(group_bytes(parquet, group, name) for name in columns)
            rows = described.row_group(group).num_rows * WINDOW_BYTES // max(1, size)
            window = min(max(rows, 1), WINDOW_ROWS)
            self._batches = parquet.iter_batches(window, row_groups=[group], columns=list(columns))
            int96 = [name for name in int96_columns(parquet.schema) if name in columns]
            if int96:
                nano = opened("ns").iter_batches(window, row_groups=[group], columns=int96)
                self._batches = (add_nanoseconds(*pair) for pair in zip(self._batches, nano, strict=True))
            self._closing = stack.pop_all()
        self._window: pa.RecordBatch | None = None
        self.start = self._stop = 0  # rows of the window

    def close(self) -> None:
        """Close the file. Nothing can be taken any more."""
        self._window = None
        self._closing.close()

    def take(self, rows: Sequence[int]) -> list[pa.Table]:
        """Rows of the group, in pieces; they ascend, and none lies before `start`. Raises `IndexError` behind the last."""
        pieces, at = [], 0
        while at < len(rows):
            if self._window is None or rows[at] >= self._stop:
                self._advance()
                continue
            until = bisect_left(rows, self._stop, at)
            wanted = np.array(rows[at:until]) - self.start
            columns = [pick(column, wanted) for column in self._window.columns]
            pieces.append(pa.Table.from_arrays(columns, schema=self._window.schema))
            at = until
        return pieces

    def _advance(self) -> None:
        self._window = None  # before the next is decoded
        self._window = next(self._batches, None)
        if self._window is None:
            raise IndexError("the row group has fewer rows than its footer says")
        self.start, self._stop = self._stop, self._stop + self._window.num_rows


# The row group that a task of this process read last, by storage, uri, version, group and columns. Taken out while in use.
OPEN_GROUPS: dict[tuple[Any, ...], GroupCursor] = {}


def close_groups() -> None:
    """Close the row group that was read last."""
    while OPEN_GROUPS:
        OPEN_GROUPS.popitem()[1].close()
