"""Ids of objects: one form as text for each type that can name an object."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from operators.batch import RowError
from pipelines.values.arrays import as_bytes, cast, isolating, nulls_of, valid_texts
from pipelines.values.conversions import LongNumber, shown
from pipelines.values.types import kind_of, plain

ID_KINDS = ("null", "text", "bytes", "int", "decimal", "uuid", "float", "bool", "date", "time", "timestamp")
FRACTION = re.compile(r"\.([0-9]+)")
OFFSET = re.compile(r"([+-][0-9]{2})([0-9]{2})$")


def can_name(kind: pa.DataType) -> bool:
    """Whether values of a type have a form as text that an object may be called by."""
    return kind_of(kind) in ID_KINDS


def id_texts(array: pa.Array) -> list[str | RowError | None]:
    """Ids as text: bytes as UTF-8, UUIDs in their usual form, decimals without exponent, times as Python writes them.

    None if there is no value; an error where it has no such form.
    """
    array = plain(array)
    kind, null = kind_of(array.type), nulls_of(array)
    if kind == "null":
        return [None] * len(array)
    if kind in ("text", "bytes"):
        texts = valid_texts(as_bytes(array).cast(pa.large_string(), safe=False)).to_pylist()
    elif kind in ("date", "time", "timestamp"):
        texts = [
            None if text is None else moment_text(text) for text in isolating(array, pa.string(), cast).to_pylist()
        ]
    else:
        texts = [
            None if value is None else f"{value:f}" if kind == "decimal" else str(value) for value in array.to_pylist()
        ]
    return [
        RowError(f"{shown(array, row)} is none") if text is None and not null[row] else text
        for row, text in enumerate(texts)
    ]


def moment_text(text: str) -> str:
    """What Arrow writes of a time as Python writes it."""
    text = FRACTION.sub(shorten, text.replace("Z", "+00:00"))
    return OFFSET.sub(r"\1:\2", text)


def shorten(found: re.Match[str]) -> str:
    """A fraction of a second: of six digits, or of nine, or none where it is zero."""
    digits = found[1].rstrip("0")
    return f".{digits:0<{6 if len(digits) <= 6 else 9}}" if digits else ""


def id_of(value: Any) -> str | RowError | None:
    """A value of JSON as an id; see `id_texts`."""
    if value is None:
        return None
    if isinstance(value, list | dict):
        return RowError("a list" if isinstance(value, list) else "an object")
    return str.__str__(value) if isinstance(value, LongNumber) else str(value)
