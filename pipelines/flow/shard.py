"""The shard: a bounded slice of the work that flows from read to write as one block and never mixes with another.

A block is an Arrow table. Its first row is the status row: everything known of the shard that is not a row of the table
to be (counts, rejects, timings), as JSON in the column `_status`. So a block is never empty, and Ray never drops it. The
other rows are rows of the table, with what the stages add and take away:

    origin.<column>      int8, see `Origin`
    <column>             the vector, once there is one
    prepared.<key>.<x>   what a model's `prepare` made; null where there is nothing to embed
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Json, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from latentlake.formats import StoredFormat
from latentlake.storage import Storage
from operators.batch import Batch, object_array
from operators.errors import Unavailable, Unreadable

SHAPE_KEY = b"shape"
STATUS = "_status"  # no column of a job begins with '_'
LEFT = "_left"  # the one column of a block that stands for a shard which nobody works on, as the run is to stop


class Origin(IntEnum):
    """Where a row's vector comes from."""

    TO_EMBED = 0
    EMBEDDED = 1
    REUSED = 2
    UNCHANGED = 3
    REJECTED = 4


@dataclass
class Status:
    """What is known of a shard beside its rows. JSON-able."""

    shard: int
    listed: int = 0
    unchanged: int = 0  # objects whose content turned out to be what the table holds; they have no rows here
    read_bytes: int = 0
    reads: int = 0  # objects read, and decoded, each once
    rejects: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)  # objects of the table whose rows this shard's rows replace
    stages: list[dict[str, Any]] = field(default_factory=list)  # who worked, from when to when

    def time(self, stage: str, began: float, **facts: Any) -> None:
        """Note that a stage ran from `began` (seconds since the epoch) until now."""
        self.stages.append({"stage": stage, "began": began, "ended": time.time(), **facts})


def pack(status: Status, rows: pa.Table) -> pa.Table:
    """A block of a status and rows."""
    head = pa.table({STATUS: [json.dumps(vars(status))]})
    return pa.concat_tables([head, rows], promote_options="default")


def unpack(block: pa.Table) -> tuple[Status, pa.Table]:
    """Status and rows of a block."""
    status = Status(**json.loads(block[STATUS][0].as_py()))
    return status, block.slice(1).drop_columns([STATUS])


def left_shard(shard: int) -> pa.Table:
    """The block of a shard that is left for the next run."""
    return pa.table({LEFT: [shard]})


def is_left(block: pa.Table) -> bool:
    """Whether a block stands for a shard that is left for the next run."""
    return LEFT in block.column_names


def prepared_columns(prepared: Batch, key: str, rows: np.ndarray, total: int) -> dict[str, tuple[pa.Field, pa.Array]]:
    """Arrow columns of prepared rows; null in the rows of the block (`total`) that `rows` does not name.

    One-dimensional arrays become columns of their type, arrays of arrays become lists, and arrays of more dimensions
    (pixels) become bytes with their shape in the field's metadata: a null then takes no room.
    """
    at = np.full(total, -1, dtype=np.int64)
    at[rows] = np.arange(len(rows))
    taken = pa.array(at, mask=at < 0)
    columns = {}
    for name, values in prepared.items():
        metadata = None
        if values.ndim > 1:
            width = int(np.prod(values.shape[1:])) * values.itemsize
            flat = pa.py_buffer(np.ascontiguousarray(values))
            array = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, flat]).cast(
                pa.large_binary()
            )
            metadata = {SHAPE_KEY: json.dumps([values.dtype.str, *values.shape[1:]]).encode()}
        else:
            array = pa.array(values)
        full = f"prepared.{key}.{name}"
        columns[full] = (pa.field(full, array.type, metadata=metadata), array.take(taken))
    return columns


