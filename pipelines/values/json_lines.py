"""Lines of JSON as values that lose nothing of what is written there."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from pipelines.values.conversions import Ambiguous, LongNumber, Unusable

SURE_LENGTH = 15  # characters; any number of that many digits is had again from its float
MOST_LEVELS = 32  # of lists and objects in each other


def parse_line(line: bytes) -> Any:
    """A line's value. Raises `ValueError`, `RecursionError`.

    A number that a float would change is a `LongNumber`, an object that names a key twice is `Ambiguous`, and a value of a
    column that is nested deeper than `MOST_LEVELS` is `Unusable`.
    """
    value = DECODER.decode(line.decode(json.detect_encoding(line), "surrogatepass"))
    if isinstance(value, dict) and line.count(b"[") + line.count(b"{") > MOST_LEVELS:
        for name, part in value.items():
            if depth_of(part) > MOST_LEVELS:
                value[name] = Unusable(f"a value of more than {MOST_LEVELS} levels")
    return value


def read_float(text: str) -> float | LongNumber:
    """A number with a fraction or an exponent: as a float where that, written as long, is the same number."""
    value = float(text)
    if (len(text) <= SURE_LENGTH and "e" not in text and "E" not in text) or repr(value) == text:
        return value
    number = Decimal(text)
    if value in (float("inf"), float("-inf")) or not is_written_so(number, value):
        return LongNumber(text)
    return value


def is_written_so(number: Decimal, value: float) -> bool:
    """Whether a float, in its shortest form or in as many digits, is a number."""
    if Decimal(repr(value)) == number:
        return True
    digits = len(number.as_tuple().digits)
    return digits >= 17 and Decimal(f"{Decimal(value):.{digits - 1}e}") == number


def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a line."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else Ambiguous(pairs)


DECODER = json.JSONDecoder(parse_float=read_float, object_pairs_hook=read_object)


def repeated_keys(row: dict[str, Any]) -> frozenset[str]:
    """Keys that an object names twice."""
    return row.repeated if isinstance(row, Ambiguous) else frozenset()


def plain_value(value: Any) -> Any:
    """A value as JSON itself has it, for what takes a text alone."""
    if isinstance(value, LongNumber):
        return float(value)
    return dict(value) if isinstance(value, Ambiguous) else [] if isinstance(value, Unusable) else value


def depth_of(value: Any) -> int:
    """Levels of lists and objects in each other."""
    levels, within = 0, [value]
    while within := [v for v in within if isinstance(v, list | dict)]:
        levels += 1
        within = [item for v in within for item in (v.values() if isinstance(v, dict) else v)]
    return levels
