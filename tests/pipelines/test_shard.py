"""Shards: blocks, prepared columns, vectors, how work is cut, and bisecting."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentlake.storage import open_storage
from operators.batch import Batch, object_array
from pipelines.flow.shard import (
    Origin,
    Status,
    bisecting,
    pack,
    prepared_batch,
    prepared_columns,
    read_record,
    unpack,
    vector_array,
    vectors_of,
    write_record,
)
from pipelines.job.spec import ShardSpec
from pipelines.planning.work import cut_shards


def through_ipc(table: pa.Table) -> pa.Table:
    """The table as another process gets it: one chunk a column."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return pa.ipc.open_stream(sink.getvalue()).read_all()


# blocks


def test_a_block_round_trip():
    status = Status(7, listed=3, rejects=[{"object_id": "ü", "error": "'\"\n"}], replaced=["a"])
    status.time("read", 1.5, rows=2)
    rows = pa.table({"id": ["a", "b"], "origin.x": pa.array([0, 4], pa.int8()), "status": ["a user's", None]})
    for block in (pack(status, rows), through_ipc(pack(status, rows))):
        assert block.num_rows == 3
        again, back = unpack(block)
        assert again == status
        assert back.to_pydict() == rows.to_pydict()
        assert back.schema.equals(rows.schema)
        assert back["origin.x"].to_numpy().dtype == np.int8


def test_a_block_is_never_empty():
    rows = pa.table({"id": pa.array([], pa.string()), "v": pa.array([], pa.list_(pa.float32(), 4))})
    block = through_ipc(pack(Status(0), rows))
    assert block.num_rows == 1
    status, back = unpack(block)
    assert (status, back.num_rows, back.schema.equals(rows.schema)) == (Status(0), 0, True)


# prepared columns


def round_trip(prepared: Batch, at: list[int], total: int, wanted: list[int]) -> Batch:
    rows = pa.table({"id": [str(k) for k in range(total)]})
    for field, array in prepared_columns(prepared, "key", np.array(at, dtype=np.int64), total).values():
        rows = rows.append_column(field, array)
    _, rows = unpack(through_ipc(pack(Status(0), rows)))
    return prepared_batch(rows, "key", np.array(wanted, dtype=np.int64))


def test_prepared_rows_round_trip():
    rng = np.random.default_rng(0)
    ragged = [np.arange(k, dtype=np.int32) for k in (3, 0, 5)]
    prepared = {
        "input_ids": object_array(ragged),
        "words": object_array(["grüße", "", "x"]),
        "pixels": rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8),
        "waves": rng.random((3, 7)).astype(np.float32),
        "cost": np.array([3, 1, 5], dtype=np.int64),
        "flag": np.array([True, False, True]),
    }
    for wanted, taken in (([1, 4, 6], [0, 1, 2]), ([6, 1], [2, 0]), ([4], [1])):
        back = round_trip(prepared, [1, 4, 6], 8, wanted)
        assert list(back) == list(prepared)
        for name, values in back.items():
            assert len(values) == len(wanted)
            for got, row in zip(values, taken, strict=True):
                np.testing.assert_array_equal(got, prepared[name][row])
        assert back["cost"].dtype == np.int64
        assert back["pixels"].dtype == np.uint8 and back["pixels"].shape == (len(wanted), 4, 5, 3)
        assert back["waves"].dtype == np.float32
        assert back["input_ids"][0].dtype == np.int32


def test_rows_that_were_not_prepared_are_null_and_cost_no_bytes():
    pixels = np.ones((1, 100, 100, 3), dtype=np.uint8)
    columns = prepared_columns({"pixels": pixels, "cost": np.array([1])}, "k", np.array([3]), 1000)
    _, array = columns["prepared.k.pixels"]
    assert (array.null_count, array.is_valid()[3].as_py()) == (999, True)
    assert array.nbytes < 2 * pixels.nbytes + 20_000


def test_no_prepared_rows():
    prepared = {
        "input_ids": object_array([]),
        "pixels": np.zeros((0, 4, 4, 3), dtype=np.uint8),
        "cost": np.zeros(0, dtype=np.int64),
    }
    back = round_trip(prepared, [], 3, [])
    assert set(back) == set(prepared)
    assert all(len(values) == 0 for values in back.values())
    assert back["pixels"].shape == (0, 4, 4, 3)


def test_keys_do_not_mix():
    rows = pa.table({"id": ["a"]})
    for key in ("k", "k2"):
        for field, array in prepared_columns({"cost": np.array([len(key)])}, key, np.array([0]), 1).values():
            rows = rows.append_column(field, array)
    assert prepared_batch(rows, "k", np.array([0]))["cost"].tolist() == [1]
    assert prepared_batch(rows, "k2", np.array([0]))["cost"].tolist() == [2]


# vectors


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_vectors_round_trip(dtype: str):
    values = np.random.default_rng(0).normal(0, 50, size=(6, 5)).astype("int8").astype(dtype)
    present = np.array([True, False, True, True, False, True])
    array = vector_array(values, present)
    assert array.type == pa.list_(pa.from_numpy_dtype(dtype), 5)
    assert array.is_valid().to_pylist() == present.tolist()
    back = vectors_of(pa.chunked_array([array]))
    np.testing.assert_array_equal(back, np.where(present[:, None], values, 0))
    back[0] = 7  # writable, and a copy
    assert array[0].as_py() == pytest.approx(values[0].tolist())
    sliced = vectors_of(pa.chunked_array([array.slice(2, 3)]))
    np.testing.assert_array_equal(sliced, np.where(present[2:5, None], values[2:5], 0))
    chunks = vectors_of(pa.chunked_array([array.slice(1, 2), array.slice(4)]))
    np.testing.assert_array_equal(chunks, np.where(present, values.T, 0).T[[1, 2, 4, 5]])


