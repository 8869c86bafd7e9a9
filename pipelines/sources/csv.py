"""Objects that are records of CSV files with a header."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from latentlake.storage import Storage
from operators.errors import SourceError
from pipelines.sources._tables import Record, Rows, TableSource, check_columns, fetch_ranges
from pipelines.values.inference import infer_texts

SAMPLE_BYTES = 1 << 20
csv.field_size_limit(1 << 30)  # the default of 128 KiB refuses long documents


class Source(TableSource):
    """UTF-8 CSV with a header; fields may hold line breaks when quoted. An empty metadata field is null."""

    suffixes: ClassVar[tuple[str, ...]] = (".csv",)

    kind: Literal["csv"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=1)

    def scan(self, storage: Storage, uri: str) -> Iterator[Record]:
        """Ids with the offsets of their records."""
        with storage.fs.open(storage.path_of(uri), "rb") as file:
            lines = CountedLines(file)
            reader = csv.reader(lines, delimiter=self.delimiter)
            header = next_header(reader, uri)
            check_columns(uri, [self.id, *self.columns], header)
            column, start = header.index(self.id), lines.consumed
            while (record := next_record(reader)) is not None:
                size, position = lines.consumed - start, start
                start = lines.consumed
                if isinstance(record, csv.Error):
                    yield Record(None, position, size, f"no CSV record: {record}")
                elif not record:
                    continue
                elif len(record) != len(header):
                    yield Record(None, position, size, f"the record has {len(record)} fields, the header {len(header)}")
                else:
                    yield Record(record[column], position, size)

    def fetch(
        self, storage: Storage, uri: str, version: str | None, positions: Sequence[int], sizes: Sequence[int]
    ) -> Rows:
        """Records at byte offsets."""
        header = read_header(storage, uri, version, self.delimiter)
        places = [header.index(name) for name in self.columns]
        texts = (block.decode("utf-8") for block in fetch_ranges(storage, uri, positions, sizes))
        records = [next(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter)) for text in texts]
        column = {name: [record[at] for record in records] for name, at in zip(self.columns, places, strict=True)}
        return Rows(
            column[self.content], {name: [text or None for text in column[name]] for name in self.metadata_names}
        )

    def forget(self) -> None:
        """Drop the headers that were kept."""
        read_header.cache_clear()

    def infer_types(self, storage: Storage, uris: Sequence[str]) -> dict[str, pa.DataType | None]:
        """Types that fit the records of each file's first megabyte."""
        columns: dict[str, list[str]] = {name: [] for name in self.metadata_names}
        for uri in uris:
            with storage.fs.open(storage.path_of(uri), "rb") as file:
                lines = CountedLines(file)
                reader = csv.reader(lines, delimiter=self.delimiter)
                header = next_header(reader, uri)
                check_columns(uri, self.metadata_names, header)
                while lines.consumed < SAMPLE_BYTES and (record := next_record(reader)) is not None:
                    if not isinstance(record, csv.Error) and len(record) == len(header):
                        for name, texts in columns.items():
                            texts.append(record[header.index(name)])
        return {name: infer_texts(texts) for name, texts in columns.items()}


class CountedLines:
    """Lines of a binary file as text, counting the bytes given out."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.consumed = 0

    def __iter__(self) -> CountedLines:
        return self

    def __next__(self) -> str:
        line: bytes = self.file.readline()
        if not line:
            raise StopIteration
        text = line.decode("utf-8-sig" if self.consumed == 0 else "utf-8")
        self.consumed += len(line)
        return text


@lru_cache(maxsize=64)
def read_header(storage: Storage, uri: str, version: str | None, delimiter: str) -> list[str]:
    """Column names of a CSV file."""
    with storage.fs.open(storage.path_of(uri), "rb") as file:
        return next_header(csv.reader(CountedLines(file), delimiter=delimiter), uri)


def next_header(reader: Iterator[list[str]], uri: str) -> list[str]:
    """Column names; none in an empty file. Raises `SourceError` where the first line is no CSV."""
    header = next_record(reader)
    if isinstance(header, csv.Error):
        raise SourceError(f"'{uri}' is no CSV with a header: {header}")
    return header or []


def next_record(reader: Iterator[list[str]]) -> list[str] | csv.Error | None:
    """The next record, or what is wrong with it; None at the end. The reader goes on behind a broken one."""
    try:
        return next(reader, None)
    except csv.Error as failure:
        return failure
