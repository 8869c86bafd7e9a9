"""What a lake remembers of its runs, and of what they rejected."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from latentlake.storage import Storage, open_storage
from pipelines.ledger import (
    RUNS_TABLE,
    find_base_run,
    open_dataset,
    read_rejects,
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
    return row | {"version": version, "listing": f"{run_id}/listing", "state_key": "k", "report": {"x": 1}} | changes


def runs_of(lake: Storage) -> list[dict[str, Any]]:
    dataset = open_dataset(lake, RUNS_TABLE)
    return [] if dataset is None else dataset.to_table().to_pylist()


def test_a_run_has_one_line(lake: Storage):
    before = datetime.now(UTC)
    for report in ({"rows": 1}, {"rows": 2}):
        record_run(lake, run("r1", report=report))
    record_run(lake, run("r2"))
    first, second = runs_of(lake)
    assert (first["run_id"], second["run_id"]) == ("r1", "r2")
    assert first["report"] == '{"rows": 1}'
    assert first["started_at"] == NOW
    assert before - timedelta(seconds=1) <= first["finished_at"] <= datetime.now(UTC)


def test_the_run_that_a_version_stands_on(lake: Storage):
    assert find_base_run(lake, "t", 1) is None
    record_run(lake, run("r1", 1))
    record_run(lake, run("r2", 1, "unchanged", state_key="k2"))
    record_run(lake, run("r3", 1, "failed"))
    record_run(lake, run("r4", 1, "refused"))
    record_run(lake, run("r5", 2))
    record_run(lake, run("r6", 1, table="other"))
    found = find_base_run(lake, "t", 1)
    assert found is not None and (found.run_id, found.listing, found.state_key) == ("r2", "r2/listing", "k2")
    assert find_base_run(lake, "t", 2).run_id == "r5"  # type: ignore[union-attr]
    assert find_base_run(lake, "t", 3) is None
    assert find_base_run(lake, "other", 1).run_id == "r6"  # type: ignore[union-attr]


def reject(
    name: str, run_id: str = "r1", version: int | None = 1, column: str | None = None, error: str = "e"
) -> dict[str, Any]:
    row = {"object_id": name, "uri": None, "column": column, "outcome": "rejected", "stage": "decode", "error": error}
    return row | {"sniffed_type": None, "run_id": run_id, "version": version}


def write(lake: Storage, rows: list[dict[str, Any]], settled: list[str], run_id: str) -> None:
    write_rejects(lake, "t", rows, pa.array(settled, pa.string()), run_id)


def all_rejects(lake: Storage) -> set[tuple[str, str, int | None]]:
    rows = open_dataset(lake, "t__rejects").to_table().to_pylist()  # type: ignore[union-attr]
    found = [(row["object_id"], row["run_id"], row["version"]) for row in rows]
    assert len(found) == len(set(found))
    return set(found)


def test_rejects_are_there_even_when_there_are_none(lake: Storage):
    assert read_rejects(lake, "t").num_rows == 0
    write(lake, [], [], "r1")
    assert all_rejects(lake) == set()
    assert read_rejects(lake, "t").num_rows == 0


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
    assert read_rejects(lake, "t")["object_id"].to_pylist() == ["a"]  # unpublished ones decide nothing
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
