"""The one table of conversions, from each kind of value to each that it may become, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pyarrow as pa

from pipelines.values import texts
from pipelines.values.arrays import as_bytes, cast, equal, hide, isolating, nulls_of, valid_texts, valid_values
from pipelines.values.texts import by_value, parsed
from pipelines.values.types import kind_of, same_zone


@dataclass(frozen=True)
class Conversion:
    """One way from a kind of value to another. `forward` gives null, or raises, where a value does not fit the type.

    `regained` says where the value can be had again from what it became (bool); None: the opposite conversion is asked.
    """

    forward: Callable[[pa.Array, pa.DataType], pa.Array]
    regained: Callable[[pa.Array, pa.Array, bool], np.ndarray] | None = None


def change_leaves(array: pa.Array, kind: pa.DataType, stated: bool) -> tuple[pa.Array, np.ndarray]:
    """Plain values without parts as another type, null where one does not fit, and where that is (bool)."""
    present = ~nulls_of(array)
    if kind_of(array.type) == "text":
        array = valid_texts(array)
    elif kind_of(array.type) in ("decimal", "date", "time"):
        array = valid_values(array)
    if array.type == kind:
        return array, present & nulls_of(array)
    conversion = find_conversion(array.type, kind)
    if conversion is None:
        return pa.nulls(len(array), kind), present
    out = isolating(array, kind, conversion.forward)
    regained = conversion.regained(array, out, stated) if conversion.regained else comes_back(array, out)
    bad = present & ~(regained & ~nulls_of(out))
    return hide(out, bad), bad


def find_conversion(source: pa.DataType, kind: pa.DataType) -> Conversion | None:
    """How values of a type become another's; None if they cannot. Timestamps keep their zone, or that they have none."""
    pair = kind_of(source), kind_of(kind)
    zones = [getattr(each, "tz", None) for each in (source, kind)]
    if pair[0] in ("date", "timestamp") and pair[1] in ("date", "timestamp") and not same_zone(*zones):
        return None
    return CONVERSIONS.get(pair)


def comes_back(array: pa.Array, out: pa.Array) -> np.ndarray:
    """Where the opposite conversion gives the value again."""
    back = CONVERSIONS[kind_of(out.type), kind_of(array.type)].forward
    return equal(array, isolating(out, array.type, back))


def from_bytes(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Texts, or bytes, as one or the other."""
    return as_bytes(array).cast(kind)


def to_floats(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Numbers as the nearest floats. (Arrow's cast refuses every whole number of more than 53 bits.)"""
    with np.errstate(over="ignore"):
        values = array.fill_null(0).to_numpy(zero_copy_only=False).astype(kind.to_pandas_dtype())
    return pa.array(values, kind, mask=nulls_of(array))


# What is not here does not fit: a number is no truth, a duration no number, and nothing with parts is a value without.
CONVERSIONS: Mapping[tuple[str, str], Conversion] = {
    ("bool", "bool"): Conversion(cast),
    ("bool", "text"): Conversion(cast),
    ("int", "int"): Conversion(cast),
    ("int", "float"): Conversion(to_floats),
    ("int", "decimal"): Conversion(by_value(Decimal)),
    ("int", "text"): Conversion(cast),
    ("float", "int"): Conversion(cast),
    ("float", "float"): Conversion(to_floats),
    ("float", "decimal"): Conversion(by_value(lambda value: Decimal(repr(float(value))))),
    ("float", "text"): Conversion(by_value(lambda value: texts.float_text(float(value)))),
    ("decimal", "int"): Conversion(by_value(lambda value: int(value) if value == int(value) else None)),
    ("decimal", "float"): Conversion(by_value(float), texts.float_is_decimal),
    ("decimal", "decimal"): Conversion(cast),
    ("decimal", "text"): Conversion(by_value(lambda value: f"{value:f}")),
    ("text", "bool"): Conversion(by_value(texts.TRUTHS.get), texts.takes_what_it_keeps),
    ("text", "int"): Conversion(parsed(texts.as_whole)),
    ("text", "float"): Conversion(by_value(texts.to_float), texts.gives_float),
    ("text", "decimal"): Conversion(by_value(texts.to_decimal), texts.gives_decimal),
    ("text", "text"): Conversion(from_bytes),
    ("text", "bytes"): Conversion(from_bytes),
    ("text", "date"): Conversion(parsed(texts.as_date)),
    ("text", "time"): Conversion(texts.to_time, texts.gives_again(lambda text: texts.count_of(text, texts.NANO))),
    ("text", "timestamp"): Conversion(parsed(texts.as_moment), texts.gives_again(texts.moment_of)),
    ("bytes", "bytes"): Conversion(by_value(bytes)),
    ("bytes", "text"): Conversion(from_bytes),
    ("date", "date"): Conversion(cast),
    ("date", "timestamp"): Conversion(cast),
    ("date", "text"): Conversion(cast),
    ("time", "time"): Conversion(cast),
    ("time", "text"): Conversion(cast),
    ("timestamp", "timestamp"): Conversion(cast),
    ("timestamp", "date"): Conversion(cast),
    ("timestamp", "text"): Conversion(cast),
    ("uuid", "text"): Conversion(by_value(str)),
    ("text", "uuid"): Conversion(texts.to_uuid),
    ("duration", "duration"): Conversion(cast),
}
