"""Objects that are records of CSV files with a header.

DuckDB's `read_csv` with `store_rejects` was tried first. It tells where rejected lines lie but not where the others do, so that
no record could be fetched from its place; what follows an unclosed quote it drops, and it reads few encodings without an extension
of its own. The tests compare with it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from latentlake.storage import Storage
from operators.batch import RowError, describe
from operators.errors import SourceError
from pipelines.sources._csv_records import Encoding, Stretch, check_delimiter, codec_of, encoding_of, read_records
from pipelines.sources._tables import Record, Rows, TableSource, check_present, fetch_ranges
from pipelines.values.inference import infer_texts

SAMPLE_BYTES = 1 << 20
csv.field_size_limit(1 << 30)  # the default of 128 KiB refuses long documents


class Source(TableSource):
    """CSV with a header; fields may hold line breaks when quoted. An empty metadata field is null.

    A byte order mark tells the encoding, unless `encoding` is stated; else it is UTF-8.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".csv",)
    younger_fields: ClassVar[frozenset[str]] = TableSource.younger_fields | {"encoding"}

    kind: Literal["csv"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str | None = None

    @field_validator("encoding")
    @classmethod
    def a_known_encoding(cls, name: str | None) -> str | None:
        """One that a record can be read in from its place in the file."""
        return None if name is None else codec_of(name)

    @model_validator(mode="after")
    def a_delimiter_that_can_be_told(self) -> Self:
        """It is no quote, no line end, and no part of another character."""
        check_delimiter(self.delimiter, self.encoding)
        return self

    def scan(self, storage: Storage, uri: str) -> Iterator[Record]:
        """Ids with the offsets of their records. A broken record, or a file without a header that can be read, has an error."""
        with storage.fs.open(storage.path_of(uri), "rb") as file:
            stretches, encoding, header = self.open(file, uri)
            if isinstance(header, str):
                yield Record(None, 0, None, header)
                return
            column = header.index(self.id)
            for stretch in stretches:
                fields = fields_of(stretch, encoding, self.delimiter)
                if isinstance(fields, list) and len(fields) != len(header):
                    fields = f"{stretch.lines}: the record has {len(fields)} fields, the header {len(header)}"
                if isinstance(fields, str):
                    yield Record(None, stretch.position, stretch.size, fields)
                else:
                    yield Record(fields[column], stretch.position, stretch.size)

    def fetch(
        self, storage: Storage, uri: str, version: str | None, positions: Sequence[int], sizes: Sequence[int]
    ) -> Rows:
        """Records at byte offsets; the content of what is no record there is a `RowError`."""
        encoding, header = read_header(storage, uri, version, self.delimiter, self.encoding)
        places = {name: header.index(name) for name in self.columns}
        contents: list[Any] = []
        metadata: dict[str, list[str | None]] = {name: [] for name in self.metadata_names}
        for block in fetch_ranges(storage, uri, positions, sizes):
            try:
                (fields,) = csv.reader([block.decode(encoding.codec)], delimiter=self.delimiter, strict=True)
                row = {name: fields[at] for name, at in places.items()}
                contents.append(row[self.content])
            except (ValueError, IndexError, csv.Error) as failure:
                row = {}
                contents.append(RowError(f"no CSV record: {describe(failure)}"))
            for name, values in metadata.items():
                values.append(row.get(name) or None)
        return Rows(contents, metadata)

    def open(self, file: Any, uri: str) -> tuple[Iterator[Stretch], Encoding, list[str] | str]:
        """See `open_records`. Raises `SourceError` where the header is right and lacks a column that the job names."""
        stretches, encoding, header = open_records(file, self.delimiter, self.encoding)
        if isinstance(header, list):
            twice = sorted(name for name in {self.id, *self.columns} if header.count(name) > 1)
            if twice:
                return stretches, encoding, f"column '{twice[0]}' stands {header.count(twice[0])} times in the header"
            check_present(uri, [self.id, *self.columns], header)
        return stretches, encoding, header

    def forget(self) -> None:
        """Drop the headers that were kept."""
        read_header.cache_clear()

    def infer_types(self, storage: Storage, uris: Sequence[str]) -> dict[str, pa.DataType | None]:
        """Types that fit the records of each file's first megabyte."""
        columns: dict[str, list[str]] = {name: [] for name in self.metadata_names}
        for uri in uris:
            with storage.fs.open(storage.path_of(uri), "rb") as file:
                stretches, encoding, header = self.open(file, uri)
                for stretch in stretches if isinstance(header, list) else ():
                    if stretch.position >= SAMPLE_BYTES:
                        break
                    fields = fields_of(stretch, encoding, self.delimiter)
                    if isinstance(fields, list) and len(fields) == len(header):
                        for name, texts in columns.items():
                            texts.append(fields[header.index(name)])
        return {name: infer_texts(texts) for name, texts in columns.items()}


def fields_of(stretch: Stretch, encoding: Encoding, delimiter: str) -> list[str] | str:
    """The fields of a record, or what is wrong with it."""
    if stretch.fault:
        return f"{stretch.lines}: {stretch.fault}"
    try:
        text = stretch.content.decode(encoding.codec)
    except UnicodeDecodeError as failure:
        found = stretch.content[failure.start : failure.start + 1].hex().upper()
        return f"{stretch.lines}: not {encoding.codec.upper()} at byte {stretch.position + failure.start} (0x{found})"
    if "\0" in text:
        return f"{stretch.lines}: a NUL at character {text.index(chr(0))}"
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as failure:
        return f"{stretch.lines}: no CSV record: {failure}"


def open_records(file: Any, delimiter: str, stated: str | None) -> tuple[Iterator[Stretch], Encoding, list[str] | str]:
    """Records of a file behind its header, its encoding, and its column names, or what is wrong with the header."""
    encoding = encoding_of(file.read(4), stated)
    stretches = read_records(file, encoding, delimiter)
    first = next(stretches, None)
    if first is None:
        return stretches, encoding, "the file is empty, without even a header"
    header = fields_of(first, encoding, delimiter)
    if isinstance(header, str):
        remedy = "" if stated or first.fault else "; state `encoding` where the file is not in UTF-8"
        return stretches, encoding, f"the header cannot be read: {header}{remedy}"
    return stretches, encoding, header


@lru_cache(maxsize=64)
def read_header(
    storage: Storage, uri: str, version: str | None, delimiter: str, stated: str | None
) -> tuple[Encoding, list[str]]:
    """Encoding and column names of a CSV file. Raises `SourceError` where its header cannot be read."""
    with storage.fs.open(storage.path_of(uri), "rb") as file:
        _, encoding, header = open_records(file, delimiter, stated)
    if isinstance(header, str):
        raise SourceError(f"'{uri}': {header}")
    return encoding, header
