"""Values of a source as a table's type: kept exactly, or not taken.

Every value without parts goes through one table, `leaves.CONVERSIONS`, and back: what does not come back as it was is a
misfit. Lists, structs and maps are taken apart, converted, and put together again.

Sources give Arrow arrays (Parquet), or Python values: those of JSON (None, bool, int, float, str, list, dict, `LongNumber`), of
which texts (CSV) are a part. A column that a row lacks is `ABSENT`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.errors import redact_url
from pipelines.values.arrays import as_bytes, nulls_of, pick
from pipelines.values.leaves import change_leaves, find_conversion
from pipelines.values.types import fields_of, is_list, is_list_view, kind_of, plain, plain_type

SHOWN = 80  # characters of a value that an error shows

Values: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[Any]
Changed: TypeAlias = tuple[pa.Array, np.ndarray]  # converted, null where a value does not fit; where that is (bool)


class Missing(Enum):
    """What stands for a value that is not even null."""

    ABSENT = "no value"


ABSENT = Missing.ABSENT  # of a column that the row lacks; in the table it is null


class LongNumber(str):
    """A number of a JSON line as it is written there, for no float gives it back."""

    __slots__ = ()


class Ambiguous(dict[str, Any]):
    """A JSON object that names a key twice: which of its values is meant cannot be told."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = frozenset(name for name in names if names.count(name) > 1)


@dataclass(frozen=True)
class Unusable:
    """In place of a value that nothing can be made of."""

    why: str

    def __repr__(self) -> str:
        return self.why


def convert(values: Values, field: pa.Field, stated: bool = False) -> tuple[pa.Array, dict[int, str]]:
    """Values as an array of the field's type, null where one does not fit; why not, by row.

    A text becomes a number where the number is written just so; of a column whose type the job has `stated`, where it says
    that number ('1.50'). Never raises for a value.
    """
    if isinstance(values, pa.Array | pa.ChunkedArray):
        values = plain(values)
        array, bad = change(values, field.type, stated)
    else:
        array, bad = change_python(values, field.type, stated)
    faults = {row: fault_of(values, row, field, stated) for row in np.flatnonzero(bad).tolist()}
    return array, faults


def fault_of(values: pa.Array | Sequence[Any], row: int, field: pa.Field, stated: bool) -> str:
    """Why a value does not fit: its column, itself, and the type; and that the job may state the type, where that is all it lacks."""
    text = f"metadata column '{field.name}': {shown(values, row)} is not {field.type}"
    if stated or isinstance(values, pa.Array) or not isinstance(values[row], str) or kind_of(field.type) != "float":
        return text
    _, bad = change_python([values[row]], field.type, True)
    return text if bad[0] else f"{text}, unless the job states that type"


def fits(source: pa.DataType, kind: pa.DataType, stated: bool = False) -> bool:
    """Whether values that a source declares as one type may become another's.

    A text says nothing of a number in it, nor a timestamp that it is a day, unless the type is `stated`.
    """
    if pa.types.is_null(source) or plain_type(source) == kind:
        return True
    if is_list(source) and is_list(kind):
        return fits(source.value_type, kind.value_type, stated)
    if pa.types.is_struct(source) and pa.types.is_struct(kind):
        known = {field.name: field.type for field in fields_of(kind)}
        return all(field.name in known and fits(field.type, known[field.name], stated) for field in fields_of(source))
    if pa.types.is_map(source) and pa.types.is_map(kind):
        return fits(source.key_type, kind.key_type, stated) and fits(source.item_type, kind.item_type, stated)
    pair = kind_of(plain_type(source)), kind_of(kind)
    unsure = (pair[0] == "text" and pair[1] not in ("text", "bytes", "uuid")) or pair == ("timestamp", "date")
    if unsure and not stated:
        return False
    return find_conversion(plain_type(source), kind) is not None


def shown(values: pa.Array | Sequence[Any], row: int) -> str:
    """A value as an error shows it."""
    if not isinstance(values, pa.Array):
        value = values[row]
        text = str(value) if isinstance(value, LongNumber) else repr(value)
    elif kind_of(values.type) == "text":
        (value,) = as_bytes(values.slice(row, 1)).to_pylist()
        text = repr(value.decode(errors="backslashreplace"))
    else:
        text = " ".join(str(values.slice(row, 1)).split()).removeprefix("[ ").removesuffix(" ]")
    return redact_url(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def change(array: pa.Array, kind: pa.DataType, stated: bool = False) -> Changed:
    """An array as one of another type."""
    array = plain(array)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind), np.zeros(len(array), bool)
    for is_one, work in ((is_list, change_lists), (pa.types.is_struct, change_structs), (pa.types.is_map, change_maps)):
        if is_one(kind) and is_one(array.type):
            return work(array, kind, stated)
    return change_leaves(array, kind, stated)


