"""Files that a suite reads, whole: Parquet, JSONL, JSON, CSV and TSV, as columns by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from operators.errors import SpecError

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")


def read_text(path: str | Path) -> str:
    """The text of a file, UTF-8 with or without a mark. Raises `SpecError`."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as failure:
        raise SpecError(f"cannot read '{path}' of the suite: {failure.strerror or failure}") from failure
    except UnicodeDecodeError as failure:
        raise SpecError(f"'{path}' of the suite is not UTF-8 text: byte {failure.start} cannot be read.") from failure


def read_records(path: str | Path) -> dict[str, list[Any]]:
    """Columns by name, of a file whose first line, or whose records, name them. Raises `SpecError`."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise SpecError(f"'{path}' of the suite: no reader for '{suffix}'. Known: {', '.join(SUFFIXES)}.")
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            return columns_of(pq.read_table(path))
        if suffix in (".jsonl", ".ndjson", ".json"):
            return columns_of_records(read_json(read_text(path), suffix == ".json"))
        return columns_of(read_delimited(path, "," if suffix == ".csv" else "\t"))
    except (pa.ArrowException, OSError, ValueError) as failure:
        raise SpecError(f"cannot read '{path}' of the suite: {' '.join(str(failure).split())}") from failure


def read_json(text: str, whole: bool) -> list[Any]:
    """Records of JSON, which is one list, or one object per line."""
    found = json.loads(text) if whole else [json.loads(line) for line in text.splitlines() if line.strip()]
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise ValueError("expected JSON objects, one per line, or one list of them")
    return found


def read_delimited(path: str | Path, delimiter: str) -> pa.Table:
    """A table with a head line; every cell as text."""
    from pyarrow import csv

    with Path(path).open("rb") as file:
        names = file.readline().decode("utf-8-sig").rstrip("\r\n").split(delimiter)
    quote = '"' if delimiter == "," else False
    names = [name.strip('"') for name in names]
    return csv.read_csv(
        path,
        read_options=csv.ReadOptions(column_names=names, skip_rows=1),
        parse_options=csv.ParseOptions(delimiter=delimiter, quote_char=quote, newlines_in_values=bool(quote)),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
    )


def columns_of(table: pa.Table) -> dict[str, list[Any]]:
    """Columns of an Arrow table."""
    return {name: table[name].to_pylist() for name in table.column_names}


def columns_of_records(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Columns of records; what one of them lacks is None."""
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def pick(columns: dict[str, list[Any]], names: Sequence[str], path: str | Path, what: str) -> list[Any]:
    """The first of the columns `names` that there is. Raises `SpecError`, naming those that there are."""
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise SpecError(
            f"'{path}' of the suite has no column of {what}: it is called {' or '.join(names)}.\n"
            f"  Columns: {', '.join(columns) or 'none'}"
        )
    return columns[found]
