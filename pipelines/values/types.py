"""Types of values: what they are called, and which of them are two ways to hold one thing."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from operators.errors import SpecError, did_you_mean

UTC = frozenset({"UTC", "utc", "Etc/UTC", "Z", "+00:00", "-00:00"})  # names of one zone
SIMPLE = (
    *(
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    ),
    *("string", "large_string", "binary", "large_binary", "date32", "date64"),
    *(f"{name}[{unit}]" for name in ("timestamp", "duration") for unit in ("s", "ms", "us", "ns")),
    *("time32[s]", "time32[ms]", "time64[us]", "time64[ns]"),
)
OTHERS = ("timestamp[us, UTC]", "decimal(10, 2)", "list<string>", "map<string, int64>", "struct<a: int64, b: string>")
ZONED = re.compile(r"timestamp\[(s|ms|us|ns),\s*(?:tz=)?([^\]\s]+)\]")
DECIMAL = re.compile(r"decimal(?:128|256)?\(\s*([0-9]+)\s*,\s*(-?[0-9]+)\s*\)")
NESTED = re.compile(r"(list|large_list|map|struct)<(.*)>")


def kind_of(kind: pa.DataType) -> str:
    """What a type holds, however wide, of those that have no parts: "int", "text", "timestamp", …; "other" for the rest."""
    for name, is_one in KINDS.items():
        if is_one(kind):
            return name
    return "other"


def is_text(kind: pa.DataType) -> bool:
    """Whether a type holds UTF-8."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type holds bytes of any meaning."""
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def is_uuid(kind: pa.DataType) -> bool:
    """Whether a type holds UUIDs."""
    return isinstance(kind, pa.UuidType)


KINDS = {
    "uuid": is_uuid,
    "null": pa.types.is_null,
    "bool": pa.types.is_boolean,
    "int": pa.types.is_integer,
    "float": pa.types.is_floating,
    "decimal": pa.types.is_decimal,
    "text": is_text,
    "bytes": is_bytes,
    "date": pa.types.is_date,
    "time": pa.types.is_time,
    "timestamp": pa.types.is_timestamp,
    "duration": pa.types.is_duration,
}


def is_list_view(kind: pa.DataType) -> bool:
    """Whether a type is a list whose values need not stand in order."""
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is a list of any layout."""
    types = pa.types
    return bool(
        types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or is_list_view(kind)
    )


def same_zone(left: str | None, right: str | None) -> bool:
    """Whether two zones of timestamps are one."""
    return left == right or (left in UTC and right in UTC)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that a new column has: without dictionaries, runs, views, small decimals and extensions. UUIDs are text."""
    if is_uuid(kind):
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_decimal(kind):
        return (pa.decimal256 if kind.bit_width == 256 else pa.decimal128)(kind.precision, kind.scale)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(plain_type(kind.value_type))
    if is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain_type(field.type)) for field in fields_of(kind)])
    return kind


def fields_of(kind: pa.DataType) -> list[pa.Field]:
    """Fields of a struct."""
    return [kind.field(at) for at in range(kind.num_fields)]


