"""Looking up vectors of equal content: what is found, next to a look at every row, and how little is fetched. Real Lance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from latentlake import keys
from latentlake.keys import update_key_indexes
from latentlake.storage import open_storage
from pipelines.flow.columns import place_rows
from pipelines.flow.known import KnownVectors, match_rows, open_known
from pipelines.publish import deletion
from pipelines.publish.deletion import delete_by_index, delete_by_join, delete_objects

DIM = 8
SEEDS = range(6)


@pytest.fixture(autouse=True)
def small_tables_gain(monkeypatch: pytest.MonkeyPatch):
    """Let every table have indexes of its keys, where they are asked for."""
    monkeypatch.setattr(keys, "KEY_INDEX_MIN_ROWS", 1)


def vectors_of(values: np.ndarray, null: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(values.astype("f4").repeat(DIM), DIM, mask=pa.array(null))


def random_rows(seed: int, rows: int) -> pa.Table:
    """Rows of objects that have several each, of contents that many share; two columns that are null in some rows."""
    draw = np.random.default_rng(seed)
    contents, objects = draw.integers(0, rows // 4, rows), draw.integers(0, rows // 3, rows)
    return pa.table(
        {
            "id": [f"{seed}-{n}" for n in range(rows)],
            "object_id": [f"it's {n}" for n in objects],
            "content_hash": [f"{n:032x}" for n in contents],
            "v": vectors_of(contents, draw.random(rows) < 0.4),
            "w": vectors_of(2 * contents, draw.random(rows) < 0.9),
        }
    )


def random_table(folder: Path, seed: int, indexed: bool) -> Any:
    """A table of several fragments, of which some rows are deleted, and that its indexes cover in part."""
    for number in range(3):
        dataset = lance.write_dataset(random_rows(10 * seed + number, 150), str(folder / "t.lance"), mode="append")
        if indexed and number < 2:
            update_key_indexes(dataset)
    dataset.delete("object_id = 'it''s 3' OR object_id = 'it''s 11'")
    return dataset


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_known_is_what_all_rows_of_the_content_say(tmp_path: Path, seed: int, indexed: bool):
    table = random_table(tmp_path, seed, indexed)
    draw = np.random.default_rng(100 + seed)
    hashes = [f"{n:032x}" for n in draw.integers(0, 60, 80)]
    objects = [f"it's {n}" for n in draw.integers(0, 60, 80)]
    everything = table.to_table(with_row_id=True)
    found = KnownVectors(table, [("v",), ("w",)], ["id"]).look_up(hashes, objects)
    assert found is not None
    assert found["_rowid"].to_pylist() == list(dict.fromkeys(found["_rowid"].to_pylist()))
    for column in ("v", "w"):
        at, own = match_rows(found, column, hashes, objects)
        wanted, wanted_own = match_rows(everything, column, hashes, objects)
        assert own.tolist() == wanted_own.tolist()
        assert [None if n < 0 else found[column][n].as_py() for n in at] == [
            None if n < 0 else everything[column][n].as_py() for n in wanted
        ]
    rows = pa.table({"id": [f"{10 * seed}-{n}" for n in range(80)], "object_id": objects, "content_hash": hashes})
    assert place_rows(rows, found, set(objects))[0].equals(place_rows(rows, everything, set(objects))[0])


def test_of_a_content_that_many_rows_share_one_vector_is_fetched(tmp_path: Path):
    rows = 100_000
    null = np.arange(rows) < 10
    data = pa.table(
        {
            "object_id": [f"{n}" for n in range(rows)],
            "content_hash": ["a" * 32] * rows,
            "v": vectors_of(np.ones(rows), null),
        }
    )
    table = lance.write_dataset(data, str(tmp_path / "t.lance"))
    update_key_indexes(table)
    table.io_stats_incremental()
    found = KnownVectors(table, [("v",)]).look_up(["a" * 32, "b" * 32], ["5", "new"])
    assert found is not None
    assert sorted(zip(found["object_id"].to_pylist(), found["v"].is_valid().to_pylist(), strict=True)) == [
        ("0", False),
        ("10", True),
        ("5", False),
    ]


def test_nothing_is_asked_of_a_table_that_has_none_of_the_columns(tmp_path: Path):
    table = random_table(tmp_path, 0, True)
    table.io_stats_incremental()
    assert KnownVectors(table, []).look_up(["0" * 32], ["it's 1"]) is None
    assert KnownVectors(table, [("v",)]).look_up([], []) is None
    assert table.io_stats_incremental().read_bytes == 0


def test_a_table_is_opened_once_per_run_and_process(tmp_path: Path):
    """And never an older version, or another table of the same name."""
    update_key_indexes(random_table(tmp_path, 0, True))
    version = lance.dataset(str(tmp_path / "t.lance")).version
    lake, run = open_storage(str(tmp_path)), open_storage(str(tmp_path / "run"))
    table = open_known(lake, "t", version, run)
    assert open_known(open_storage(str(tmp_path)), "t", version, open_storage(str(tmp_path / "run"))) is table
    hashes, objects = [f"{n:032x}" for n in range(20)], ["it's 1"]
    first = KnownVectors(table, [("v",)]).look_up(hashes, objects)
    table.io_stats_incremental()
    again = KnownVectors(open_known(lake, "t", version, run), []).look_up(hashes[:1], objects)
    assert first is not None and again is None  # without vectors there is nothing to look up
    list(keys.scan_keys(open_known(lake, "t", version, run), "content_hash", hashes, []))
    assert table.io_stats_incremental().read_bytes == 0  # the index was read before

    assert open_known(lake, "t", version - 1, run).version == version - 1
    assert open_known(lake, "t", version, run) is not table
    other = open_known(lake, "t", version, open_storage(str(tmp_path / "another run")))
    assert other is not open_known(lake, "t", version, run)


def test_a_table_is_opened_again_where_a_look_up_failed(tmp_path: Path):
    random_table(tmp_path, 0, False)
    lake, run = open_storage(str(tmp_path)), open_storage(str(tmp_path / "run"))
    table = open_known(lake, "t", 1, run)
    (tmp_path / "t.lance" / "data").rename(tmp_path / "away")
    with pytest.raises((OSError, ValueError)):
        KnownVectors(table, [("v",)]).look_up(["0" * 32], ["it's 1"])
    (tmp_path / "away").rename(tmp_path / "t.lance" / "data")
    assert open_known(lake, "t", 1, run) is not table
    assert KnownVectors(open_known(lake, "t", 1, run), [("v",)]).look_up([f"{1:032x}"], ["it's 1"]) is not None


def test_a_table_is_opened_again_where_a_file_holds_another_key(tmp_path: Path, s3_endpoint: str):
    secret = tmp_path / "secret"
    secret.write_text("first")
    options = {"aws_endpoint": s3_endpoint, "aws_access_key_id": "a", "aws_secret_access_key": f"file:{secret}"}
    lake = open_storage(f"s3://lake/{tmp_path.name}", {**options, "aws_region": "us-east-1"})
    place = lake.child("t.lance")
    lance.write_dataset(random_rows(0, 10), place.lance_uri, **place.lance_arguments)
    table = open_known(lake, "t", 1, lake.child("run"))
    assert open_known(lake, "t", 1, lake.child("run")) is table
    secret.write_text("second")
    assert open_known(lake, "t", 1, lake.child("run")) is not table


@pytest.mark.parametrize("seed", SEEDS)
def test_a_deletion_by_the_index_deletes_what_a_join_deletes(tmp_path: Path, seed: int):
    table = random_table(tmp_path, seed, True)
    draw = np.random.default_rng(seed)
    names = [f"it's {n}" for n in draw.choice(60, draw.integers(0, 55), replace=False)]
    pieces = [pa.table({"object_id": pa.array(names[start : start + 20], pa.string())}) for start in (0, 20, 40)]
    kept = table.to_table(filter=f"object_id NOT IN ({', '.join(keys.sql_string(n) for n in [*names, '-'])})")
    for delete in (delete_by_index, delete_by_join):
        done = delete(table, pieces)
        operation = lance.LanceOperation.Update(done.removed, done.updated, [], [], update_mode="")
        after = lance.LanceDataset.commit(table, lance.Transaction(table.version, operation), max_retries=0)
        assert after.to_table().sort_by("id").equals(kept.sort_by("id"))
        assert done.rows == table.count_rows() - kept.num_rows
        table.restore()


def test_fragments_that_lose_all_their_rows_go(tmp_path: Path):
    for name in ("a", "b"):
        data = pa.table({"object_id": [name] * 5, "content_hash": [name] * 5})
        table = lance.write_dataset(data, str(tmp_path / "t.lance"), mode="append")
    update_key_indexes(table)
    done = delete_by_index(table, [pa.table({"object_id": ["a"]})])
    assert (done.removed, done.updated, done.rows) == ([0], [], 5)


def test_many_objects_are_joined_and_few_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = pa.table({"object_id": [f"{n}" for n in range(100_000)], "content_hash": [f"{n}" for n in range(100_000)]})
    table = lance.write_dataset(data, str(tmp_path / "t.lance"))
    one = [pa.table({"object_id": ["777"]})]
    costs = []
    for indexed in (False, True):
        if indexed:
            update_key_indexes(table)
            table = lance.dataset(table.uri)
        table.io_stats_incremental()
        assert delete_objects(table, one, 1).rows == 1
        costs.append(table.io_stats_incremental().read_bytes)
    assert costs[1] < costs[0] / 4, costs
    many = pa.table({"object_id": [f"{n}" for n in range(50_000)]})
    monkeypatch.setattr(deletion, "delete_by_index", None)
    assert delete_objects(table, [many], 50_000).rows == 50_000
