"""Over every type of a source and every type of a table: a value is in the table as it was, or it is a misfit.

What "as it was" means is said here once more, by fractions and nanoseconds, apart from the conversions themselves. As many
cases as `LATENTLAKE_CASES` says; `make acceptance` tries 10,000.
"""

from __future__ import annotations

import math
import os
import re
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.values.conversions import ABSENT, convert
from pipelines.values.inference import infer, infer_texts, or_text
from pipelines.values.types import fields_of, is_list, kind_of, plain_type, unstorable

CASES = int(os.environ.get("LATENTLAKE_CASES", "100"))
CALENDAR_DAYS = 146_097  # after which the calendar repeats itself: 400 years
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
ZONES = (None, "UTC", "Europe/Berlin", "+05:30", "Mars/Base")
thorough = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))

# types

leaf_types = st.sampled_from(
    [
        *(pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64(), pa.decimal128(5, 2), pa.decimal128(38, 10), pa.decimal256(60, 0)),
        *(pa.decimal32(5, 2), pa.decimal64(12, 4), pa.null(), pa.date32(), pa.date64(), pa.uuid()),
        *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)),
        *(pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
        *(pa.timestamp(unit, zone) for unit in NANOSECONDS for zone in ZONES),
        *(pa.duration(unit) for unit in NANOSECONDS),
        pa.dictionary(pa.int8(), pa.string()),
    ]
)  # fmt: skip
names = st.sampled_from(["a", "b", "c d", "select"])


def nested_types(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    return st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(pa.list_view),
        st.tuples(inner, st.integers(1, 3)).map(lambda pair: pa.list_(*pair)),
        st.dictionaries(names, inner, min_size=1, max_size=3).map(lambda fields: pa.struct(list(fields.items()))),
        inner.map(lambda item: pa.map_(pa.string(), item)),
    )


types = st.recursive(leaf_types, nested_types, max_leaves=3)
table_types = types.filter(lambda kind: unstorable(plain_type(kind)) is None).map(plain_type)

# values

