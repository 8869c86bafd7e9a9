"""The model stage, without Ray: bad rows answer for themselves, and no invalid vector passes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from latentlake.storage import Storage, open_storage
from operators.batch import Batch
from operators.embedders.hashing import Config
from pipelines.flow.embedding import (
    EmbedShard,
    EmbedTask,
    bare_rate,
    copy_repeats,
    drops,
    embed_rows,
    invalid_vectors,
    is_out_of_memory,
)
from pipelines.flow.reading import ReadShard
from pipelines.flow.shard import Origin, Status, pack, prepared_columns, unpack
from pipelines.job.spec import EmbedSpec
from pipelines.planning.pools import Pool
from pipelines.state.journal import DIED, Journal

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
            raise OSError("not now")
        if (values == self.bad).any():
            raise RuntimeError(f"cannot embed {self.bad}")
        return np.stack([values, np.ones_like(values)], axis=1).astype(np.float32)


class Cramped(Marking):
    """Has memory for `most` rows at once, and for none at all with the marked row among them."""

    def __init__(self, most: int, bad: float = -1.0) -> None:
        super().__init__()
        self.most = most
        self.big = bad

    def embed(self, prepared: Batch) -> np.ndarray:
        if len(prepared["value"]) > self.most or (prepared["value"] == self.big).any():
            self.batches.append(prepared["value"].tolist())
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().embed(prepared)


def prepared_of(*values: float) -> Batch:
    return {"value": np.array(values, dtype=np.float64), "cost": np.arange(1, len(values) + 1)}


@pytest.fixture(autouse=True)
def little_to_collect() -> Iterator[None]:
    """Where memory runs out, garbage is collected: here of what a test makes, not of all that other tests have imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def place(tmp_path: Path) -> Storage:
    """Folder of a run."""
    return open_storage(str(tmp_path))


def embedded(
    place: Storage, embedder: Marking, prepared: Batch, budget: int, ids: Sequence[str] | None = None
) -> tuple[np.ndarray, dict[int, str], int]:
    with Journal(place, "000000000-v") as journal:
        return embed_rows(embedder, prepared, budget, journal, ids or [f"o{k}" for k in range(len(prepared["cost"]))])


@pytest.mark.parametrize("budget", [1, 7, 1000])
def test_only_the_marked_row_is_rejected(place: Storage, budget: int):
    vectors, reasons, kept = embedded(place, Marking(bad=3), prepared_of(1, 2, 3, 4, 5), budget)
    assert (reasons, kept) == ({2: "RuntimeError: cannot embed 3"}, budget)
    assert vectors.dtype == np.float32
    assert vectors[[0, 1, 3, 4], 0].tolist() == [1, 2, 4, 5]


def test_a_batch_that_fails_once_is_tried_again(place: Storage):
    embedder = Marking(fails=1)
    vectors, reasons, budget = embedded(place, embedder, prepared_of(1, 2), 1000)
    assert (vectors[:, 0].tolist(), reasons, budget) == ([1, 2], {}, 1000)
    assert embedder.batches == [[2, 1], [2, 1]]


def test_batches_keep_to_the_budget(place: Storage):
    embedder = Marking()
    embedded(place, embedder, prepared_of(*range(20)), 40)
    for batch in embedder.batches:
        costs = [value + 1 for value in batch]
        assert len(batch) == 1 or max(costs) * len(batch) <= 40


def test_a_model_that_takes_no_row_at_all(place: Storage):
    vectors, reasons, _ = embedded(place, Marking(bad=1), prepared_of(1, 1), 1000)
    assert set(reasons) == {0, 1}
    assert len(vectors) == 2


# batches that run ahead, as on a GPU


class Ahead(Marking):
    """Begins a batch at once, and embeds it when its vectors are asked for, as a GPU's queue does."""

    runs_ahead = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.events: list[tuple[str, list[float]]] = []
        self.refused: float | None = None

    def begin(self, prepared: Batch) -> Callable[[], np.ndarray]:
        values = prepared["value"].tolist()
        self.events.append(("begin", values))
        if self.refused in values:
            raise RuntimeError("cannot begin")

        def finish() -> np.ndarray:
            self.events.append(("finish", values))
            return self.embed(prepared)

        return finish


def test_a_batch_is_begun_before_the_one_before_it_is_done(place: Storage):
    embedder = Ahead()
    vectors, reasons, _ = embedded(place, embedder, prepared_of(1, 2, 3), 3)
    assert (vectors[:, 0].tolist(), reasons) == ([1, 2, 3], {})
    kinds = [(kind, values[0]) for kind, values in embedder.events]
    assert kinds == [("begin", 3), ("begin", 2), ("finish", 3), ("begin", 1), ("finish", 2), ("finish", 1)]