def prepared_batch(rows: pa.Table, key: str, wanted: np.ndarray) -> Batch:
    """The prepared rows at the indices `wanted`, as `prepare` made them; the inverse of `prepared_columns`."""
    prefix = f"prepared.{key}."
    batch: Batch = {}
    for column in rows.schema:
        if not column.name.startswith(prefix):
            continue
        values = rows[column.name].take(wanted).combine_chunks()
        name = column.name.removeprefix(prefix)
        if column.metadata and SHAPE_KEY in column.metadata:
            kind, *shape = json.loads(column.metadata[SHAPE_KEY])
            batch[name] = np.frombuffer(b"".join(values.to_pylist()), dtype=np.dtype(kind)).reshape(-1, *shape)
        elif pa.types.is_list(values.type):
            flat, offsets = values.values.to_numpy(zero_copy_only=False), values.offsets.to_numpy()
            batch[name] = object_array([flat[a:b] for a, b in pairwise(offsets)])
        elif pa.types.is_string(values.type):
            batch[name] = object_array(values.to_pylist())
        else:
            batch[name] = values.to_numpy(zero_copy_only=False)
    return batch


def vectors_of(column: pa.ChunkedArray) -> np.ndarray:
    """A vector column as a writable array (n, dim); rows that are null hold zeros."""
    array = column.combine_chunks()
    length, kind = array.type.list_size, array.type.value_type
    flat = array.values.slice(array.offset * length, len(array) * length)
    if pa.types.is_integer(kind):  # which numpy would get as floats, for the sake of the nulls
        flat = flat.fill_null(0)
    vectors = flat.to_numpy(zero_copy_only=False).reshape(len(array), length).copy()
    vectors[array.is_null().to_numpy(zero_copy_only=False)] = 0
    return vectors


def vector_array(vectors: np.ndarray, present: np.ndarray) -> pa.Array:
    """Stored vectors (n, length) as FixedSizeList<their dtype>[length], null where `present` is False."""
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=pa.array(~present))


def bisecting(rows: np.ndarray, work: Callable[[np.ndarray], None], reject: Callable[[int, Exception], None]) -> None:
    """Do `work` on rows; where it raises, try once more, then halve until the rows that make it raise stand alone.

    `Unavailable` passes: no row answers for it.
    """
    if not len(rows):
        return None
    for attempt in (1, 2):
        try:
            return work(rows)
        except Unavailable:
            raise
        except Exception as failure:  # the row that makes a library raise answers for it, whatever it raised
            if len(rows) == 1 and attempt == 2:
                return reject(int(rows[0]), failure)
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        bisecting(half, work, reject)
    return None


def record_name(shard: int) -> str:
    """File name of a shard's record."""
    return f"{shard:09}.json"


class FileShape(TypedDict):
    """A data file of a fragment."""

    path: str


class FragmentShape(TypedDict):
    """What we read of a fragment's JSON; the rest is Lance's."""

    files: list[FileShape]


class PatchShape(TypedDict):
    """See `flow.columns.write_patch`."""

    file: str
    fragments: list[int]
    rows: int


class RecordShape(TypedDict):
    """What a shard's record must have to be understood at all; `flow.writing.WriteShard` makes it."""

    attempt: str
    status: Status
    counts: dict[str, dict[Literal["listed", "embedded", "reused", "unchanged", "filtered", "rejected"], int]]
    fragments: list[Json[FragmentShape]]
    rows: int
    patch: PatchShape | None
    truncated: dict[str, int]


RECORD = StoredFormat("the record of the shard")
SHAPE = TypeAdapter(RecordShape)


def write_record(place: Storage, shard: int, record: dict[str, Any]) -> bool:
    """Write a shard's record: from now on the shard is done. False, and nothing is written, where it was done before."""
    return place.put_if_absent(record_name(shard), RECORD.write(record).encode())


def read_record(place: Storage, shard: int) -> dict[str, Any]:
    """Read a shard's record. Raises `Unreadable`."""
    try:
        record = RECORD.read(place.fs.cat_file(place.path(record_name(shard))))
        RECORD.check(SHAPE, record)
    except Unreadable as failure:
        raise Unreadable(f"shard {shard}: {failure}") from failure
    if record["status"]["shard"] != shard:
        raise Unreadable(f"shard {shard}: {RECORD.what} is that of shard {record['status']['shard']}.")
    return record
