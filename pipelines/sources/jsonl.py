"""Objects that are lines of JSON-lines files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal

import pyarrow as pa

from latentlake.storage import Storage
from operators.batch import RowError
from pipelines.sources._tables import Record, Rows, TableSource, check_present, fetch_ranges
from pipelines.values.conversions import ABSENT
from pipelines.values.ids import id_of
from pipelines.values.inference import infer
from pipelines.values.json_lines import parse_line, plain_value, repeated_keys

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
                value = parse_line(line)
            except (ValueError, RecursionError) as failure:
                yield Record(None, position, len(line), f"the line is not JSON: {failure}")
                continue
            if not isinstance(value, dict):
                yield Record(None, position, len(line), "the line is not a JSON object")
                continue
            present |= dict.fromkeys(value)
            yield Record(id_of(value.get(self.id)), position, len(line))
        if present:
            check_present(uri, [self.id, self.content], list(present))

    def fetch(
        self, storage: Storage, uri: str, version: str | None, positions: Sequence[int], sizes: Sequence[int]
    ) -> Rows:
        """Lines at byte offsets."""
        rows = [self._row(line) for line in fetch_ranges(storage, uri, positions, sizes)]
        columns = {name: [row.get(name, ABSENT) for row in rows] for name in self.metadata_names}
        return Rows([plain_value(row.get(self.content)) for row in rows], columns)

    def _row(self, line: bytes) -> dict[str, Any]:
        """A line's columns; with an error as its content where it names one of the job's twice."""
        row: dict[str, Any] = parse_line(line)
        if twice := sorted(repeated_keys(row) & {self.id, *self.columns}):
            row[self.content] = RowError(f"the line names '{twice[0]}' twice")
        return row

    def infer_types(self, storage: Storage, uris: Sequence[str]) -> dict[str, pa.DataType | None]:
        """Types that fit the first lines of each file."""
        columns: dict[str, list[Any]] = {name: [] for name in self.metadata_names}
        present: dict[str, None] = {}
        for uri in uris:
            for _, line in islice(read_lines(storage, uri), SAMPLE_LINES):
                try:
                    row = parse_line(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    present |= dict.fromkeys(row)
                    for name, values in columns.items():
                        values.append(row.get(name, ABSENT))
        if present:
            check_present(uris[0], self.metadata_names, list(present))
        return {name: infer(values) for name, values in columns.items()}


def read_lines(storage: Storage, uri: str) -> Iterator[tuple[int, bytes]]:
    """Byte offset and content of each line that is not blank."""
    position = 0
    with storage.fs.open(storage.path_of(uri), "rb") as file:
        for line in file:
            if line.strip():
                yield position, line
            position += len(line)
