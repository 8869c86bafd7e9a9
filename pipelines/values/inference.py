"""The type of a column, from a sample of its values: one that holds all of them, and loses nothing of those that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from operators.errors import SchemaMismatch
from pipelines.values.conversions import ABSENT, Ambiguous, Unusable, is_encodable, natural_type
from pipelines.values.leaves import find_conversion
from pipelines.values.texts import PLAIN, UNIT_DIGITS, WHOLE
from pipelines.values.types import fields_of, is_list, kind_of, same_zone

MOST_FIELDS = 256  # of a struct; objects of more keys than that are maps
SPELLINGS = (("true", "false"), ("True", "False"), ("TRUE", "FALSE"))


def infer_texts(texts: Sequence[str | None]) -> pa.DataType | None:
    """Type of a column of texts; None if all are empty.

    A number only where each text is just how its number is written: `007`, `1e5`, `1.50`, `0x1F` and twenty digits stay text.
    """
    known = [text for text in texts if text]
    if not known:
        return None
    if all(WHOLE.fullmatch(text) and text != "-0" for text in known) and all(-(2**63) <= int(t) < 2**63 for t in known):
        return pa.int64()
    if all(PLAIN.fullmatch(text) for text in known):
        written = [np.format_float_positional(float(text), unique=True, trim="-") for text in known]
        if known == written or known == [text if "." in text else f"{text}.0" for text in written]:
            return pa.float64()
    if any(set(known) <= set(spelling) for spelling in SPELLINGS):
        return pa.bool_()
    return pa.string()


def infer(values: Sequence[Any]) -> pa.DataType | None:
    """Type of a column of JSON values; None if nothing is known of it: all are null, or absent.

    Numbers widen from int64 to float64, where that is exact, to string. Of values with parts and without, and of lists and
    objects, the more frequent decide; the others will not fit. An empty list says nothing beside objects (PHP writes an
    empty object so).
    """
    known = [value for value in values if value is not None and value is not ABSENT and not isinstance(value, Unusable)]
    objects = [value for value in known if isinstance(value, dict) and not isinstance(value, Ambiguous)]
    lists = [value for value in known if isinstance(value, list) and (value or not objects)]
    scalars = [value for value in known if not isinstance(value, list | dict)]
    most = max((scalars, lists, objects), key=len)
    if not most:
        return None
    if most is lists:
        return pa.list_(or_text(infer([item for value in lists for item in value])))
    return infer_scalars(scalars) if most is scalars else infer_objects(objects)


def or_text(kind: pa.DataType | None) -> pa.DataType:
    """A type, or text where nothing is known. (A struct without fields is not true.)"""
    return pa.string() if kind is None else kind


def infer_scalars(values: Sequence[Any]) -> pa.DataType:
    """Type of JSON values without parts."""
    kinds = {natural_type(value) for value in values}
    numbers = kinds <= {pa.int64(), pa.uint64(), pa.decimal256(76, 0), pa.float64()}
    if kinds == {pa.bool_()} or kinds == {pa.int64()}:
        return kinds.pop()
    if numbers and pa.float64() in kinds and all(isinstance(v, float) or is_exact(v) for v in values):
        return pa.float64()
    if kinds <= {pa.int64(), pa.uint64()} and min(values) >= 0:
        return pa.uint64()
    return pa.string()


def is_exact(number: int) -> bool:
    """Whether a float holds a whole number."""
    try:
        return float(number) == number
    except OverflowError:
        return False


def infer_objects(values: Sequence[dict[str, Any]]) -> pa.DataType:
    """Type of JSON objects."""
    keys = list(dict.fromkeys(key for value in values for key in value if is_encodable(key) and "\0" not in key))
    if len(keys) > MOST_FIELDS:
        return pa.map_(pa.string(), or_text(infer([item for value in values for item in value.values()])))
    return pa.struct([pa.field(key, or_text(infer([value.get(key) for value in values]))) for key in keys])


def widest(name: str, kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """The type that holds what a column has in all files; None if these say nothing. Raises `SchemaMismatch`."""
    found: pa.DataType | None = None
    for kind in kinds:
        if pa.types.is_null(kind) or kind == found:
            continue
        wider = kind if found is None else widen(found, kind)
        if wider is None:
            raise SchemaMismatch(
                f"metadata column '{name}' is {found} in one file of the source and {kind} in another.\n"
                "  Convert one of them, leave the column out, or state a type that takes both: "
                f"metadata: [{{column: {name}, type: string}}]."
            )
        found = wider
    return found


def widen(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """A type that the values of two types may be converted to; None if there is none."""
    if left == right:
        return left
    if is_list(left) and is_list(right):
        item = widen_nulls(left.value_type, right.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        fields = {field.name: field.type for field in fields_of(left)}
        for field in fields_of(right):
            kind = widen_nulls(fields.get(field.name, pa.null()), field.type)
            if kind is None:
                return None
            fields[field.name] = kind
        return pa.struct(list(fields.items()))
    if pa.types.is_map(left) and pa.types.is_map(right):
        key, item = widen(left.key_type, right.key_type), widen_nulls(left.item_type, right.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    return widen_leaves(left, right)


def widen_nulls(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """See `widen`; the null type says nothing."""
    if pa.types.is_null(left):
        return right
    return left if pa.types.is_null(right) else widen(left, right)


def widen_leaves(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """See `widen`: of types without parts."""
    kinds = {kind_of(left), kind_of(right)}
    widths = [kind.bit_width for kind in (left, right) if kind_of(kind) in ("int", "float", "date", "decimal")]
    if kinds == {"int"}:
        return (
            max((left, right), key=lambda kind: (kind.bit_width, pa.types.is_signed_integer(kind)))
            if same_sign(left, right)
            else pa.int64()
        )
    if kinds == {"float"}:
        return left if left.bit_width > right.bit_width else right
    if kinds == {"int", "float"}:
        return pa.float64()
    if kinds in ({"decimal"}, {"decimal", "int"}):
        return widen_decimals(left, right)
    if kinds == {"bytes"} or kinds == {"bytes", "text"}:
        return pa.large_binary() if "large" in f"{left}{right}" else pa.binary()
    if kinds == {"date"}:
        return pa.date64() if max(widths) == 64 else pa.date32()
    if (
        len(kinds) == 1
        and kinds <= {"time", "timestamp", "duration"}
        and same_zone(*(getattr(k, "tz", None) for k in (left, right)))
    ):
        return max((left, right), key=lambda kind: UNIT_DIGITS[kind.unit])
    if kinds == {"date", "timestamp"} and find_conversion(left, right):
        return left if kind_of(left) == "timestamp" else right
    if (
        all(kind_of(kind) == "text" or find_conversion(kind, pa.string()) for kind in (left, right))
        and "bytes" not in kinds
    ):
        same_kind = len(kinds) == 1 and "text" not in kinds
        return None if same_kind else pa.large_string() if "large_string" in (str(left), str(right)) else pa.string()
    return None


def same_sign(left: pa.DataType, right: pa.DataType) -> bool:
    """Whether both integers have a sign, or none."""
    return bool(pa.types.is_signed_integer(left) == pa.types.is_signed_integer(right))


def widen_decimals(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """A decimal for decimals and integers."""
    shapes = [(k.precision - k.scale, k.scale) if kind_of(k) == "decimal" else (20, 0) for k in (left, right)]
    whole, scale = (max(part) for part in zip(*shapes, strict=True))
    if whole + scale > 76:
        return None
    return (pa.decimal128 if whole + scale <= 38 else pa.decimal256)(whole + scale, scale)
