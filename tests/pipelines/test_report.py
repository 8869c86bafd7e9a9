"""What a run tells of its speed and of its actors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from pipelines.publish.report import actors_over_time, calibration, most_actors, throughput
from pipelines.publish.tally import Tally

PLACE = {"device": "cpu", "accelerator": None, "threads": 2}


def stage(name: str, began: float, ended: float, **facts: Any) -> dict[str, Any]:
    return {"stage": name, "began": began, "ended": ended, **facts}


def record(*stages: dict[str, Any], attempt: str = "now", **changes: Any) -> dict[str, Any]:
    status = {"shard": 0, "reads": 0, "read_bytes": 0, "replaced": [], "rejects": [], "stages": list(stages)}
    counted = {"fragments": [], "rows": 0, "patch": None, "truncated": {}}
    return {"attempt": attempt, "status": status | changes.pop("status", {}), **counted, **changes}


def embed(began: float, ended: float, rows: int, actor: str, rate: float | None, column: str = "a") -> dict[str, Any]:
    return stage(
        "embed", began, ended, column=column, rows=rows, actor=actor, bare_rate=rate, **PLACE, model_s=rows / 8
    )


@contextmanager
def tally_of(*records: Mapping[str, Any], columns: tuple[str, ...] = ("a",)) -> Iterator[Tally]:
    with Tally(columns, "now") as tally:
        assert list(tally.count(records)) == list(records)
        yield tally


def throughput_of(*records: Mapping[str, Any], column: str = "a", actors: int = 1) -> dict[str, Any]:
    with tally_of(*records, columns=("a", "b")) as tally:
        return throughput(tally, column, actors)


RECORDS = [
    record(stage("read", 100, 101), embed(101, 103, 60, "A", 30.0), stage("write", 103, 104)),
    record(stage("read", 99, 102), embed(102, 107, 40, "B", 20.0), stage("write", 108, 109)),
]


def test_the_stream_runs_from_the_first_read_to_the_last_write():
    with tally_of(*RECORDS) as tally:
        assert tally.window == (99, 109)
    with tally_of() as tally:
        assert tally.window is None


def test_throughput_beside_the_models_own():
    # 100 rows in 10 s; two actors of 30 and 20 rows a second make 50
    assert throughput_of(*RECORDS, actors=2) == {"rows_embedded": 100, "rows_per_s": 10.0, "model_rows_per_s": 50.0}
    assert throughput_of(*RECORDS, actors=1)["model_rows_per_s"] == 25.0


def test_an_actor_that_worked_on_several_shards_counts_once():
    records = [*RECORDS, record(stage("read", 99, 100), embed(103, 104, 20, "A", 30.0), stage("write", 104, 105))]
    assert throughput_of(*records, actors=2) == {"rows_embedded": 120, "rows_per_s": 12.0, "model_rows_per_s": 50.0}


def test_columns_apart():
    one = record(stage("read", 0, 1), embed(1, 2, 10, "A", 5.0), embed(2, 3, 8, "C", 4.0, "b"), stage("write", 3, 4))
    assert throughput_of(one, column="b") == {"rows_embedded": 8, "rows_per_s": 2.0, "model_rows_per_s": 4.0}
    with tally_of(one, columns=("a", "b")) as tally:
        assert tally.actors == {"a": {"A"}, "b": {"C"}}


@pytest.mark.parametrize(
    "records", [[], [record(stage("read", 0, 1), embed(1, 2, 0, "A", 5.0), stage("write", 2, 3))]]
)  # fmt: skip
def test_nothing_embedded_has_no_speed(records: list[Any]):
    assert throughput_of(*records) == {"rows_embedded": 0, "rows_per_s": None, "model_rows_per_s": None}


def test_a_model_that_was_not_timed_alone_has_the_rate_of_its_own_seconds():
    records = [record(stage("read", 0, 1), embed(1, 2, rows, "A", None), stage("write", 2, 5)) for rows in (10, 30)]
    assert throughput_of(*records) == {"rows_embedded": 40, "rows_per_s": 8.0, "model_rows_per_s": 8.0}


def test_what_later_runs_are_planned_by():
    with tally_of(*RECORDS) as tally:
        assert calibration(tally, "a", 50) == {**PLACE, "rows_per_s": 25.0, "rows_per_object": 2.0}
    with tally_of(record(stage("read", 0, 1), embed(1, 2, 0, "A", 5.0), stage("write", 2, 3))) as tally:
        assert calibration(tally, "a", 0) is None


def test_shards_that_were_taken_over_count_their_rows_and_not_their_time():
    before = record(stage("read", 1, 2), embed(2, 4, 1000, "Z", 99.0), stage("write", 4, 5), attempt="before")
    assert throughput_of(before, *RECORDS, actors=2) == {
        "rows_embedded": 1100, "rows_per_s": 10.0, "model_rows_per_s": 50.0
    }  # fmt: skip
    with tally_of(before, *RECORDS) as tally:
        assert (tally.shards, tally.taken_over, tally.window, tally.actors) == (3, 1, (99, 109), {"a": {"A", "B"}})
    assert throughput_of(before) == {"rows_embedded": 1000, "rows_per_s": None, "model_rows_per_s": None}


def test_what_records_add_up_to(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.publish.tally.PIECE", 2)
    names = ["a", "it's", "ü\n世", "d", "e"]
    records = [
        record(
            rows=3, fragments=["one"], truncated={"a": 2},
            status={"reads": 4, "read_bytes": 10, "replaced": names[:3], "rejects": [{"object_id": "x", "error": "ü\n"}]},
        ),
        record(rows=0, status={"reads": 1, "read_bytes": 5, "replaced": names[3:], "rejects": [{"object_id": "y"}] * 2}),
    ]  # fmt: skip
    with tally_of(*records) as tally:
        assert (tally.rows, tally.fragments, tally.truncated) == (3, ["one"], {"a": 2})
        assert (tally.objects_read, tally.bytes_read, tally.replaced) == (5, 15, 5)
        for _ in range(2):  # they can be read again
            pieces = [piece["object_id"].to_pylist() for piece in tally.replaced_ids()]
            assert pieces == [names[:2], names[2:4], names[4:]]
            rejects = list(tally.rejects())
            assert [len(piece) for piece in rejects] == [2, 1]
            assert [r for piece in rejects for r in piece] == [r for one in records for r in one["status"]["rejects"]]


def test_actors_over_time():
    lives = {"A": (100.0, None), "B": (104.0, 110.0), "C": (104.5, 106.0)}
    line = actors_over_time(lives, 100.0)
    assert line == [
        {"t_s": 0.0, "actors": 1},
        {"t_s": 4.0, "actors": 2},
        {"t_s": 4.5, "actors": 3},
        {"t_s": 6.0, "actors": 2},
        {"t_s": 10.0, "actors": 1},
    ]
    assert most_actors(line) == 3
    assert actors_over_time({}, 0) == [] and most_actors([]) == 0


def test_an_actor_that_follows_another_is_not_two_at_once():
    assert most_actors(actors_over_time({"A": (0.0, 5.0), "B": (5.0, 9.0)}, 0.0)) == 1
