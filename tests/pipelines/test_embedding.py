"""The model stage, without Ray: bad rows answer for themselves, and no invalid vector passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from operators.batch import Batch
from operators.embedders.hashing import Config
from pipelines.embedding import EmbedShard, EmbedTask, bare_rate, copy_repeats, drops, embed_rows, invalid_vectors
from pipelines.pools import Pool
from pipelines.reading import ReadShard
from pipelines.shard import Origin, Status, pack, prepared_columns, unpack
from pipelines.spec import EmbedSpec

E, R, U, X, T = Origin.EMBEDDED, Origin.REUSED, Origin.UNCHANGED, Origin.REJECTED, Origin.TO_EMBED
POOL = Pool("v", 1, 1, 1, 0.5, 0, 1, "cpu")


class Marking:
    """An embedder of 2-d vectors `(value, 1)`, which raises on a marked row, and may fail for a moment."""

    def __init__(self, bad: float = -1.0, fails: int = 0) -> None:
        self.bad = bad
        self.fails = fails
        self.batches: list[list[float]] = []

    def embed(self, prepared: Batch) -> np.ndarray:
        values = prepared["value"]
        self.batches.append(values.tolist())
        if self.fails:
            self.fails -= 1
            raise OSError("out of memory, for now")
        if (values == self.bad).any():
            raise RuntimeError(f"cannot embed {self.bad}")
        return np.stack([values, np.ones_like(values)], axis=1).astype(np.float32)


def prepared_of(*values: float) -> Batch:
    return {"value": np.array(values, dtype=np.float64), "cost": np.arange(1, len(values) + 1)}


@pytest.mark.parametrize("budget", [1, 7, 1000])
def test_only_the_marked_row_is_rejected(budget: int):
    vectors, reasons = embed_rows(Marking(bad=3), prepared_of(1, 2, 3, 4, 5), budget)
    assert reasons == {2: "RuntimeError: cannot embed 3"}
    assert vectors.dtype == np.float32
    assert vectors[[0, 1, 3, 4], 0].tolist() == [1, 2, 4, 5]


def test_a_batch_that_fails_once_is_tried_again():
    embedder = Marking(fails=1)
    vectors, reasons = embed_rows(embedder, prepared_of(1, 2), 1000)
    assert (vectors[:, 0].tolist(), reasons) == ([1, 2], {})
    assert embedder.batches == [[2, 1], [2, 1]]


def test_batches_keep_to_the_budget():
    embedder = Marking()
    embed_rows(embedder, prepared_of(*range(20)), 40)
    for batch in embedder.batches:
        costs = [value + 1 for value in batch]
        assert len(batch) == 1 or max(costs) * len(batch) <= 40


def test_a_model_that_takes_no_row_at_all():
    vectors, reasons = embed_rows(Marking(bad=1), prepared_of(1, 1), 1000)
    assert set(reasons) == {0, 1}
    assert len(vectors) == 2


def test_invalid_vectors():
    vectors = np.array([[1, 0], [np.nan, 0], [np.inf, 1], [0, 0], [3, 4], [0.6, 0.8]], dtype=np.float32)
    plain = invalid_vectors(vectors, False, set())
    assert plain == {1: "the vector is not finite", 2: "the vector is not finite", 3: "the vector is zero"}
    assert invalid_vectors(vectors, True, set()) == {**plain, 4: "the vector has length 5.0000"}
    assert set(invalid_vectors(vectors, True, {1, 4})) == {2, 3}
    assert invalid_vectors(np.zeros((0, 4), dtype=np.float32), True, set()) == {}


def test_normalised_vectors_pass_in_half_precision():
    vectors = np.random.default_rng(0).normal(size=(200, 384))
    stored = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    assert invalid_vectors(stored, True, set()) == {}


def test_vectors_that_half_precision_cannot_hold():
    with np.errstate(over="ignore"):
        stored = np.array([[1e6, 1.0], [1.0, 1.0]], dtype=np.float32).astype(np.float16)
    assert invalid_vectors(stored, False, set()) == {0: "the vector is not finite"}


# one shard


def shard_of(
    hashes: list[str], origins: list[Origin], values: list[float], stored: list[Any] | None = None, dtype: Any = None
) -> pa.Table:
    """A block as reading leaves it: prepared values where there is something to embed."""
    count = len(hashes)
    kind = pa.list_(dtype or pa.float32(), 2)
    rows = pa.table(
        {
            "object_id": [f"o{k}" for k in range(count)],
            "uri": pa.nulls(count, pa.string()),
            "content_hash": hashes,
            "origin.v": pa.array(np.array(origins, dtype=np.int8)),
            "v": pa.array(stored or [None] * count, kind),
        }
    )
    todo = np.flatnonzero(np.array(origins) == T)
    if len(todo):
        prepared = {"value": np.array(values, dtype=np.float64)[todo], "cost": np.ones(len(todo), dtype=np.int64)}
        for field, array in prepared_columns(prepared, KEY, todo, count).values():
            rows = rows.append_column(field, array)
    return pack(Status(0, listed=count), rows)


CONFIG = Config(dim=2)
KEY = CONFIG.preparation_key()


def stage(
    embedder: Marking, dtype: str = "float32", normalize: bool = False, drop: tuple[str, ...] = (KEY,)
) -> EmbedShard:
    """The actor's object without an actor."""
    config = CONFIG.model_copy(update={"normalize": normalize}) if normalize else CONFIG
    made = EmbedShard.__new__(EmbedShard)
    reader = ReadShard(None, None, (), None, False)  # type: ignore[arg-type] (no sample is drawn)
    made.task = EmbedTask(EmbedSpec(column="v", config=config, dtype=dtype, pool={}), POOL, drop, reader, ())
    made.budget, made.embedder, made.bare_rate, made.actor = 1000, embedder, 12.5, "A"
    return made


