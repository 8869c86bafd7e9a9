"""Maps that a table keeps: one commit under the lease, and never coordinates of another vector than the row's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import latentlake_here
from job_maker import make_job, open_table, rows_of, run, write_jsonl
from run_maker import cut_short, held, lake_of, open_lance

from latentlake.exploration.maps import fit_table
from latentlake.exploration.points import points_of
from latentlake.exploration.stored_maps import find_map, stored_maps
from operators.errors import NotFound, SchemaMismatch, SpecError, WriterConflict
from pipelines.publish.indexes import known_indexes
from pipelines.state.ledger import read_runs
from pipelines.upkeep.maps import store_map
from pipelines.upkeep.rollback import roll_back

ROWS = 300


def texts(changed: int = 0, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"doc{row}", "text": f"{'new' if row < changed else 'old'} words number {row} and {row % 7}", "n": row}
        for row in range(first, ROWS)
    ]


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A published table of texts with an index."""
    index = [{"column": "h", "metric": "cosine", "type": "ivf_flat"}]
    job = make_job(tmp_path, write_jsonl(tmp_path / "in.jsonl", texts(), ["n"]), index=index, publish={"tag": "prod"})
    run(job)
    return job


def places(job: dict[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    return {id: (row["m_x"], row["m_y"]) for id, row in rows_of(job).items()}


def test_a_map_is_one_commit_with_its_provenance(job: dict[str, Any]):
    before = open_lance(job)
    done = store_map(lake_of(job), "t", "m", method="pca")
    table = open_table(job)
    assert (done["version"], done["rows"], done["tags_moved"]) == (before.version + 1, ROWS, ["prod"])
    assert table.version == done["version"] and table.tags() == {"prod": table.version}
    found = stored_maps(table.schema)["m"]
    assert found.provenance.fingerprint == table.provenance("h").fingerprint
    assert (found.provenance.method, found.provenance.version) == ("pca", before.version)
    expected = fit_table(table, "h", "pca", None, None, 15, 0)
    rows = table.to_arrow(["id", "h", "m_x", "m_y"])
    points = points_of(np.stack(rows["h"].to_numpy(zero_copy_only=False)), table.provenance("h"))
    got = np.stack([rows["m_x"].to_numpy(), rows["m_y"].to_numpy()], axis=1)
    np.testing.assert_allclose(np.abs(got), np.abs(expected.transform(points)), atol=1e-4)
    assert [vars(index) for index in table.indexes()] == [vars(index) for index in open_table_at(job, before.version)]
    (kept,) = known_indexes(lake_of(job), "t", table.version).values()
    assert kept.rows == ROWS and kept.version == table.version
    assert read_runs(lake_of(job), "t")[0]["state"] == "mapped"
    assert "text" in (shown := table.search("old words")[0]) and "m_x" not in shown


def open_table_at(job: dict[str, Any], version: int) -> list[Any]:
    return open_table(job).checkout(version).indexes()


def test_the_run_after_it_embeds_nothing(job: dict[str, Any]):
    store_map(lake_of(job), "t", "m", method="pca")
    report = run(job)
    assert (report["state"], report["counts"]["unchanged"], report["objects_read"]) == ("unchanged", ROWS, 0)


def test_coordinates_are_never_stale(job: dict[str, Any], tmp_path: Path):
    store_map(lake_of(job), "t", "m", method="pca")
    before = places(job)
    write_jsonl(tmp_path / "in.jsonl", [*texts(changed=20), {"id": "more", "text": "one more", "n": 1}], ["n"])
    assert run(job)["counts"]["embedded"] == 21
    after = places(job)
    fresh = {f"doc{row}" for row in range(20)} | {"more"}
    assert {id for id, place in after.items() if place == (None, None)} == fresh
    assert all(after[id] == before[id] for id in after if id not in fresh)
    plot = open_table(job).plot("n")  # the stored map, of the rows that have a place
    assert len(plot.labels) == ROWS - 20 and plot.provenance.method == "pca"
    done = store_map(lake_of(job), "t", "m", method="pca", seed=1)
    assert done["rows"] == ROWS + 1 and (None, None) not in places(job).values()
    assert open_table(job).columns.count("m_x") == 1
    assert find_map(open_table(job).schema, "m").provenance.settings["random_state"] == 1


def test_a_second_model_leaves_the_map_of_the_first(job: dict[str, Any]):
    store_map(lake_of(job), "t", "m", column="h", method="pca")
    before = places(job)
    second = {"column": "g", "family": "hashing", "dim": 32, "pool": {"min": 1, "max": 1}}
    run(job | {"embed": [*job["embed"], second]})
    assert places(job) == before and stored_maps(open_table(job).schema)["m"].provenance.column == "h"


def test_a_rebuild_drops_the_map(job: dict[str, Any]):
    store_map(lake_of(job), "t", "m", method="pca")
    run(job | {"table": job["table"] | {"mode": "rebuild"}, "embed": [job["embed"][0] | {"dim": 48}]})
    assert stored_maps(open_table(job).schema) == {}


def test_readers_can_be_taken_back_behind_it(job: dict[str, Any]):
    first = open_lance(job).version
    store_map(lake_of(job), "t", "m", method="pca")
    with pytest.raises(NotFound):  # its rows are those of the version before
        roll_back(lake_of(job), "t")
    roll_back(lake_of(job), "t", version=first)
    assert "m_x" not in open_table(job).columns


def test_rows_without_a_vector_have_no_place(job: dict[str, Any]):
    open_lance(job).update({"h": "NULL"}, where="n = 3")
    assert store_map(lake_of(job), "t", "m", method="pca")["rows"] == ROWS - 1
    rows = open_lance(job).to_table(columns=["id"], filter="m_x IS NULL OR m_y IS NULL")
    assert rows["id"].to_pylist() == ["doc3"]


def test_what_is_refused(job: dict[str, Any], tmp_path: Path):
    lake = lake_of(job)
    version = open_lance(job).version
    with pytest.raises(SpecError, match="use letters"):
        store_map(lake, "t", "a map", method="pca")
    with pytest.raises(NotFound, match="no table 'u'"):
        store_map(lake, "u", "m", method="pca")
    with held(job), pytest.raises(WriterConflict):
        store_map(lake, "t", "m", method="pca")
    cut_short(job | {"source": write_jsonl(tmp_path / "in.jsonl", texts(changed=5), ["n"])})
    with pytest.raises(SpecError, match="can be resumed"):
        store_map(lake, "t", "m", method="pca")
    assert open_lance(job).version == version


def test_a_column_of_the_source_is_no_map(job: dict[str, Any], tmp_path: Path):
    store_map(lake_of(job), "t", "m", method="pca")
    rows = [row | {"m_x": 1.0} for row in texts()]
    with pytest.raises(SchemaMismatch, match="'m_x' of the job is a map's"):
        run(job | {"source": write_jsonl(tmp_path / "in.jsonl", rows, ["n", "m_x"])})
    run(make_job(tmp_path, write_jsonl(tmp_path / "two.jsonl", rows, ["n", "m_x"]), table={"name": "two"}))
    with pytest.raises(SpecError, match="'m_x' of table 'two' is no map's"):
        store_map(lake_of(job), "two", "m", method="pca")


def test_the_command(job: dict[str, Any], tmp_path: Path):
    done = latentlake_here(
        "project", job["table"]["uri"], "t", "--store", "m", "--method", "pca", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["provenance"]["rows_fitted"] == ROWS