def plain(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """An array without dictionary, runs, views, small decimals and extension; UUIDs, and the parts of lists, structs and maps, stay."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks() if array.num_chunks else pa.array([], array.type)
    if isinstance(array, pa.ChunkedArray):  # what combining does not join
        array = pa.concat_arrays(array.chunks)
    kind = array.type
    if is_uuid(kind):
        return array
    if isinstance(kind, pa.BaseExtensionType):
        return plain(array.storage)
    if pa.types.is_dictionary(kind):
        return plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(array))
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind) or pa.types.is_decimal(kind):
        return array.cast(plain_type(kind), safe=False)
    return array


def unstorable(kind: pa.DataType) -> pa.DataType | None:
    """The type, or the part of it, that Lance cannot write, or would falsify; None if it can. (Lance 14; tests try each.)"""
    if is_list(kind):
        if is_list_view(kind) or (pa.types.is_fixed_size_list(kind) and not is_flat(kind)):
            return kind
        return unstorable(kind.value_type)
    if pa.types.is_map(kind):
        return unstorable(kind.key_type) or unstorable(kind.item_type)
    if pa.types.is_struct(kind):
        if not kind.num_fields or any("\0" in field.name for field in fields_of(kind)):
            return kind
        return next((part for field in fields_of(kind) if (part := unstorable(field.type)) is not None), None)
    if pa.types.is_dictionary(kind):
        return unstorable(kind.value_type)
    small = pa.types.is_decimal(kind) and kind.bit_width < 128
    return kind if kind_of(kind) == "other" or small else None


def is_flat(kind: pa.DataType) -> bool:
    """Whether values of a type, or of the fixed-size lists in it, all take the same number of bytes."""
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size > 0 and is_flat(kind.value_type)
    if pa.types.is_fixed_size_binary(kind):
        return bool(kind.byte_width > 0)
    return kind_of(kind) not in ("text", "bytes", "other", "uuid") and not pa.types.is_dictionary(kind)


def stated_instead(kind: pa.DataType) -> str | None:
    """The type, as a job states it, that takes the values of one that cannot be stored; None if none does."""
    loose = loosened(kind)
    return name_of(loose) if unstorable(loose) is None else None


def loosened(kind: pa.DataType) -> pa.DataType:
    """A type whose fixed-size lists are of any size, as far as Lance writes none of their size."""
    if pa.types.is_fixed_size_list(kind) and unstorable(kind) is not None:
        return pa.list_(loosened(kind.value_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(loosened(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, loosened(field.type)) for field in fields_of(kind)])
    return pa.map_(kind.key_type, loosened(kind.item_type)) if pa.types.is_map(kind) else kind


def name_of(kind: pa.DataType) -> str | None:
    """What a job calls a type, so that `parse_type` gives it again; None if it has no name."""
    if pa.types.is_struct(kind):
        names = {field.name: name_of(field.type) for field in fields_of(kind)}
        text = f"struct<{', '.join(f'{name}: {part}' for name, part in names.items())}>"
    elif pa.types.is_map(kind):
        text = f"map<{name_of(kind.key_type)}, {name_of(kind.item_type)}>"
    elif pa.types.is_list(kind):
        text = f"list<{name_of(kind.value_type)}>"
    else:
        text = next((name for name in SIMPLE if pa.type_for_alias(name) == kind), str(kind))
    return text if read_type(text) == kind else None


def parse_type(name: str) -> pa.DataType:
    """The type that a job calls `name`. Raises `SpecError`, which names what there is."""
    kind = read_type(name.strip())
    if kind is None:
        known = ", ".join((*SIMPLE, *OTHERS))
        raise SpecError(f"no type '{name}'.{did_you_mean(name, SIMPLE)} Known: {known}.")
    return kind


def read_type(name: str) -> pa.DataType | None:
    """See `parse_type`; None if there is no such type."""
    if name in SIMPLE:
        return pa.type_for_alias(name)
    if found := ZONED.fullmatch(name):
        return pa.timestamp(found[1], found[2])
    if found := DECIMAL.fullmatch(name):
        precision, scale = int(found[1]), int(found[2])
        if not 1 <= precision <= 76 or not 0 <= scale <= precision:
            return None
        return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)
    if found := NESTED.fullmatch(name):
        return read_nested(found[1], split_types(found[2]))
    return None


def read_nested(shape: str, parts: list[str]) -> pa.DataType | None:
    """A list, map or struct of types; None if one of them is none."""
    if shape == "struct":
        pairs = [part.partition(":") for part in parts]
        kinds = {label.strip(): read_type(kind.strip()) for label, _, kind in pairs}
        if None in kinds.values() or len(kinds) < len(parts):
            return None
        return pa.struct(list(kinds.items()))
    found = [read_type(part) for part in parts]
    if None in found or len(found) != (2 if shape == "map" else 1):
        return None
    return {"list": pa.list_, "large_list": pa.large_list, "map": pa.map_}[shape](*found)


def split_types(text: str) -> list[str]:
    """Types that stand between commas; commas within brackets are theirs."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "<([") - (letter in ">)]")
        if letter == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]
