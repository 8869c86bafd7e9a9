"""What a run tells of its speed and of its actors."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.report import actors_over_time, most_actors, stages_of, stream_window, throughput


def stage(name: str, began: float, ended: float, **facts: Any) -> dict[str, Any]:
    return {"stage": name, "began": began, "ended": ended, **facts}


def record(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"status": {"stages": list(stages)}}


def embed(began: float, ended: float, rows: int, actor: str, rate: float | None, column: str = "a") -> dict[str, Any]:
    return stage("embed", began, ended, column=column, rows=rows, actor=actor, bare_rate=rate)


RECORDS = [
    record(stage("read", 100, 101), embed(101, 103, 60, "A", 30.0), stage("write", 103, 104)),
    record(stage("read", 99, 102), embed(102, 107, 40, "B", 20.0), stage("write", 108, 109)),
]


def test_the_stream_runs_from_the_first_read_to_the_last_write():
    assert stream_window(RECORDS) == (99, 109)
    assert stream_window([]) is None


def test_throughput_beside_the_models_own():
    # 100 rows in 10 s; two actors of 30 and 20 rows a second make 50
    assert throughput(RECORDS, "a", 2) == {"rows_embedded": 100, "rows_per_s": 10.0, "model_rows_per_s": 50.0}
    assert throughput(RECORDS, "a", 1)["model_rows_per_s"] == 25.0


def test_an_actor_that_worked_on_several_shards_counts_once():
    records = [*RECORDS, record(stage("read", 99, 100), embed(103, 104, 20, "A", 30.0), stage("write", 104, 105))]
    assert throughput(records, "a", 2) == {"rows_embedded": 120, "rows_per_s": 12.0, "model_rows_per_s": 50.0}


def test_columns_apart():
    records = [
        record(stage("read", 0, 1), embed(1, 2, 10, "A", 5.0), embed(2, 3, 8, "C", 4.0, "b"), stage("write", 3, 4))
    ]
    assert throughput(records, "b", 1) == {"rows_embedded": 8, "rows_per_s": 2.0, "model_rows_per_s": 4.0}
    assert [found["actor"] for found in stages_of(records, "b")] == ["C"]


@pytest.mark.parametrize(
    "records", [[], [record(stage("read", 0, 1), embed(1, 2, 0, "A", 5.0), stage("write", 2, 3))]]
)  # fmt: skip
def test_nothing_embedded_has_no_speed(records: list[Any]):
    assert throughput(records, "a", 1) == {"rows_embedded": 0, "rows_per_s": None, "model_rows_per_s": None}


def test_an_actor_without_a_rate():
    records = [record(stage("read", 0, 1), embed(1, 2, 10, "A", None), stage("write", 2, 5))]
    assert throughput(records, "a", 1) == {"rows_embedded": 10, "rows_per_s": 2.0, "model_rows_per_s": None}


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