def change_lists(array: pa.Array, kind: pa.DataType, stated: bool) -> Changed:
    """See `change`; a list of another length than the type's is a misfit."""
    values, lengths = items_of(array)
    return build_lists(change(values, kind.value_type, stated), lengths, nulls_of(array), kind)


def items_of(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Items of lists of any layout, one after another, and how many each list has; a null has none."""
    null = nulls_of(array)
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        starts, lengths = (np.arange(len(array)) + array.offset) * size, np.full(len(array), size)
    elif is_list_view(array.type):
        starts, lengths = array.offsets.to_numpy(), array.sizes.to_numpy()
    else:
        offsets = array.offsets.to_numpy()
        starts, lengths = offsets[:-1], np.diff(offsets)
    lengths = np.where(null, 0, lengths).astype(np.int64)
    return pick(array.values, ranges(starts, lengths)), lengths


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers from each start on, as many as its length."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def change_structs(array: pa.Array, kind: pa.DataType, stated: bool) -> Changed:
    """See `change`; a value of a field that the type lacks is a misfit, a null is none."""
    names = [field.name for field in fields_of(array.type)]
    columns: dict[str, Changed] = {}
    bad = np.zeros(len(array), bool)
    for at, name in enumerate(names):
        values = pc.struct_field(array, [at])
        if names.count(name) > 1 or kind.get_field_index(name) < 0:
            bad |= ~nulls_of(values)
        else:
            columns[name] = change(values, kind.field(name).type, stated)
    return build_structs(columns, nulls_of(array), bad, kind)


def change_maps(array: pa.Array, kind: pa.DataType, stated: bool) -> Changed:
    """See `change`."""
    null = nulls_of(array)
    keys, items, lengths = entries_of(array)
    changed = change(keys, kind.key_type, stated), change(items, kind.item_type, stated)
    return build_maps(*changed, lengths, null, kind)


def entries_of(array: pa.Array) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """Keys and values of maps, one after another, and how many each map has; a null has none."""
    offsets = array.offsets.to_numpy()
    lengths = np.where(nulls_of(array), 0, np.diff(offsets)).astype(np.int64)
    rows = ranges(offsets[:-1], lengths)
    return pick(array.keys, rows), pick(array.items, rows), lengths


def change_python(values: Sequence[Any], kind: pa.DataType, stated: bool) -> Changed:
    """See `change`: of Python values."""
    null = np.array([value is None or value is ABSENT for value in values], bool)
    if is_list(kind):
        return lists_of_python(values, kind, null, stated)
    if pa.types.is_struct(kind):
        return structs_of_python(values, kind, null, stated)
    if pa.types.is_map(kind):
        return maps_of_python(values, kind, null, stated)
    return leaves_of_python(values, kind, null, stated)


def lists_of_python(values: Sequence[Any], kind: pa.DataType, null: np.ndarray, stated: bool) -> Changed:
    """JSON arrays as lists."""
    bad = ~null & np.array([not isinstance(value, list) for value in values], bool)
    rows = [[] if skip else value for value, skip in zip(values, null | bad, strict=True)]
    items = change_python([item for row in rows for item in row], kind.value_type, stated)
    array, misfit = build_lists(items, np.array([len(row) for row in rows], np.int64), null | bad, kind)
    return array, bad | misfit


def structs_of_python(values: Sequence[Any], kind: pa.DataType, null: np.ndarray, stated: bool) -> Changed:
    """JSON objects as structs; a value under a key that the type lacks is a misfit, a null is none."""
    known = {field.name: field.type for field in fields_of(kind)}
    bad = ~null & np.array([type(value) is not dict for value in values], bool)
    rows = [{} if skip else value for value, skip in zip(values, null | bad, strict=True)]
    bad |= np.array([any(v is not None for key, v in row.items() if key not in known) for row in rows], bool)
    columns = {name: change_python([row.get(name) for row in rows], each, stated) for name, each in known.items()}
    return build_structs(columns, null, bad, kind)


def maps_of_python(values: Sequence[Any], kind: pa.DataType, null: np.ndarray, stated: bool) -> Changed:
    """JSON objects as maps."""
    bad = ~null & np.array([type(value) is not dict for value in values], bool)
    rows = [{} if skip else value for value, skip in zip(values, null | bad, strict=True)]
    keys = change_python([key for row in rows for key in row], kind.key_type, stated)
    items = change_python([item for row in rows for item in row.values()], kind.item_type, stated)
    array, misfit = build_maps(keys, items, np.array([len(row) for row in rows], np.int64), null | bad, kind)
    return array, bad | misfit


def leaves_of_python(values: Sequence[Any], kind: pa.DataType, null: np.ndarray, stated: bool) -> Changed:
    """Python values without parts, each by the Arrow type that holds it."""
    groups: dict[pa.DataType, list[int]] = {}
    for row, value in enumerate(values):
        if not null[row] and (natural := natural_type(value)) is not None:
            groups.setdefault(natural, []).append(row)
    bad, places, pieces, start = ~null, np.zeros(len(values), np.int64), [pa.nulls(0, kind)], 0
    for natural, rows in groups.items():
        piece, bad[rows] = change_leaves(pa.array([values[row] for row in rows], natural), kind, stated)
        pieces.append(piece)
        places[rows] = np.arange(start, start + len(rows))
        start += len(rows)
    return pa.concat_arrays(pieces).take(pa.array(places, mask=null | bad)), bad


def natural_type(value: Any) -> pa.DataType | None:
    """The Arrow type that holds a Python value exactly; None if there is none."""
    if isinstance(value, str):
        return pa.string() if value.isascii() or is_encodable(value) else None
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, float):
        return pa.float64()
    if not isinstance(value, int) or abs(value) >= 10**76:
        return None
    if -(2**63) <= value < 2**63:
        return pa.int64()
    return pa.uint64() if 0 <= value < 2**64 else pa.decimal256(76, 0)


def is_encodable(text: str) -> bool:
    """Whether a text can be stored; one with a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# parts put together


def build_lists(items: Changed, lengths: np.ndarray, null: np.ndarray, kind: pa.DataType) -> Changed:
    """Lists of `lengths` of items; a null list has none."""
    values, bad_items = items
    bad = any_of(bad_items, lengths)
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        bad |= ~null & (lengths != size)
        hidden = np.repeat(null | bad, size)  # a null takes as much room as others
        starts = np.cumsum(lengths) - lengths
        places = np.repeat(starts, size) + np.tile(np.arange(size), len(lengths))
        filled = values.take(pa.array(np.where(hidden, 0, places), mask=hidden))
        return pa.FixedSizeListArray.from_arrays(filled, type=kind, mask=pa.array(null | bad)), bad
    large = pa.types.is_large_list(kind)
    made = pa.LargeListArray if large else pa.ListArray
    offsets = pa.array(edges(lengths, bad), pa.int64() if large else pa.int32())
    return made.from_arrays(offsets, keep(values, lengths, bad), type=kind, mask=pa.array(null | bad)), bad


def build_structs(columns: Mapping[str, Changed], null: np.ndarray, bad: np.ndarray, kind: pa.DataType) -> Changed:
    """Structs of columns; a field that none of them fills is null."""
    for _, misfit in columns.values():
        bad = bad | misfit
    fields = fields_of(kind)
    arrays = [columns[f.name][0] if f.name in columns else pa.nulls(len(null), f.type) for f in fields]
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=pa.array(null | bad)), bad


def build_maps(keys: Changed, items: Changed, lengths: np.ndarray, null: np.ndarray, kind: pa.DataType) -> Changed:
    """Maps of `lengths` of keys and items; a key that is null is a misfit."""
    bad = any_of(keys[1] | nulls_of(keys[0]) | items[1], lengths)
    offsets = pa.array(edges(lengths, bad), pa.int32(), mask=np.append(null | bad, False))
    kept = [keep(part, lengths, bad) for part in (keys[0], items[0])]
    return pa.MapArray.from_arrays(offsets, *kept, type=kind), bad


def any_of(bad: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Which lists of `lengths` hold a bad item."""
    lists = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(lists[bad], minlength=len(lengths)).astype(bool)


def edges(lengths: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Where lists begin and end, once the bad ones are empty."""
    return np.concatenate([[0], np.cumsum(np.where(bad, 0, lengths))])


def keep(items: pa.Array, lengths: np.ndarray, bad: np.ndarray) -> pa.Array:
    """Items of the lists that are not bad."""
    return items.take(pa.array(np.flatnonzero(np.repeat(~bad, lengths)))) if bad.any() else items