@pytest.mark.parametrize("refused", [None, 3.0, 5.0, 1.0])
@pytest.mark.parametrize("bad", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("budget", [1, 7, 1000])
def test_of_batches_that_ran_ahead_only_the_marked_row_is_rejected(
    place: Storage, budget: int, bad: float, refused: float | None
):
    embedder = Ahead(bad=bad)
    embedder.refused = refused
    vectors, reasons, kept = embedded(place, embedder, prepared_of(1, 2, 3, 4, 5), budget)
    assert (reasons, kept) == ({int(bad) - 1: f"RuntimeError: cannot embed {bad}"}, budget)
    others = [value for value in (1, 2, 3, 4, 5) if value != bad]
    assert vectors[[value - 1 for value in others], 0].tolist() == others


def test_a_careful_attempt_does_not_run_ahead(place: Storage):
    Journal(place, "000000000-v").__enter__()  # an attempt that died
    embedder = Ahead()
    vectors, _, _ = embedded(place, embedder, prepared_of(1, 2, 3), 3)
    assert vectors[:, 0].tolist() == [1, 2, 3] and not embedder.events


# memory that runs out


@pytest.mark.parametrize(
    ("failure", "known"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("x"), True),
        (RuntimeError("std::bad_alloc"), True),
        (ValueError("the memory of a goldfish"), False),
        (OSError("disk full"), False),
    ],
)
def test_what_is_taken_for_a_lack_of_memory(failure: Exception, known: bool):
    assert is_out_of_memory(failure) is known


def equal_rows(count: int) -> Batch:
    return {"value": np.arange(count, dtype=np.float64), "cost": np.full(count, 10)}


def test_a_lack_of_memory_halves_the_budget_for_good_and_loses_no_row(place: Storage):
    embedder = Cramped(most=2)
    vectors, reasons, budget = embedded(place, embedder, equal_rows(21), 80)
    assert (vectors[:, 0].tolist(), reasons) == (list(range(21)), {})
    assert budget == 20  # 80, 40, 20: batches of two rows
    assert [len(batch) for batch in embedder.batches].count(
        8
    ) == 2  # tried twice, once: the batches after it are smaller
    embedder.batches.clear()
    _, _, budget = embedded(place, embedder, equal_rows(8), budget)
    assert ([len(batch) for batch in embedder.batches], budget) == ([2] * 4, 20)


def test_a_row_that_alone_takes_all_memory_is_rejected_and_the_rest_keep_their_budget(place: Storage):
    embedder = Cramped(most=8, bad=3)
    vectors, reasons, budget = embedded(place, embedder, equal_rows(16), 80)
    assert list(reasons) == [3] and "out of memory" in reasons[3]
    assert np.delete(vectors[:, 0], 3).tolist() == [k for k in range(16) if k != 3]
    assert budget == 80
    _, reasons, budget = embedded(place, Cramped(most=8, bad=0), equal_rows(1), 80)
    assert (list(reasons), budget) == ([0], 80)


def test_memory_that_ran_out_for_a_moment_halves_the_budget_once(place: Storage):
    class Briefly(Cramped):
        def embed(self, prepared: Batch) -> np.ndarray:
            self.most, most = 1000, self.most
            return super().embed(prepared) if most == 1000 else self.refuse()

        def refuse(self) -> np.ndarray:
            raise MemoryError

    vectors, reasons, budget = embedded(place, Briefly(most=0), equal_rows(10), 100)
    assert (vectors[:, 0].tolist(), reasons, budget) == (list(range(10)), {}, 50)


def test_an_actor_remembers_its_budget(place: Storage):
    actor = stage(place, Cramped(most=1))
    actor.budget = 4
    for budget in (2, 1, 1):
        status, rows = unpack(actor(shard_of(["a", "b", "c", "d"], [T] * 4, [1, 2, 3, 4])))
        assert (actor.budget, status.stages[0]["budget"], status.rejects) == (budget, budget, [])
        assert rows["v"].to_pylist() == [[1, 1], [2, 1], [3, 1], [4, 1]]


# rows that kill the process


def test_a_row_that_kills_the_process_is_found_and_the_others_are_embedded(place: Storage):
    class Killed(BaseException):
        """As a SIGKILL would be: nothing of ours runs after it."""

    class Deadly(Marking):
        def embed(self, prepared: Batch) -> np.ndarray:
            if (prepared["value"] == 7).any():
                raise Killed
            return super().embed(prepared)

    prepared, ids = equal_rows(20), [f"o{k}" for k in range(20)]
    deaths = 0
    while True:
        journal = Journal(place, "000000000-v").__enter__()
        try:
            vectors, reasons, _ = embed_rows(Deadly(), prepared, 80, journal, ids)
        except Killed:
            deaths += 1
            continue
        journal.__exit__(None)
        break
    assert (deaths, reasons) == (4, {7: DIED})  # unnoted, in its batch, twice alone
    assert np.delete(vectors[:, 0], 7).tolist() == [k for k in range(20) if k != 7]
    assert not place.child("attempts").list_names()


