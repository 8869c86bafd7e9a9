"""What a lake remembers of its runs, and of what they rejected."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from latentlake.storage import Storage, open_storage
from pipelines.state.ledger import (
    RUNS_SCHEMA,
    RUNS_TABLE,
    find_base_run,
    open_dataset,
    read_rejects,
    read_runs,
    record_run,
    sql_string,
    write_rejects,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "lake"))


def run(
    run_id: str, version: int | None = 1, state: str = "published", table: str = "t", **changes: Any
) -> dict[str, Any]:
    row = {"run_id": run_id, "table": table, "job": "j", "state": state, "started_at": NOW, "base_version": None}
    row |= {"version": version, "listing": f"{run_id}/listing", "state_key": "k", "report": {"x": 1}}
    return row | {"head": version, "tag": "prod", "spec": "{}"} | changes


def runs_of(lake: Storage) -> list[dict[str, Any]]:
    dataset = open_dataset(lake, RUNS_TABLE)
    return [] if dataset is None else dataset.to_table().to_pylist()


def test_a_run_has_one_line(lake: Storage):
    before = datetime.now(UTC)
    for report in ({"rows": 1}, {"rows": 2}):
        record_run(lake, run("r1", report=report))
    record_run(lake, run("r2"))
    first, second = sorted(runs_of(lake), key=lambda line: line["run_id"])
    assert (first["run_id"], second["run_id"]) == ("r1", "r2")
    assert json.loads(first["report"]) == {"format": 1, "rows": 2}  # a run that is resumed writes its line again
    assert first["started_at"] == NOW
    assert before - timedelta(seconds=1) <= first["finished_at"] <= datetime.now(UTC)


def test_the_run_that_a_version_stands_on(lake: Storage):
    assert find_base_run(lake, "t", 1) is None
    record_run(lake, run("r1", 1))
    record_run(lake, run("r2", 1, "unchanged", state_key="k2"))
    record_run(lake, run("r3", 1, "failed", head=None))
    record_run(lake, run("r4", 1, "refused", head=None))  # refused before it had committed
    record_run(lake, run("r5", 2))
    record_run(lake, run("r6", 1, table="other"))
    found = find_base_run(lake, "t", 1)
    assert found is not None and (found.run_id, found.listing, found.state_key) == ("r2", "r2/listing", "k2")
    assert find_base_run(lake, "t", 2).run_id == "r5"  # type: ignore[union-attr]
    assert find_base_run(lake, "t", 3) is None
    assert find_base_run(lake, "other", 1).run_id == "r6"  # type: ignore[union-attr]


def test_a_head_that_was_not_published_has_its_run(lake: Storage):
    record_run(lake, run("r1", 1))
    record_run(lake, run("r2", 1, "refused", head=2))  # readers stayed at 1
    record_run(lake, run("r3", 2, "maintained", head=3, listing="r2/listing"))
    record_run(lake, run("r4", 2, "maintained", head=4, listing=None))
    assert find_base_run(lake, "t", 2).run_id == "r2"  # type: ignore[union-attr]
    assert find_base_run(lake, "t", 3).listing == "r2/listing"  # type: ignore[union-attr]
    assert find_base_run(lake, "t", 4) is None  # what it holds is not known
    record_run(lake, run("r2", 1, "discarded", head=2))
    assert find_base_run(lake, "t", 2) is None


def test_a_ledger_of_an_earlier_release_is_read_and_extended(lake: Storage):
    new = ("head", "tag", "spec")
    old = pa.schema([field for field in RUNS_SCHEMA if field.name not in new])
    line = {name: value for name, value in run("r1", 1).items() if name not in new}
    line |= {"finished_at": NOW, "report": "{}"}
    lance.write_dataset(pa.Table.from_pylist([line], schema=old), f"{lake.lance_uri}/{RUNS_TABLE}.lance")
    assert find_base_run(lake, "t", 1).run_id == "r1"  # type: ignore[union-attr]
    assert read_runs(lake, "t", "head IS NOT NULL") == []
    record_run(lake, run("r2", 2))
    assert find_base_run(lake, "t", 1).run_id == "r1"  # type: ignore[union-attr]
    assert find_base_run(lake, "t", 2).run_id == "r2"  # type: ignore[union-attr]
    assert {line["run_id"]: line["head"] for line in runs_of(lake)} == {"r1": None, "r2": 2}


def test_runs_of_a_table_newest_first(lake: Storage):
    assert read_runs(lake, "t") == []
    for name in ("r1", "r2", "it's"):
        record_run(lake, run(name, table="t" if name.startswith("r") else "it's"))
    assert [line["run_id"] for line in read_runs(lake, "t")] == ["r2", "r1"]
    assert [line["run_id"] for line in read_runs(lake, "t", "run_id = 'r1' OR run_id = 'x'")] == ["r1"]
    assert [line["run_id"] for line in read_runs(lake, "it's")] == ["it's"]


@pytest.mark.parametrize("there", [True, False])
def test_lines_that_are_written_at_the_same_time_are_all_there(
    lake: Storage, monkeypatch: pytest.MonkeyPatch, there: bool
):
    monkeypatch.setattr("pipelines.state.lease.POLL_S", 0.05)
    if there:
        record_run(lake, run("r0"))
    start = threading.Barrier(4)

    def write_line(number: int) -> None:
        start.wait()
        record_run(lake, run(f"r{number}", table=f"t{number}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_line, range(1, 5)))
    assert sorted(line["run_id"] for line in runs_of(lake)) == [f"r{number}" for number in range(1 - there, 5)]


def reject(
    name: str, run_id: str = "r1", version: int | None = 1, column: str | None = None, error: str = "e"
) -> dict[str, Any]:
    row = {"object_id": name, "uri": None, "column": column, "outcome": "rejected", "stage": "decode", "error": error}
    return row | {"sniffed_type": None, "run_id": run_id, "version": version}


def write(lake: Storage, rows: list[dict[str, Any]], settled: list[str], run_id: str) -> None:
    """Rejects and settled ids, both in pieces."""
    pieces = (rows[start : start + 2] for start in range(0, len(rows), 2)) if len(rows) < 100 else iter([rows])
    ids = [pa.table({"object_id": pa.array(settled[start::2], pa.string())}) for start in (0, 1)]
    write_rejects(lake, "t", pieces, [iter(ids)] if settled else (), run_id)


def published(lake: Storage) -> list[str]:
    return [name for piece in read_rejects(lake, "t") for name in piece["object_id"].to_pylist()]


def all_rejects(lake: Storage) -> set[tuple[str, str, int | None]]:
    rows = open_dataset(lake, "t__rejects").to_table().to_pylist()  # type: ignore[union-attr]
    found = [(row["object_id"], row["run_id"], row["version"]) for row in rows]
    assert len(found) == len(set(found))
    return set(found)


def test_rejects_are_there_even_when_there_are_none(lake: Storage):
    assert published(lake) == []
    write(lake, [], [], "r1")
    assert all_rejects(lake) == set()
    assert published(lake) == []


def test_writing_again_changes_nothing(lake: Storage):
    for _ in range(3):
        write(lake, [reject("a"), reject("b")], ["a", "b"], "r1")
    assert all_rejects(lake) == {("a", "r1", 1), ("b", "r1", 1)}


def test_what_a_published_run_settled_goes_and_the_rest_stays(lake: Storage):
    write(lake, [reject(name) for name in ("fixed", "still-bad", "gone", "not-looked-at")], [], "r1")
    write(lake, [reject("still-bad", "r2", 2)], ["fixed", "still-bad", "gone", "never-rejected"], "r2")
    assert all_rejects(lake) == {("not-looked-at", "r1", 1), ("still-bad", "r2", 2)}


def test_a_run_that_published_nothing_takes_nothing_out(lake: Storage):
    write(lake, [reject("a")], ["a"], "r1")
    write(lake, [reject("b", "r2", None)], [], "r2")
    assert all_rejects(lake) == {("a", "r1", 1), ("b", "r2", None)}
    assert published(lake) == ["a"]  # unpublished ones decide nothing
    write(lake, [reject("c", "r3", None)], [], "r3")  # and they make room for the next
    assert all_rejects(lake) == {("a", "r1", 1), ("c", "r3", None)}
    write(lake, [], ["a"], "r4")
    assert all_rejects(lake) == set()


def test_odd_ids_and_many_of_them(lake: Storage):
    names = ["it's", "a\"b", "%", "ü/世界", "'; DROP", *(f"n{k}" for k in range(2500))]  # fmt: skip
    write(lake, [reject(name) for name in names], [], "r1")
    write(lake, [], names[:-1], "r2")
    assert all_rejects(lake) == {("n2499", "r1", 1)}


def test_sql_strings():
    assert sql_string("it's") == "'it''s'"


def test_a_table_at_a_version(lake: Storage):
    assert open_dataset(lake, "t") is None
    for value in (1, 2):
        mode = "create" if value == 1 else "append"
        lance.write_dataset(pa.table({"x": [value]}), f"{lake.lance_uri}/t.lance", mode=mode)
    assert open_dataset(lake, "t").count_rows() == 2  # type: ignore[union-attr]
    assert open_dataset(lake, "t", 1).count_rows() == 1  # type: ignore[union-attr]