whole = st.one_of(
    st.integers(-300, 300), st.sampled_from([2**k + d for k in (8, 24, 31, 53, 60, 63, 64) for d in (-1, 0, 1)])
)
floats = st.one_of(
    st.floats(), st.integers(-(2**54), 2**54).map(float), st.sampled_from([0.1, 1.5, 1e300, -0.0, 2.0**63, 1e16])
)
texts = st.one_of(
    st.text(max_size=5),
    whole.map(str),
    floats.map(repr),
    st.sampled_from(
        [
            *("007", "1.50", "1e5", "inf", "NaN", "0x1F", "-0", "12345678901234567890", "true", "True", "", "4.0", "+1", " 1"),
            *("2020-02-29", "2021-02-29", "2020-01-02T03:04:05", "2020-07-02 03:04:05.25+02:00", "2020-01-02T03:04Z"),
            *("12:30", "12:30:05.5", "24:00", "00000000-0000-0000-0000-000000000005", "1.5", "-1.25", "12000-01-01", "1_0", "٣"),
            *("0000-01-01", "0.30000000000000004"),
        ]
    ),
)  # fmt: skip
json_leaves = st.one_of(
    st.none(), st.just(ABSENT), st.booleans(), whole, st.just(2**80), floats, texts, st.just("\ud800")
)
json_values = st.recursive(
    json_leaves, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(names, v, max_size=3)), max_leaves=5
)


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Python values that `array_of` makes an array of the type of; times are numbers, texts are bytes."""
    if pa.types.is_dictionary(kind):
        return st.none() | st.sampled_from([b"x", b"007", b"x\xff"])
    if is_list(kind):
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else None
        return st.none() | st.lists(values_of(kind.value_type), min_size=size or 0, max_size=size or 3)
    if pa.types.is_struct(kind):
        return st.none() | st.fixed_dictionaries({field.name: values_of(field.type) for field in fields_of(kind)})
    if pa.types.is_map(kind):
        return st.none() | st.dictionaries(st.sampled_from([b"a", b"b"]), values_of(kind.item_type), max_size=2).map(
            lambda found: list(found.items())
        )
    return st.none() | leaf_values(kind)


def leaf_values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    name = kind_of(kind)
    if name in ("int", "date", "time", "timestamp", "duration"):
        return whole_of(kind, name)
    if name == "bool":
        return st.booleans()
    if name == "float":
        return floats if kind.bit_width == 64 else st.floats(width=kind.bit_width)
    if name == "decimal":
        most = min(10**kind.precision - 1, 10**28)
        return st.integers(-most, most).map(lambda number: Decimal(number).scaleb(-kind.scale))
    if name == "text":
        return texts.map(lambda text: text.encode(errors="replace")) | st.just(b"caf\xe9")
    if name == "uuid":
        return st.binary(min_size=16, max_size=16)
    if name == "bytes":
        size = kind.byte_width if pa.types.is_fixed_size_binary(kind) else None
        return st.binary(min_size=size or 0, max_size=size or 4)
    return st.none()


def whole_of(kind: pa.DataType, name: str) -> st.SearchStrategy[int]:
    if name == "time":
        return st.integers(0, 86_400 * 10**9 // NANOSECONDS[kind.unit] - 1)
    width = kind.bit_width
    low, high = (0, 2**width - 1) if pa.types.is_unsigned_integer(kind) else (-(2 ** (width - 1)), 2 ** (width - 1) - 1)
    if name == "date" and width == 64:
        return st.integers(-(10**6), 10**6).map(lambda day: day * 86_400_000)
    round_ones = st.integers(-(10**5), 10**5).map(lambda k: min(max(k * 10**9, low), high))
    return st.integers(max(low, -(10**6)), min(high, 10**6)) | st.integers(low, high) | round_ones


def array_of(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An array of values of `values_of`, made part by part, so that texts may be no UTF-8 and times out of Python's reach."""
    mask = pa.array([value is None for value in values], pa.bool_())
    name = kind_of(kind)
    if pa.types.is_dictionary(kind):
        encoded = array_of(values, pa.string()).dictionary_encode()
        return pa.DictionaryArray.from_arrays(encoded.indices.cast(kind.index_type), encoded.dictionary)
    if pa.types.is_struct(kind):
        rows = [value or {} for value in values]
        parts = [array_of([row.get(field.name) for row in rows], field.type) for field in fields_of(kind)]
        return pa.StructArray.from_arrays(parts, fields=fields_of(kind), mask=mask)
    if is_list(kind) or pa.types.is_map(kind):
        return parts_of([value if value is not None else [] for value in values], kind, mask)
    if name == "text":
        plain = pa.array(values, pa.binary()).cast(pa.string(), safe=False)
        return plain if pa.types.is_string(kind) else plain.cast(kind, safe=False)
    if name == "uuid":
        return pa.ExtensionArray.from_storage(kind, pa.array(values, pa.binary(16)))
    if name in ("date", "time", "timestamp", "duration"):
        return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)
    if name == "float" and kind.bit_width == 16:
        return pa.array(values, pa.float64()).cast(kind, safe=False)
    return pa.array(values, kind)


def parts_of(rows: list[list[Any]], kind: pa.DataType, mask: pa.Array) -> pa.Array:
    lengths = [len(row) for row in rows]
    offsets = [sum(lengths[:k]) for k in range(len(rows) + 1)]
    if pa.types.is_map(kind):
        keys = pa.array([key.decode() for row in rows for key, _ in row], pa.string())
        items = array_of([item for row in rows for _, item in row], kind.item_type)
        places = pa.array(
            [None if skip else at for skip, at in zip(mask.to_pylist(), offsets, strict=False)] + [offsets[-1]],
            pa.int32(),
        )
        return pa.MapArray.from_arrays(places, keys, items)
    if pa.types.is_fixed_size_list(kind):
        flat = array_of([item for row in rows for item in (row or [None] * kind.list_size)], kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=mask)
    flat = array_of([item for row in rows for item in row], kind.value_type)
    if pa.types.is_list_view(kind):
        return pa.ListViewArray.from_arrays(
            pa.array(offsets[:-1], pa.int32()), pa.array(lengths, pa.int32()), flat, mask=mask
        )
    made, whole = (pa.LargeListArray, pa.int64()) if pa.types.is_large_list(kind) else (pa.ListArray, pa.int32())
    return made.from_arrays(pa.array(offsets, whole), flat, mask=mask)


# what a value is, whatever type holds it


