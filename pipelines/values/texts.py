"""How texts say values: what a text means, and whether it can be had again from that."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa

from pipelines.values.arrays import cast, isolating

TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
PLAIN = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
NO_NUMBERS = frozenset({"nan", "inf", "-inf", "infinity", "-infinity"})
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
CLOCK = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?")
MOMENT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9:.]+)(Z|[+-][0-9]{2}:?[0-9]{2})?)?")
UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}  # of a fraction of a second
NANO = UNIT_DIGITS["ns"]


def by_value(function: Callable[[Any], Any]) -> Callable[[pa.Array, pa.DataType], pa.Array]:
    """A conversion, value by value; the function gives None for one that does not fit."""

    def work(array: pa.Array, kind: pa.DataType) -> pa.Array:
        return pa.array([None if value is None else function(value) for value in array.to_pylist()], kind)

    return work


def parsed(function: Callable[[str, pa.DataType], str | None]) -> Callable[[pa.Array, pa.DataType], pa.Array]:
    """A conversion of texts that Arrow parses, once they are as it takes them; None for one that does not fit."""

    def work(array: pa.Array, kind: pa.DataType) -> pa.Array:
        return by_value(lambda text: function(text, kind))(array, pa.string()).cast(kind)

    return work


def to_float(text: str) -> float | None:
    """The number that a text says."""
    return float(text) if NUMBER.fullmatch(text) or text.lower() in NO_NUMBERS else None


def float_text(number: float) -> str:
    """A float as JSON has it, and Python's JSON where it has none."""
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(number), repr(number))


def to_decimal(text: str) -> Decimal | None:
    """The decimal that a text says."""
    return Decimal(text) if PLAIN.fullmatch(text) else None


def as_whole(text: str, kind: pa.DataType) -> str | None:
    """A text that says a whole number as Python writes it."""
    return text if WHOLE.fullmatch(text) and text != "-0" else None


def as_date(text: str, kind: pa.DataType) -> str | None:
    """A text that says a day."""
    return text if DATE.fullmatch(text) and is_day(text) else None


def is_day(text: str) -> bool:
    """Whether the calendar has a day."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return text.startswith("0000-")  # a year that Python lacks; Arrow judges
    return True


def as_moment(text: str, kind: pa.DataType) -> str | None:
    """A text that says a moment, as Arrow reads it; None if the type is coarser, or knows a zone and the text does not."""
    said = moment_of(text)
    if said is None:
        return None
    day, count, zone = said
    seconds, rest = divmod(count, 10**NANO)
    digits = UNIT_DIGITS[kind.unit]
    fraction, lost = f"{rest:09}"[:digits], f"{rest:09}"[digits:]
    if lost.strip("0") or (zone is None) != (kind.tz is None):
        return None
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{day}T{clock}{'.' if fraction else ''}{fraction}{zone or ''}"


def moment_of(text: str) -> tuple[str, int, str | None] | None:
    """Day, nanoseconds since midnight, and zone (`+hh:mm`) that a text says; None if it says no moment."""
    found = MOMENT.fullmatch(text)
    if found is None or not is_day(found[1]):
        return None
    count, zone = count_of(found[2] or "00:00", NANO), found[3]
    if count is None:
        return None
    if zone is not None:
        zone = "+00:00" if zone in ("Z", "-00:00", "-0000") else f"{zone[:3]}:{zone[-2:]}"
    return found[1], count, zone


def to_time(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """`12:30`, `12:30:05` or `12:30:05.25` as a time of day."""
    count = pa.int32() if pa.types.is_time32(kind) else pa.int64()
    return by_value(lambda text: count_of(text, UNIT_DIGITS[kind.unit]))(array, count).cast(kind)


def count_of(text: str, digits: int) -> int | None:
    """Units of 10^-digits seconds since midnight; None if a text is no time of day, or a finer one."""
    found = CLOCK.fullmatch(text)
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.group(1, 2, 3))
    fraction = (found[4] or "").rstrip("0")
    if hours > 23 or minutes > 59 or seconds > 59 or len(fraction) > digits:
        return None
    return int(((hours * 60 + minutes) * 60 + seconds) * 10**digits + int(fraction.ljust(digits, "0") or 0))


def to_uuid(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """UUIDs in their usual form."""
    storage = by_value(lambda text: UUID(text).bytes)(array, pa.binary(16))
    return pa.ExtensionArray.from_storage(kind, storage)


# whether a text can be had again


def gives_float(array: pa.Array, out: pa.Array, stated: bool) -> np.ndarray:
    """Where a number is written as the text is; of a column whose type is `stated`, where it is the number that the text says."""
    numbers = out.to_numpy(zero_copy_only=False)
    pairs = zip(array.to_pylist(), numbers, strict=True)
    return np.array([text is None or says_float(text, number, stated) for text, number in pairs], bool)


def says_float(text: str, number: Any, stated: bool) -> bool:
    """See `gives_float`: of one value."""
    if not np.isfinite(number):
        return stated and text.lower() in NO_NUMBERS
    if stated:  # a narrow float is written with fewer digits
        return Decimal(text) == Decimal(np.format_float_positional(number, unique=True, trim="-"))
    written = np.format_float_positional(float(number), unique=True, trim="-")
    return text == written or ("." not in written and text == f"{written}.0")


def gives_decimal(array: pa.Array, out: pa.Array, stated: bool) -> np.ndarray:
    """Where a decimal is the number that the text says; its zeros at the end are the type's."""
    pairs = zip(array.to_pylist(), out.to_pylist(), strict=True)
    return np.array([text is None or (number is not None and Decimal(text) == number) for text, number in pairs], bool)


def float_is_decimal(array: pa.Array, out: pa.Array, stated: bool) -> np.ndarray:
    """Where a float is a decimal, as it is written or exactly."""
    pairs = zip(array.to_pylist(), (None if value is None else float(value) for value in out.to_pylist()), strict=True)
    return np.array([b is not None and a in (Decimal(repr(b)), Decimal(b)) for a, b in pairs], bool)


def takes_what_it_keeps(array: pa.Array, out: pa.Array, stated: bool) -> np.ndarray:
    """For a conversion that has judged by itself."""
    return np.ones(len(array), bool)


def gives_again(said: Callable[[str], Any]) -> Callable[[pa.Array, pa.Array, bool], np.ndarray]:
    """Where a value, written out, says what the text says."""

    def work(array: pa.Array, out: pa.Array, stated: bool) -> np.ndarray:
        pairs = zip(array.to_pylist(), isolating(out, pa.string(), cast).to_pylist(), strict=True)
        return np.array([a is None or (b is not None and said(a) == said(b)) for a, b in pairs], bool)

    return work
