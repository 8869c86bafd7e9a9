"""Metadata as bytes to be hashed: of what the source holds, so that no change of it is taken for none.

Equal bytes are equal values: 1, 1.0, "1" and true differ, as do null and a key that is not there, 1.50 and 1.5 of a decimal,
and timestamps of two zones or precisions. The order of an object's keys does not matter, nor how wide an integer is.
"""

from __future__ import annotations

from array import array as packed
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.values.arrays import as_bytes, nulls_of
from pipelines.values.conversions import ABSENT, Ambiguous, LongNumber, Values, entries_of, items_of
from pipelines.values.types import fields_of, is_list, kind_of, plain

# Raise it where `object_hash` changes for objects that have not changed. It is part of the key by which a run that was cut
# short is found again, and of no other: a table whose hashes are of an earlier scheme stays as it is, and an object of it is
# written again, with the vectors that it has, once it is read.
HASH_SCHEME = 2  # metadata as the source has it; 1: as the table has it
NOTHING = b"{}"  # of an object without metadata
NULL, MISSING, TRUE, FALSE = b"n", b"-", b"t", b"f"


def canonical_rows(columns: Mapping[str, Values], rows: int) -> list[bytes]:
    """Metadata of each of some rows, by column, as bytes."""
    if not columns:
        return [NOTHING] * rows
    parts = [[encode_text(name) + value for value in encode(columns[name])] for name in sorted(columns)]
    return [b"".join(row) for row in zip(*parts, strict=True)]


def encode(values: Values) -> list[bytes]:
    """Each value as bytes, of which none is the beginning of another's."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return encode_array(plain(values))
    return [encode_value(value) for value in values]


def encode_value(value: Any) -> bytes:
    """A value of JSON as bytes."""
    if value is None:
        return NULL
    if isinstance(value, str):
        return b"#" + encode_text(value) if isinstance(value, LongNumber) else b"s" + encode_text(value)
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, int):
        return b"i%d;" % value
    if isinstance(value, float):
        return encode_float(value)
    if isinstance(value, list):
        if len(value) > 8 and all(type(item) is float for item in value):
            return b"v%d:" % len(value) + packed("d", value).tobytes()
        return b"l%d:" % len(value) + b"".join(map(encode_value, value))
    if isinstance(value, dict):
        again = b"a" if isinstance(value, Ambiguous) else b"o"
        return (
            again + b"%d:" % len(value) + b"".join(encode_text(key) + encode_value(value[key]) for key in sorted(value))
        )
    if value is ABSENT:
        return MISSING
    return b"?" + encode_text(repr(value))


def encode_text(text: str) -> bytes:
    """A text as bytes that say how long they are."""
    return encode_bytes(text.encode(errors="surrogatepass"))


def encode_bytes(content: bytes) -> bytes:
    """Bytes behind their number."""
    return b"%d:" % len(content) + content


def encode_float(number: float) -> bytes:
    """A float as the shortest text that gives it again."""
    return b"d%s;" % repr(number).encode()


def encode_array(array: pa.Array) -> list[bytes]:
    """Values of a plain array as bytes."""
    kind = array.type
    if pa.types.is_null(kind):
        return [NULL] * len(array)
    if is_list(kind):
        return encode_lists(array)
    if pa.types.is_struct(kind):
        return encode_structs(array)
    if pa.types.is_map(kind):
        return encode_maps(array)
    return [NULL if value is None else value for value in encode_leaves(array)]


def encode_leaves(array: pa.Array) -> Iterable[bytes | None]:
    """Values that have no parts as bytes; None for null. No value is made a Python object that it may not fit."""
    kind = kind_of(array.type)
    if kind in ("text", "bytes"):
        mark = b"s" if kind == "text" else b"b"
        return (None if v is None else mark + encode_bytes(v) for v in as_bytes(array).to_pylist())
    if kind in ("bool", "int"):
        return map(encode_value, array.to_pylist())
    if kind == "float":
        return (None if value is None else encode_float(float(value)) for value in array.to_pylist())
    if kind == "uuid":
        return (None if value is None else b"k" + encode_text(str(value)) for value in array.to_pylist())
    if kind == "decimal":
        return (None if value is None else b"m" + encode_text(f"{value:f}") for value in array.to_pylist())
    if kind in ("date", "time", "timestamp", "duration"):
        mark = b"u" + encode_text(str(array.type))
        whole = pa.int32() if array.type.bit_width == 32 else pa.int64()
        return (None if value is None else mark + b"%d;" % value for value in array.view(whole).to_pylist())
    mark = b"?" + encode_text(str(array.type))
    nulls = nulls_of(array)
    return (None if nulls[row] else mark + encode_text(str(array.slice(row, 1))) for row in range(len(array)))


def encode_lists(array: pa.Array) -> list[bytes]:
    """Lists as bytes."""
    items, lengths = items_of(array)
    return join_parts(b"l", encode_array(plain(items)), lengths.tolist(), nulls_of(array))


def encode_structs(array: pa.Array) -> list[bytes]:
    """Structs as bytes, each field by its name."""
    head = b"o%d:" % array.type.num_fields
    parts = [
        [encode_text(field.name) + value for value in encode_array(plain(pc.struct_field(array, [at])))]
        for at, field in enumerate(fields_of(array.type))
    ]
    rows = [head + b"".join(row) for row in zip(*parts, strict=True)] if parts else [head] * len(array)
    return [NULL if null else row for row, null in zip(rows, nulls_of(array), strict=True)]


def encode_maps(array: pa.Array) -> list[bytes]:
    """Maps as bytes, in the order of their entries."""
    keys, items, lengths = entries_of(array)
    pairs = zip(encode_array(plain(keys)), encode_array(plain(items)), strict=True)
    return join_parts(b"p", [key + item for key, item in pairs], lengths.tolist(), nulls_of(array))


def join_parts(mark: bytes, parts: Sequence[bytes], lengths: Sequence[int], null: np.ndarray) -> list[bytes]:
    """Successive parts, `lengths` of them at a time, as one."""
    rows, start = [], 0
    for length, missing in zip(lengths, null, strict=True):
        rows.append(NULL if missing else mark + b"%d:" % length + b"".join(parts[start : start + length]))
        start += length
    return rows