def exact(array: pa.Array) -> list[Any]:
    """Values as tuples of a kind and something exact: fractions, nanoseconds, bytes; lists and dicts of them."""
    kind = array.type
    name = kind_of(kind)
    valid = array.is_valid().to_pylist()
    if pa.types.is_dictionary(kind):
        return exact(array.dictionary_decode())
    if pa.types.is_null(kind):
        return [None] * len(array)
    if pa.types.is_map(kind):
        return [
            {
                key[1].decode(): item
                for key, item in zip(exact(array[row].values.field(0)), exact(array[row].values.field(1)), strict=True)
            }
            if ok
            else None
            for row, ok in enumerate(valid)
        ]
    if is_list(kind):
        return [exact(array[row].values) if ok else None for row, ok in enumerate(valid)]
    if pa.types.is_struct(kind):
        columns = {field.name: exact(pc.struct_field(array, [at])) for at, field in enumerate(fields_of(kind))}
        return [{name: column[row] for name, column in columns.items()} if ok else None for row, ok in enumerate(valid)]
    return [leaf if ok else None for leaf, ok in zip(exact_leaves(array, kind, name), valid, strict=True)]


def exact_leaves(array: pa.Array, kind: pa.DataType, name: str) -> list[Any]:
    if name in ("text", "bytes"):
        return [(name, value) for value in array.cast(pa.large_binary()).to_pylist()]
    if name == "uuid":
        return [(name, value) for value in array.storage.to_pylist()]
    if name == "bool":
        return [(name, value) for value in array.to_pylist()]
    if name in ("int", "float", "decimal"):
        return [None if value is None else ("number", exact_number(value)) for value in array.to_pylist()]
    counts = array.view(pa.int32() if kind.bit_width == 32 else pa.int64()).to_pylist()
    if name == "date":
        day = 86_400 * 10**9
        return [None if c is None else (name, c * day if kind.bit_width == 32 else c * 10**6, None) for c in counts]
    scale = NANOSECONDS[kind.unit]
    return [None if c is None else (name, c * scale, getattr(kind, "tz", None)) for c in counts]


def exact_number(value: Any) -> Any:
    """A fraction, or the word for what is none; -0.0 is none."""
    if isinstance(value, int | Decimal):
        return Fraction(value)
    value = float(value)
    return Fraction(value) if math.isfinite(value) and (value or math.copysign(1, value) > 0) else repr(value)


def exact_json(value: Any) -> Any:
    if value is None or value is ABSENT:
        return None
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, int | float):
        return ("number", exact_number(value))
    if isinstance(value, str):
        return ("text", value.encode(errors="surrogatepass"))
    if isinstance(value, list):
        return [exact_json(item) for item in value]
    return {key: exact_json(item) for key, item in value.items()}


def is_kept(source: Any, stored: Any) -> bool:
    """Whether what is stored says exactly what the source says. Null and absent are one here."""
    if source is None or stored is None:
        return source is stored
    if isinstance(source, list):
        return isinstance(stored, list) and len(source) == len(stored) and all(map(is_kept, source, stored))
    if isinstance(source, dict):
        return isinstance(stored, dict) and all(is_kept(source.get(k), stored.get(k)) for k in {*source, *stored})
    if isinstance(stored, list | dict):
        return False
    if source == stored:
        return source[0] != "text" or is_utf8(source[1])
    return is_said(source, stored) or is_said_by_text(source, stored)


def is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_said(source: Any, stored: Any) -> bool:
    """Of two kinds, none of which is text."""
    kinds = source[0], stored[0]
    if kinds == ("number", "number"):  # a decimal and the float that is written so
        return (
            isinstance(source[1], Fraction)
            and isinstance(stored[1], Fraction)
            and (written(source[1]) == stored[1] or source[1] == written(stored[1]))
        )
    if kinds in (("text", "bytes"), ("bytes", "text")):
        return source[1] == stored[1] and is_utf8(source[1])
    if kinds in (("date", "timestamp"), ("timestamp", "date")):
        return source[1:] == stored[1:]
    return False


def written(number: Fraction) -> Fraction | None:
    """The decimal that a float is written as; None where a number is no float."""
    try:
        return Fraction(repr(float(number))) if Fraction(float(number)) == number else None
    except OverflowError:
        return None


def is_said_by_text(source: Any, stored: Any) -> bool:
    """Of a text and what it says, either way round."""
    if (source[0] == "text") == (stored[0] == "text"):
        return False
    said, value = (source, stored) if source[0] == "text" else (stored, source)
    if not is_utf8(said[1]):
        return False
    text = said[1].decode()
    if value[0] == "bool":
        return text.lower() == str(value[1]).lower()
    if value[0] == "number":
        return number_says(text, value[1], from_text=said is source)
    if value[0] == "uuid":
        return text.replace("-", "") == value[1].hex()
    return moment_says(text, value)


