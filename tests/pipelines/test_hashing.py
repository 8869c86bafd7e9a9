"""What a change of metadata is told by: bytes that are equal where the values of the source are, and nowhere else."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.values.conversions import ABSENT, LongNumber
from pipelines.values.hashing import NOTHING, canonical_rows, encode
from pipelines.values.json_lines import parse_line

leaves = st.one_of(
    st.none(),
    st.just(ABSENT),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from([0.0, 1.0, -0.0, LongNumber("0.12345678901234567890"), "0.12345678901234567890", "\ud800", "1", "1.0", ""]),
    st.text(max_size=3),
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", ""]), inner, max_size=3),
    max_leaves=6,
)


def same(left: Any, right: Any) -> bool:
    """Whether two values of JSON are one: of one type, keys in any order, NaN itself, and -0.0 not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return repr(left) == repr(right)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


@given(st.lists(values, min_size=2, max_size=5))
def test_values_of_json(found: list[Any]):
    encoded = encode(found)
    for left, one in zip(found, encoded, strict=True):
        for right, other in zip(found, encoded, strict=True):
            assert (one == other) == same(left, right)


@given(st.lists(st.tuples(values, values), min_size=2, max_size=4))
def test_rows_of_several_columns(rows: list[tuple[Any, Any]]):
    encoded = canonical_rows({"a": [row[0] for row in rows], "b": [row[1] for row in rows]}, len(rows))
    turned = canonical_rows({"b": [row[1] for row in rows], "a": [row[0] for row in rows]}, len(rows))
    assert encoded == turned
    for left, one in zip(rows, encoded, strict=True):
        for right, other in zip(rows, encoded, strict=True):
            assert (one == other) == all(map(same, left, right))


DIFFERENT = [
    pa.array([1, 2]),
    pa.array([1.0, math.nan]),
    pa.array([0.0, -0.0]),
    pa.array(["1", "2"]),
    pa.array([b"1", b"2"]),
    pa.array([True, False]),
    pa.array([Decimal("1.50"), Decimal("1.51")]),
    pa.array([Decimal("1.5"), Decimal("1.6")]),
    *(pa.array([1, 2], kind) for kind in (pa.date32(), pa.time32("s"), pa.time64("us"), pa.duration("s"), pa.duration("ms"))),
    *(pa.array([1, 2], pa.timestamp(unit, zone)) for unit in ("s", "us") for zone in (None, "UTC", "Mars/Base")),
    pa.array([[1], [1, None]]),
    pa.array([["1"], []]),
    pa.array([{"a": 1}, {"a": None}]),
    pa.array([{"a": 1, "b": None}, {"a": None, "b": 1}]),
    pa.array([[("a", 1)], [("a", None)]], pa.map_(pa.string(), pa.int8())),
    pa.array([None], pa.int8()),
]  # fmt: skip


def test_values_of_parquet_that_differ():
    encoded = [value for array in DIFFERENT for value in encode(array)]
    assert len(set(encoded)) == len(encoded) == sum(map(len, DIFFERENT))


LAYOUTS = [
    (pa.array(["x", None, "ü"]), [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]),
    (pa.array([1, None, 100], pa.int8()), [pa.int16(), pa.int64(), pa.uint8()]),
    (pa.array([1.5, None, -0.0], pa.float32()), [pa.float64()]),
    (pa.array([[1, None], None, []], pa.list_(pa.int64())), [pa.large_list(pa.int64())]),
]


@pytest.mark.parametrize(("array", "kinds"), LAYOUTS, ids=lambda value: str(getattr(value, "type", "")))
def test_layouts_of_one_value_are_equal(array: pa.Array, kinds: list[pa.DataType]):
    assert all(encode(array.cast(kind)) == encode(array) for kind in kinds)
    assert encode(array.slice(1)) == encode(array)[1:]
    assert encode(pa.chunked_array([array.slice(0, 1), array.slice(1)])) == encode(array)


def test_json_and_parquet_agree_on_what_both_have():
    found = [None, 1, -5, 2**63, 0.1, "ü", "", True, [1, None], ["a"]]
    kinds = [pa.null(), pa.int8(), pa.int64(), pa.uint64(), pa.float64(), pa.string(), pa.large_string(), pa.bool_()]
    kinds += [pa.list_(pa.int8()), pa.list_(pa.string())]
    for value, kind in zip(found, kinds, strict=True):
        assert encode(pa.array([value], kind)) == encode([value])


def test_the_bytes_stay_as_they_are():
    """A change here would write every row of every table again: raise `values.hashing.HASH_SCHEME` with it."""
    row = parse_line(
        b'{"b": [1, 2.5, null], "a": "\xc3\xbc", "c": {"y": true, "x": -0.0}, "d": 0.12345678901234567890}'
    )
    (found,) = canonical_rows({name: [value] for name, value in row.items()}, 1)
    assert found == b"1:as2:\xc3\xbc1:bl3:i1;d2.5;n1:co2:1:xd-0.0;1:yt1:d#22:0.12345678901234567890"
    times = {"t": pa.array([5], pa.timestamp("us", "UTC")), "u": pa.array([Decimal("1.50")]), "v": [ABSENT]}
    assert canonical_rows(times, 1) == [b"1:tu21:timestamp[us, tz=UTC]5;1:um4:1.501:v-"]
    assert canonical_rows({}, 2) == [NOTHING, NOTHING] == [b"{}", b"{}"]
