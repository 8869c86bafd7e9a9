"""Sources for the tests: a place to put files in, on disk or in a bucket, and what each kind must give of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources import source_class
from pipelines.sources.base import LISTING_SCHEMA, SourceConfig

Rows = Sequence[Mapping[str, Any]]

ROWS: Rows = [
    {"id": "eins", "body": "grüße, 世界 🙂", "title": "a, b", "year": 1999},
    {"id": "zwei", "body": "two\nlines, \"quoted\"", "title": None, "year": 2001},
    {"id": "drei/3", "body": "x" * 5000, "title": "ü", "year": None},
    {"id": "vier", "body": "last", "title": "d", "year": -4},
]  # fmt: skip
TABLE = {"id": "id", "content": "body", "metadata": ["title", "year"]}


def nothing_known(uri: str, version: str) -> None:
    return None


def as_parquet(rows: Rows) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), out, row_group_size=2)
    return out.getvalue()


def as_jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: Rows) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


TABLE_FORMATS: dict[str, Callable[[Rows], bytes]] = {"parquet": as_parquet, "jsonl": as_jsonl, "csv": as_csv}
KINDS = ["files", *TABLE_FORMATS]


@dataclass
class Store:
    """A folder to put files in: on disk, or in a bucket."""

    uri: str
    options: dict[str, str]
    client: Any = None

    def put(self, name: str, content: bytes) -> None:
        if self.client is None:
            path = Path(self.uri) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        else:
            self.client.put_object(Bucket="objects", Key=f"{self.prefix}/{name}", Body=content)

    def remove(self, name: str) -> None:
        if self.client is None:
            (Path(self.uri) / name).unlink()
        else:
            self.client.delete_object(Bucket="objects", Key=f"{self.prefix}/{name}")

    @property
    def prefix(self) -> str:
        return self.uri.removeprefix("s3://objects/")

    def source(self, kind: str, name: str = "", **fields: Any) -> SourceConfig:
        uri = f"{self.uri}/{name}" if name else self.uri
        return source_class(kind)(kind=kind, uri=uri, storage_options=self.options, **fields)


@dataclass
class Case:
    """A source over `ROWS`, spread over two files in two folders, and what it must give."""

    source: SourceConfig
    expected: dict[str, bytes | str]


def make_case(kind: str, store: Store) -> Case:
    if kind == "files":
        contents = {"a b/ü.txt": b"one", "c.txt": b"", "deep/er/[x]#1.txt": b"\xff\x00two"}
        for name, content in contents.items():
            store.put(name, content)
        return Case(store.source("files"), dict(contents))
    write = TABLE_FORMATS[kind]
    store.put(f"a b/ü#1.{kind}", write(ROWS[:3]))
    store.put(f"z.{kind}", write(ROWS[3:]))
    store.put("README.md", b"not one of the files")
    return Case(store.source(kind, **TABLE), {row["id"]: row["body"] for row in ROWS})


def list_all(source: SourceConfig, known: Any = nothing_known) -> pa.Table:
    pieces = list(source.list_objects(known))
    assert all(piece.schema.equals(LISTING_SCHEMA) for piece in pieces)
    return pa.concat_tables(pieces) if pieces else LISTING_SCHEMA.empty_table()


def read_all(source: SourceConfig) -> tuple[dict[str, Any], pa.Table]:
    """Contents by id, and the metadata."""
    listing = list_all(source)
    objects = source.read_objects(listing, source.metadata_fields(iter([listing])))
    return dict(zip(listing["object_id"].to_pylist(), objects.contents, strict=True)), objects.metadata