def number_says(text: str, number: Any, from_text: bool) -> bool:
    if from_text and not re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", text, re.ASCII):
        return False  # leading zeros, exponents, words: such a text is no number
    if not isinstance(number, Fraction):
        return (text.lstrip("-").rstrip("0").rstrip(".") == "" and number == "-0.0") or {
            "NaN": "nan",
            "Infinity": "inf",
            "-Infinity": "-inf",
        }.get(text, text) == number
    return Fraction(text) in (number, written(number))


def moment_says(text: str, value: Any) -> bool:
    kind, count, zone = value
    if kind == "time":
        parts = [*text.split(":"), "0"][:3]
        return (
            sum(
                int(Fraction(part) * scale)
                for part, scale in zip(parts, (3600 * 10**9, 60 * 10**9, 10**9), strict=True)
            )
            == count
        )
    head, _, fraction = text.partition(".")
    digits = re.match(r"[0-9]*", fraction)[0]
    offset = fraction[len(digits) :]
    if text.startswith("0000-"):  # a year that Python lacks: its days are those of the year 400
        head, count = f"0400{head[4:]}", count + CALENDAR_DAYS * 86_400 * 10**9
    moment = datetime.fromisoformat(head + offset)
    if kind == "date":
        return len(text) == 10 and (moment - datetime(1970, 1, 1)).days * 86_400 * 10**9 == count
    if (moment.tzinfo is None) != (zone is None):
        return False
    if zone is not None:
        own = moment.utcoffset()
        there = own if zone == "+05:30" else moment.astimezone(ZoneInfo(zone)).utcoffset()
        if own != there:
            return False
        moment = moment.replace(tzinfo=None) - own
    since = moment - datetime(1970, 1, 1)
    return (since.days * 86_400 + since.seconds) * 10**9 + int(f"{digits:0<9}") == count


# the properties


@st.composite
def arrow_cases(draw: st.DrawFn) -> tuple[pa.Array, pa.DataType]:
    source = draw(types)
    array = array_of(draw(st.lists(values_of(source), max_size=6)), source)
    start = draw(st.integers(0, len(array)))
    other = draw(
        st.just(plain_type(source)).filter(lambda kind: unstorable(kind) is None) | table_types
        if unstorable(plain_type(source)) is None
        else table_types
    )
    return array.slice(start), other


def check_all_kept(source: list[Any], values: Any, kind: pa.DataType, stated: bool = False) -> dict[int, str]:
    array, faults = convert(values, pa.field("c", kind), stated)
    array.validate(full=True)
    assert array.type == kind and len(array) == len(source)
    for row, (before, after) in enumerate(zip(source, exact(array), strict=True)):
        if row in faults:
            assert after is None and before is not None
        else:
            assert is_kept(before, after), f"{before} became {after} as {kind}"
    return faults


@thorough
@given(arrow_cases())
def test_parquet(case: tuple[pa.Array, pa.DataType]):
    array, kind = case
    faults = check_all_kept(exact(array), array, kind)
    if kind == plain_type(array.type):  # nothing is refused that fits
        assert all(not is_kept(exact(array)[row], exact(array)[row]) for row in faults)


@thorough
@given(st.lists(json_values, max_size=6), table_types)
@example([4, 4.75], pa.int64())
@example([True, 1], pa.int64())
@example([{"a": 1, "b": 2}], pa.struct([("a", pa.int64())]))
def test_json_lines(values: list[Any], kind: pa.DataType):
    check_all_kept([exact_json(value) for value in values], values, kind)


@thorough
@given(st.lists(st.none() | texts, max_size=6), table_types)
@example(["0000-01-01"], pa.timestamp("ms"))
@example(["0000-01-01"], pa.date32())
@example(["0000-02-29 01:02:03.5"], pa.timestamp("us"))
def test_csv(values: list[Any], kind: pa.DataType):
    check_all_kept([exact_json(value) for value in values], values, kind)


@thorough
@given(st.lists(st.none() | texts, max_size=6))
def test_the_type_of_a_csv_column_takes_all_of_its_sample(values: list[Any]):
    values = [value or None for value in values]  # an empty field is null
    kind = or_text(infer_texts(values))
    assert not check_all_kept([exact_json(value) for value in values], values, kind)


@thorough
@given(st.lists(json_leaves.filter(lambda value: value != "\ud800"), max_size=6))
def test_the_type_of_a_json_column_takes_all_of_its_sample(values: list[Any]):
    kind = or_text(infer(values))
    assert not check_all_kept([exact_json(value) for value in values], values, kind)
