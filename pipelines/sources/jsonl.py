"""Objects that are lines of JSON-lines files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal

import pyarrow as pa

from latentlake.storage import Storage
from pipelines.sources._tables import MISFITS, Record, TableSource, check_columns, fetch_ranges

SAMPLE_LINES = 1000


class Source(TableSource):
    """One JSON object a line; empty lines are skipped."""

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")

    kind: Literal["jsonl"] = "jsonl"

    def scan(self, storage: Storage, uri: str) -> Iterator[Record]:
        """Ids with the offsets of their lines; a line that is no JSON object is a record with an error.

        A line may lack a column, a whole file may not: raises `SourceError`, for then the job names it wrongly.
        """
        present: dict[str, None] = {}
        for position, line in read_lines(storage, uri):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as failure:
                yield Record(None, position, len(line), f"the line is not JSON: {failure}")
                continue
            if not isinstance(value, dict):
                yield Record(None, position, len(line), "the line is not a JSON object")
                continue
            present |= dict.fromkeys(value)
            yield Record(value.get(self.id), position, len(line))
        if present:
            check_columns(uri, [self.id, self.content], list(present))

    def fetch(
        self, storage: Storage, uri: str, version: str | None, positions: Sequence[int], sizes: Sequence[int]
    ) -> dict[str, list[Any]]:
        """Lines at byte offsets."""
        rows = [json.loads(line) for line in fetch_ranges(storage, uri, positions, sizes)]
        return {name: [row.get(name) for row in rows] for name in self.columns}

    def infer_fields(self, storage: Storage, uri: str) -> list[pa.Field]:
        """Types that fit the first lines; a column that is empty there is a string."""
        rows = []
        for record in islice(read_lines(storage, uri), SAMPLE_LINES):
            try:
                rows.append(json.loads(record[1]))
            except (ValueError, RecursionError):
                continue
        rows = [row for row in rows if isinstance(row, dict)]
        if rows:
            check_columns(uri, self.metadata, sorted({name for row in rows for name in row}))
        return [pa.field(name, type_of([row.get(name) for row in rows])) for name in self.metadata]


def read_lines(storage: Storage, uri: str) -> Iterator[tuple[int, bytes]]:
    """Byte offset and content of each line that is not blank."""
    position = 0
    with storage.fs.open(storage.path_of(uri), "rb") as file:
        for line in file:
            if line.strip():
                yield position, line
            position += len(line)


def type_of(values: Sequence[Any]) -> pa.DataType:
    """The type that fits all values, else that of the first; string where all are null."""
    known = [value for value in values if value is not None]
    for sample in (known, known[:1]):
        try:
            kind = pa.array(sample).type
        except MISFITS:
            continue
        return pa.string() if pa.types.is_null(kind) else kind
    return pa.string()
