"""Values to a table's type: what is kept, what is a misfit, and that nothing is changed in silence."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pipelines.values.conversions import ABSENT, convert
from pipelines.values.types import parse_type

BAD = object()  # in place of what a value becomes: it does not fit
FAR = 253_402_300_800 * 10**6 * 3  # the year 26059, in microseconds

# Values, the type of the column, and what is in the table.
PYTHON: list[tuple[str, list[Any], list[Any]]] = [
    ("int64", [1, 4.75, 4.0, -0.0, True, "x", None, ABSENT], [1, BAD, 4, BAD, BAD, BAD, None, None]),
    ("int64", ["5", "05", "-0", "", " 5", "0x5", "5.0", 2**63], [5, *[BAD] * 7]),
    ("uint64", [2**63, -1, 2**64], [2**63, BAD, BAD]),
    ("float64", [1, 2**53 + 1, 2**60, 2**80, 10**400], [1.0, BAD, 2.0**60, 2.0**80, BAD]),
    ("float64", ["1.5", "4", "4.0", "1.50", "1e5", "inf", "nan", True], [1.5, 4.0, 4.0, *[BAD] * 5]),
    ("float32", [0.5, 0.1, 1e300, float("inf")], [0.5, BAD, BAD, float("inf")]),
    ("string", [1, 4.75, False, "x", 2**70, 10**80, [1], {}], ["1", "4.75", "false", "x", str(2**70), BAD, BAD, BAD]),
    ("string", ["\ud800", "ü", ""], [BAD, "ü", ""]),
    ("bool", [True, "true", "TRUE", 1, "1", "yes"], [True, True, True, BAD, BAD, BAD]),
    ("decimal(5, 2)", [1, 0.1, "1.5", "1.555", 1e300], [*map(Decimal, ("1.00", "0.10", "1.50")), BAD, BAD]),
    ("date32", ["2020-02-29", "2021-02-29", "2020-1-2"], [date(2020, 2, 29), BAD, BAD]),
    ("time64[us]", ["12:30", "12:30:05.25", "24:00", "12:30:05.1234567"], [time(12, 30), time(12, 30, 5, 250_000), BAD, BAD]),
    ("timestamp[s]", ["2020-01-02T03:04:05", "2020-01-02T03:04:05.5"], [datetime(2020, 1, 2, 3, 4, 5), BAD]),
    ("timestamp[us]", ["2020-01-02", "2020-01-02T03:04:05Z"], [datetime(2020, 1, 2), BAD]),
    (
        "timestamp[us, UTC]",
        ["2020-01-02 03:04Z", "2020-01-02T03:04:05+02:00", "2020-01-02T03:04:05"],
        [datetime(2020, 1, 2, 3, 4, tzinfo=UTC), BAD, BAD],
    ),
    ("list<int64>", [[1, None], [], None, [2.5], {}, 1], [[1, None], [], None, BAD, BAD, BAD]),
    ("struct<a: int64>", [{"a": 1}, {}, {"b": None}, {"a": 1, "b": 2}, []], [{"a": 1}, {"a": None}, {"a": None}, BAD, BAD]),
    ("map<string, int64>", [{"x": 1}, {}, {"x": "y"}], [[("x", 1)], [], BAD]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "expected"), PYTHON)
def test_values_of_json_and_csv(kind: str, values: list[Any], expected: list[Any]):
    check(values, parse_type(kind), expected)


def check(values: Any, kind: pa.DataType, expected: list[Any], stated: bool = False) -> None:
    array, faults = convert(values, pa.field("c", kind), stated)
    array.validate(full=True)
    assert array.type == kind
    assert sorted(faults) == [row for row, value in enumerate(expected) if value is BAD]
    assert array.to_pylist() == [None if value is BAD else value for value in expected]
    assert all(
        f.startswith("metadata column 'c': ")
        and f.removesuffix(", unless the job states that type").endswith(f" is not {kind}")
        for f in faults.values()
    )


def test_a_reject_says_that_a_stated_type_would_do():
    _, faults = convert(["1.50", "007"], pa.field("c", pa.float64()))
    assert faults == {
        0: "metadata column 'c': '1.50' is not double, unless the job states that type",
        1: "metadata column 'c': '007' is not double",
    }


def test_a_stated_number_may_be_written_in_other_ways():
    texts = ["1.50", "1e5", "4", "007", "0.12345678901234567890"]
    check(texts, pa.float64(), [1.5, 1e5, 4.0, BAD, BAD], stated=True)
    check(["5", "05", "5.0"], pa.int64(), [5, BAD, BAD], stated=True)


ARROW: list[tuple[pa.Array, pa.DataType, list[Any]]] = [
    (pa.array([Decimal("1.55"), Decimal("2.00")]), pa.int64(), [BAD, 2]),
    (pa.array([Decimal("1.55")]), pa.float64(), [1.55]),
    (pa.array([2**63, 1], pa.uint64()), pa.int64(), [BAD, 1]),
    (pa.array([1_500, 86_400_000], pa.timestamp("ms")), pa.date32(), [BAD, date(1970, 1, 2)]),
    (pa.array([1_500_000_001, 10**9], pa.timestamp("ns")), pa.timestamp("us"), [BAD, datetime(1970, 1, 1, 0, 0, 1)]),
    (pa.array([0], pa.timestamp("us", "UTC")), pa.timestamp("us"), [BAD]),
    (pa.array([b"x\xff", b"ok"]), pa.string(), [BAD, "ok"]),
    (pa.array([b"x\xff", b"ok"]).cast(pa.string(), safe=False), pa.string(), [BAD, "ok"]),
    (pa.array([b"x\xff", b"ok"]).cast(pa.string(), safe=False).dictionary_encode(), pa.string(), [BAD, "ok"]),
    (pa.array([["x"], None, ["y", "z"]], pa.list_view(pa.string_view())), pa.list_(pa.string()), [["x"], None, ["y", "z"]]),
    (pa.array([["x"], ["y", "z"]]), pa.list_(pa.string(), 2), [BAD, ["y", "z"]]),
    (pa.array([{"a": 1, "b": None}, {"a": 1, "b": 2}]), pa.struct([("a", pa.int32())]), [{"a": 1}, BAD]),
    (pa.array([[("a", 1)], None, [("b", None)]], pa.map_(pa.string(), pa.int8())).slice(1), pa.map_(pa.string(), pa.string()), [None, [("b", None)]]),
    (pa.RunEndEncodedArray.from_arrays([2, 3], pa.array(["x", None])), pa.string(), ["x", "x", None]),
    (pa.array([None, None], pa.null()), pa.list_(pa.int64()), [None, None]),
]  # fmt: skip


@pytest.mark.parametrize(("array", "kind", "expected"), ARROW, ids=lambda value: str(getattr(value, "type", "")))
def test_values_of_parquet(array: pa.Array, kind: pa.DataType, expected: list[Any]):
    check(array, kind, expected)


@pytest.mark.parametrize("zone", [None, "UTC", "Mars/Base"])
def test_timestamps_that_python_does_not_know(zone: str | None):
    kind = pa.timestamp("us", zone)
    array, faults = convert(pa.array([0, FAR, -FAR], kind), pa.field("c", kind))
    assert array.cast(pa.timestamp("us")).cast(pa.int64()).to_pylist() == [0, FAR, -FAR]
    assert not faults
    for other in (pa.date32(), pa.string(), pa.int64(), pa.timestamp("ns", zone)):
        convert(array, pa.field("c", other))


def test_a_decimal_that_a_damaged_file_made_too_long_is_a_misfit() -> None:
    kind = pa.decimal128(6, 2)
    wide = pa.array([Decimal("1.50"), Decimal("-61880.18"), None], pa.decimal128(38, 2))
    damaged = pa.Array.from_buffers(kind, 3, wide.buffers())
    array, faults = convert(damaged, pa.field("m", kind))
    assert array.to_pylist() == [Decimal("1.50"), None, None] and list(faults) == [1]
    array.validate(full=True)