@pytest.mark.parametrize("kind", [pa.float32(), pa.float16(), pa.uint8()])
def test_vectors_that_are_all_null_or_none(kind: pa.DataType):
    for rows in (4, 0):
        column = pa.chunked_array([pa.nulls(rows, pa.list_(kind, 3))])
        found = vectors_of(column)
        assert found.shape == (rows, 3) and not found.any()
        assert found.dtype == kind.to_pandas_dtype()


# how work is cut


def cut_naively(sizes: list[int], spec: ShardSpec, prepared_bytes: int, parallel: int) -> list[int]:
    """Rows of each shard, the rules told once more: objects are added one by one."""
    shards, left, limit = [], len(sizes), spec.max_mb * 2**20
    while left:
        rows, read = 0, 0
        share = len(sizes) / 4 if parallel == 1 else 2 * left / 3 / parallel
        for size in sizes[len(sizes) - left :]:
            read += size
            prepared = (rows + 1) * prepared_bytes
            if rows and (read > limit or prepared > limit or rows >= min(spec.max_objects, max(64, share))):
                break
            rows += 1
        shards.append(rows)
        left -= rows
    return shards


def in_pieces(sizes: list[int], rows: int) -> Iterator[np.ndarray]:
    return (np.array(sizes[start : start + rows], dtype=np.int64) for start in range(0, len(sizes), rows))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5 * 2**20), max_size=400),
    st.integers(1, 300),
    st.integers(1, 8),
    st.sampled_from([1, 2048, 150_000, 2**21]),
    st.integers(1, 8),
    st.integers(1, 500),
)
def test_shards_cover_the_work_once_within_their_bounds(
    sizes: list[int], max_rows: int, max_mb: int, prepared_bytes: int, parallel: int, piece: int
):
    spec = ShardSpec(max_objects=max_rows, max_mb=max_mb)
    shards = list(cut_shards(in_pieces(sizes, piece), len(sizes), spec, prepared_bytes, parallel))
    assert shards == cut_naively(sizes, spec, prepared_bytes, parallel)
    assert sum(shards) == len(sizes)
    start = 0
    for rows in shards:
        assert 1 <= rows <= max_rows
        if rows > 1:  # an object larger than the bound stands alone
            assert sum(sizes[start : start + rows]) <= max_mb * 2**20
            assert rows * prepared_bytes <= max_mb * 2**20
        start += rows


def test_shards_get_smaller_towards_the_end():
    rows = list(cut_shards(in_pieces([100] * 10_000, 999), 10_000, ShardSpec(max_objects=2048), 2048, 2))
    assert rows[0] == 2048 and rows == sorted(rows, reverse=True)
    assert rows[-1] <= 64


def test_one_actor_has_few_equal_shards():
    assert list(cut_shards(in_pieces([100] * 2000, 999), 2000, ShardSpec(), 2048, 1)) == [500] * 4
    assert list(cut_shards(in_pieces([100] * 60, 60), 60, ShardSpec(), 2048, 1)) == [60]


def test_no_work_no_shards():
    assert list(cut_shards(iter([]), 0, ShardSpec(), 2048, 2)) == []


def test_cutting_looks_no_further_ahead_than_it_must():
    taken = 0

    def pieces() -> Iterator[np.ndarray]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield np.zeros(100, dtype=np.int64)

    shards = cut_shards(pieces(), 100_000, ShardSpec(max_objects=250), 1, 2)
    assert [next(shards) for _ in range(4)] == [250] * 4
    assert taken == 10


# bisecting


@settings(deadline=None)
@given(st.integers(0, 60), st.sets(st.integers(0, 59)))
def test_bisecting_gives_up_the_bad_rows_alone(count: int, bad: set[int]):
    done: list[int] = []
    refused: list[int] = []

    def work(rows: np.ndarray) -> None:
        if bad & set(rows.tolist()):
            raise RuntimeError("poison")
        done.extend(rows.tolist())

    bisecting(np.arange(count), work, lambda row, failure: refused.append(row))
    assert sorted(done) == [row for row in range(count) if row not in bad]
    assert sorted(refused) == sorted(row for row in bad if row < count)


def test_a_batch_is_tried_again_before_it_is_halved():
    calls = []

    def work(rows: np.ndarray) -> None:
        calls.append(rows.tolist())
        if len(calls) == 1:
            raise OSError("for a moment")

    bisecting(np.arange(4), work, lambda row, failure: pytest.fail("no row is bad"))
    assert calls == [[0, 1, 2, 3]] * 2


def test_work_that_always_raises_ends():
    refused = []

    def work(rows: np.ndarray) -> None:
        raise RuntimeError

    for rows in (np.arange(3), np.arange(0)):
        bisecting(rows, work, lambda row, failure: refused.append(row))
    assert refused == [0, 1, 2]


def test_a_record_is_what_makes_a_shard_done(tmp_path: Path):
    place = open_storage(str(tmp_path / "shards"))
    with pytest.raises(FileNotFoundError):
        read_record(place, 3)
    status = vars(Status(3, listed=5))
    record = {
        "attempt": "a",
        "status": status,
        "counts": {},
        "fragments": [],
        "rows": 5,
        "patch": None,
        "truncated": {},
    }
    write_record(place, 3, record)
    assert read_record(place, 3) == record
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["000000003.json"]


def test_origins_fit_their_column():
    assert pa.array(np.array(list(Origin), dtype=np.int8)).to_pylist() == [0, 1, 2, 3, 4]