def test_a_shard():
    block = shard_of(["a", "b", "c", "d"], [T, U, R, T], [5, 0, 0, 7], [None, [8, 8], [9, 9], None])
    status, rows = unpack(stage(Marking())(block))
    assert rows["v"].to_pylist() == [[5, 1], [8, 8], [9, 9], [7, 1]]
    assert rows["origin.v"].to_pylist() == [E, U, R, E]
    assert not [name for name in rows.column_names if name.startswith("prepared.")]
    assert status.rejects == []
    (timed,) = status.stages
    assert (timed["stage"], timed["column"], timed["rows"], timed["actor"], timed["bare_rate"]) == (
        "embed",
        "v",
        2,
        "A",
        12.5,
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bad_rows_of_a_shard_are_null_and_noted(dtype: str):
    kind = pa.float32() if dtype == "float32" else pa.float16()
    block = shard_of(["a", "b", "c"], [T, T, T], [1, -1, np.nan], dtype=kind)
    status, rows = unpack(stage(Marking(), dtype)(block))
    assert rows["v"].to_pylist() == [[1, 1], None, None]
    assert rows["v"].type == pa.list_(kind, 2)
    assert rows["origin.v"].to_pylist() == [E, X, X]
    assert [(r["object_id"], r["column"], r["stage"], r["error"]) for r in status.rejects] == [
        ("o1", "v", "embed", "RuntimeError: cannot embed -1.0"),
        ("o2", "v", "embed", "the vector is not finite"),
    ]


def test_rows_of_the_same_content_share_a_vector_and_a_reject():
    block = shard_of(["a", "b", "a", "b", "a"], [T, T, R, R, R], [4, -1, 0, 0, 0])
    status, rows = unpack(stage(Marking())(block))
    assert rows["v"].to_pylist() == [[4, 1], None, [4, 1], None, [4, 1]]
    assert rows["origin.v"].to_pylist() == [E, X, R, X, R]
    assert [(r["object_id"], r["error"]) for r in status.rejects] == [
        ("o1", "RuntimeError: cannot embed -1.0"),
        ("o3", "rejected with the row of the same content"),
    ]


def test_repeats_of_a_row_that_could_not_be_prepared():
    """Nothing is left to embed, and yet the rows that waited for the rejected one must learn of it."""
    status, rows = unpack(stage(Marking())(shard_of(["a", "a", "b"], [X, R, U], [0, 0, 0], [None, None, [1, 1]])))
    assert rows["origin.v"].to_pylist() == [X, X, U]
    assert rows["v"].to_pylist() == [None, None, [1, 1]]
    assert [r["object_id"] for r in status.rejects] == ["o1"]


def test_a_shard_with_nothing_to_embed():
    embedder = Marking()
    status, rows = unpack(stage(embedder)(shard_of(["a"], [U], [0], [[3, 3]])))
    assert (rows["v"].to_pylist(), embedder.batches, status.stages[0]["rows"]) == ([[3, 3]], [], 0)
    _, rows = unpack(stage(embedder)(shard_of([], [], [])))
    assert rows.num_rows == 0


def test_prepared_rows_stay_for_a_later_model():
    _, rows = unpack(stage(Marking(), drop=())(shard_of(["a"], [T], [1])))
    assert [name for name in rows.column_names if name.startswith("prepared.")] == [
        f"prepared.{KEY}.value",
        f"prepared.{KEY}.cost",
    ]


def test_what_is_dropped_when():
    configs = [Config(dim=2), Config(dim=3), Config(dim=2), Config(dim=4)]
    embeds = tuple(EmbedSpec(column=f"c{k}", config=config) for k, config in enumerate(configs))
    keys = [config.preparation_key() for config in configs]
    assert drops(embeds) == [(), (keys[1],), (keys[0],), (keys[3],)]


def test_copy_repeats_without_repeats():
    rows = pa.table({"v": pa.array([[1.0, 1.0]], pa.list_(pa.float32(), 2)), "content_hash": ["a"]})
    vectors, origins = np.ones((1, 2)), np.array([R], dtype=np.int8)
    copy_repeats(rows, "v", vectors, origins, Status(0))  # reused from the table: it has its vector
    assert (vectors.tolist(), origins.tolist()) == ([[1, 1]], [R])


# the model's bare rate


def test_the_bare_rate_is_the_models(monkeypatch: pytest.MonkeyPatch):
    clock = iter(np.arange(0, 1000, 0.5))
    monkeypatch.setattr("pipelines.embedding.time.perf_counter", lambda: float(next(clock)))
    embedder = Marking()
    rate = bare_rate(embedder, {"value": np.arange(4.0), "cost": np.full(4, 10)}, 20)
    # Two batches of two rows, each half a second by the clock above, which is read once more at the end.
    assert rate == pytest.approx(4 / 1.5)
    assert [len(batch) for batch in embedder.batches] == [2, 2, 2]  # the first one warms up


def test_no_sample_no_rate():
    assert bare_rate(Marking(), {}, 10) is None
    assert bare_rate(Marking(), prepared_of(), 10) is None