def test_all_rows_of_a_shard_may_be_dead(place: Storage):
    place.child("attempts").put_if_absent("000000000-v.json", b'{"dead": ["o0", "o1"]}')
    embedder = Marking()
    vectors, reasons, _ = embedded(place, embedder, equal_rows(2), 80)
    assert (reasons, embedder.batches, len(vectors)) == ({0: DIED, 1: DIED}, [], 2)


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
            "id": [f"o{k}" for k in range(count)],
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
    place: Storage, embedder: Marking, dtype: str = "float32", normalize: bool = False, drop: tuple[str, ...] = (KEY,)
) -> EmbedShard:
    """The actor's object without an actor."""
    config = CONFIG.model_copy(update={"normalize": normalize}) if normalize else CONFIG
    made = EmbedShard.__new__(EmbedShard)
    reader = ReadShard(None, place, (), None, False)  # type: ignore[arg-type] (no sample is drawn)
    made.task = EmbedTask(EmbedSpec(column="v", config=config, dtype=dtype, pool={}), POOL, drop, reader, ())
    made.budget, made.embedder, made.bare_rate, made.actor = 1000, embedder, 12.5, "A"
    return made


def test_a_shard(place: Storage):
    block = shard_of(["a", "b", "c", "d"], [T, U, R, T], [5, 0, 0, 7], [None, [8, 8], [9, 9], None])
    status, rows = unpack(stage(place, Marking())(block))
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
def test_bad_rows_of_a_shard_are_null_and_noted(place: Storage, dtype: str):
    kind = pa.float32() if dtype == "float32" else pa.float16()
    block = shard_of(["a", "b", "c"], [T, T, T], [1, -1, np.nan], dtype=kind)
    status, rows = unpack(stage(place, Marking(), dtype)(block))
    assert rows["v"].to_pylist() == [[1, 1], None, None]
    assert rows["v"].type == pa.list_(kind, 2)
    assert rows["origin.v"].to_pylist() == [E, X, X]
    assert [(r["object_id"], r["column"], r["stage"], r["error"]) for r in status.rejects] == [
        ("o1", "v", "embed", "RuntimeError: cannot embed -1.0"),
        ("o2", "v", "embed", "the vector is not finite"),
    ]


def test_rows_of_the_same_content_share_a_vector_and_a_reject(place: Storage):
    block = shard_of(["a", "b", "a", "b", "a"], [T, T, R, R, R], [4, -1, 0, 0, 0])
    status, rows = unpack(stage(place, Marking())(block))
    assert rows["v"].to_pylist() == [[4, 1], None, [4, 1], None, [4, 1]]
    assert rows["origin.v"].to_pylist() == [E, X, R, X, R]
    assert [(r["object_id"], r["error"]) for r in status.rejects] == [
        ("o1", "RuntimeError: cannot embed -1.0"),
        ("o3", "rejected with the row of the same content"),
    ]


def test_repeats_of_a_row_that_could_not_be_prepared(place: Storage):
    """Nothing is left to embed, and yet the rows that waited for the rejected one must learn of it."""
    status, rows = unpack(
        stage(place, Marking())(shard_of(["a", "a", "b"], [X, R, U], [0, 0, 0], [None, None, [1, 1]]))
    )
    assert rows["origin.v"].to_pylist() == [X, X, U]
    assert rows["v"].to_pylist() == [None, None, [1, 1]]
    assert [r["object_id"] for r in status.rejects] == ["o1"]


def test_a_shard_with_nothing_to_embed(place: Storage):
    embedder = Marking()
    status, rows = unpack(stage(place, embedder)(shard_of(["a"], [U], [0], [[3, 3]])))
    assert (rows["v"].to_pylist(), embedder.batches, status.stages[0]["rows"]) == ([[3, 3]], [], 0)
    _, rows = unpack(stage(place, embedder)(shard_of([], [], [])))
    assert rows.num_rows == 0


def test_prepared_rows_stay_for_a_later_model(place: Storage):
    _, rows = unpack(stage(place, Marking(), drop=())(shard_of(["a"], [T], [1])))
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
    monkeypatch.setattr("pipelines.flow.embedding.time.perf_counter", lambda: float(next(clock)))
    embedder = Marking()
    rate = bare_rate(embedder, {"value": np.arange(4.0), "cost": np.full(4, 10)}, 20)
    # Two batches of two rows, each half a second by the clock above, which is read once more at the end.
    assert rate == pytest.approx(4 / 1.5)
    assert [len(batch) for batch in embedder.batches] == [2, 2, 2]  # the first one warms up


def test_a_row_of_the_sample_that_raises_costs_the_rate_and_nothing_else():
    assert bare_rate(Marking(bad=2), {"value": np.arange(4.0), "cost": np.full(4, 10)}, 20) is None
    assert bare_rate(Cramped(most=0), {"value": np.arange(4.0), "cost": np.full(4, 10)}, 20) is None


def test_no_sample_no_rate():
    assert bare_rate(Marking(), {}, 10) is None
    assert bare_rate(Marking(), prepared_of(), 10) is None
