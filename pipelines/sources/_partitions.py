"""Hive's partition columns: folders named `year=2024`, whose values every object below them has as metadata."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from operators.batch import RowError
from pipelines.sources.base import Objects, SourceConfig, column_names, column_types
from pipelines.values.conversions import convert

NULL = "__HIVE_DEFAULT_PARTITION__"


def partition_fields(source: SourceConfig) -> list[pa.Field]:
    """The job's partition columns: text, unless the job states a type."""
    stated = column_types(source.partitions)
    return [pa.field(name, stated.get(name, pa.string())) for name in column_names(source.partitions)]


def partitions_of(path: str) -> dict[str, str | None]:
    """Values of the folders of a relative path that are named `name=value`; of folders of one name the inner one's.

    Both sides are percent-decoded.
    """
    pairs = (folder.split("=", 1) for folder in path.split("/")[:-1] if "=" in folder)
    return {unquote(name): None if value == NULL else unquote(value) for name, value in pairs}


def read_with_partitions(source: SourceConfig, entries: pa.Table, fields: list[pa.Field]) -> Objects:
    """See `SourceConfig.read_objects`; `fields` hold the partition columns too. A value that is not of its type rejects the object."""
    stated, names = column_types(source.partitions), column_names(source.partitions)
    if not names:
        return source.read_objects(entries, fields)
    objects = source.read_objects(entries, [field for field in fields if field.name not in names])
    root = f"{source.storage.uri_of(source.storage.root).rstrip('/')}/"
    found = [partitions_of((uri or "").removeprefix(root)) for uri in entries["uri"].to_pylist()]
    contents: list[Any] = list(objects.contents)
    columns = []
    for field in fields:
        if field.name not in names:
            columns.append(objects.metadata[field.name])
            continue
        texts = pa.array([values.get(field.name) for values in found], pa.string())
        array, faults = convert(texts, field, field.name in stated)
        columns.append(array)
        for row, fault in faults.items():
            contents[row] = contents[row] if isinstance(contents[row], Exception) else RowError(fault)
    canonical = None
    if objects.canonical is not None:
        seen = [json.dumps([values.get(name) for name in names]).encode() for values in found]
        canonical = [one + two for one, two in zip(objects.canonical, seen, strict=True)]
    return Objects(contents, pa.Table.from_arrays(columns, schema=pa.schema(fields)), canonical)
