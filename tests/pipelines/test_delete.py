"""Deleting for good: afterwards no file of the lake holds the object, and no run brings it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from job_maker import check_accounting, make_job, open_table, rows_of, run, write_jsonl, write_texts
from run_maker import cut_short, held, lake_of, open_lance, work_folder

from operators.errors import GateRefused, NotFound, SpecError, WriterConflict
from pipelines.state.ledger import read_runs
from pipelines.upkeep.delete import allow_again, delete_objects
from pipelines.upkeep.maintain import maintain_table
from pipelines.upkeep.publish import publish_version
from pipelines.upkeep.rollback import roll_back

SECRET = "the secret diary of Q7xZ99vK"  # of which nothing may be left
NAME = "person-Q7xZ99vK.txt"
MARK = b"Q7xZ99vK"


def files_with(folder: Path, mark: bytes) -> set[str]:
    """Files of the lake that hold these bytes. Each test asserts first that it finds some, for a file may be compressed."""
    found = (path for path in (folder / "lake").rglob("*") if path.is_file() and mark in path.read_bytes())
    return {str(path.relative_to(folder / "lake")) for path in found}


def files_with_the_secret(folder: Path) -> set[str]:
    """Files of the lake that hold the secret, in their bytes or in their names."""
    names = {str(path.relative_to(folder / "lake")) for path in (folder / "lake").rglob("*")}
    return files_with(folder, MARK) | {name for name in names if MARK.decode() in name}


def make_texts(folder: Path, **sections: Any) -> dict[str, Any]:
    texts = {f"{n}.txt": f"the text number {n} speaks of boats" for n in range(12)}
    return make_job(folder, write_texts(folder / "in", {**texts, NAME: SECRET}), **sections)


def test_nothing_is_left_and_nothing_comes_back(tmp_path: Path):
    job = make_texts(tmp_path, shard={"max_objects": 5})
    run(job)
    dataset = open_lance(job)
    dataset.create_scalar_index("object_id", "BTREE")
    write_texts(tmp_path / "in", {NAME: SECRET + " again", "new.txt": "new"})
    run(job)
    write_texts(tmp_path / "in", {"newer.txt": "newer", "other.txt": SECRET.replace("Q7xZ99vK", "nobody")})
    cut_short(job, 1)
    before = files_with_the_secret(tmp_path)
    assert {name.split("/")[1] for name in before if name.startswith("t.lance/")} >= {"data", "_indices"}
    assert any(name.startswith("_latentlake/t/") for name in before)
    report = delete_objects(lake_of(job), "t", [NAME, "not-there.txt"])
    assert files_with_the_secret(tmp_path) == set()
    assert (report["objects"], report["rows_deleted"], report["tags_moved"]) == (2, 1, ["prod"])
    assert report["proof"]["versions"] == [report["version"]]
    assert report["proof"]["data_files_with_these_objects"] == report["proof"]["data_files_of_no_version"] == 0
    assert len(rows_of(job)) == 13 and not open_lance(job).tags.list()["prod"]["version"] < report["version"]
    after = run(job)
    check_accounting(after)
    assert (after["counts"]["forgotten"], after["counts"]["listed"], after["counts"]["embedded"]) == (1, 15, 2)
    again = run(job)
    assert (again["state"], again["counts"]["forgotten"], again["objects_read"]) == ("unchanged", 1, 0)
    rebuilt = run({**job, "table": {**job["table"], "mode": "rebuild"}})
    assert (rebuilt["counts"]["forgotten"], rebuilt["counts"]["listed"]) == (1, 15)
    assert files_with_the_secret(tmp_path) == set()
    maintain_table(lake_of(job), "t")
    assert run(job)["counts"]["forgotten"] == 1  # upkeep keeps the list
    assert allow_again(lake_of(job), "t", [NAME]) == 1
    back = run(job)
    assert (back["counts"]["embedded"], back["counts"]["forgotten"]) == (1, 0)
    assert rows_of(job)[NAME]["text"] == SECRET + " again"


def test_rows_of_a_table_file(tmp_path: Path):
    rows = [{"id": f"p{n}", "text": f"person number {n}", "city": "Bern"} for n in range(6)]
    secret = {"id": "Q7xZ99vK", "text": SECRET, "city": "Basel"}
    source = write_jsonl(tmp_path / "in.jsonl", [*rows, secret, {**secret, "text": "twice"}], ["city"])
    job = make_job(tmp_path, source, gates={"max_reject_rate": 1})
    assert run(job)["counts"]["rejected"] == 1  # the duplicate, whose reject names the id
    assert any("__rejects" in name for name in files_with_the_secret(tmp_path))
    report = delete_objects(lake_of(job), "t", where="city = 'Basel'")
    assert (report["objects"], report["rejects_deleted"], report["listing_entries_masked"]) == (1, 1, 2)
    assert files_with_the_secret(tmp_path) == set()
    unchanged = run(job)
    assert (unchanged["state"], unchanged["counts"]["forgotten"], unchanged["objects_read"]) == ("unchanged", 2, 0)
    write_jsonl(tmp_path / "in.jsonl", [*rows, secret, {"id": "p9", "text": "nine", "city": "Bern"}], ["city"])
    report = run(job)
    assert (report["counts"]["forgotten"], report["counts"]["embedded"], report["counts"]["listed"]) == (1, 1, 7)
    assert allow_again(lake_of(job), "t", ["Q7xZ99vK"]) == 1
    assert run(job)["counts"]["embedded"] == 1 and "Q7xZ99vK" in rows_of(job)


def test_an_index_that_holds_the_object_is_written_again(tmp_path: Path):
    """Also where the object was all that its fragment held, which Lance then drops without a look at the index."""
    texts = {f"{n}.txt": f"text {n} of boats" for n in range(300)}
    texts["7.txt"] = "a zebra plays chess with purple violins"  # like no other, and so its vector
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts))
    run(job)
    write_texts(tmp_path / "in", {NAME: SECRET})
    run(job)
    dataset = open_lance(job)
    dataset.create_index("h", "IVF_FLAT", num_partitions=2, metric="l2", name="h_idx")  # holds the vectors as they are
    dataset.create_scalar_index("object_id", "BTREE")
    names = segments(job)
    lake_dataset = open_lance(job)
    lake_dataset.tags.update("prod", lake_dataset.version)
    vectors = [np.asarray(rows_of(job)[name]["h"], np.float32).tobytes() for name in (NAME, "7.txt")]
    for vector in vectors:
        assert {name.split("/")[1] for name in files_with(tmp_path, vector)} == {"data", "_indices"}
    report = delete_objects(lake_of(job), "t", [NAME, "7.txt"])  # one alone in its fragment, one among others
    assert [files_with(tmp_path, vector) for vector in vectors] == [set(), set()]
    assert sorted(report["indexes_rebuilt"]) == ["h", "object_id"]
    assert segments(job).keys() == names.keys() == {"h_idx", "object_id_idx"}
    assert not set(segments(job).values()) & set(names.values())
    assert files_with_the_secret(tmp_path) == set()


def segments(job: dict[str, Any]) -> dict[str, str]:
    """The one segment of each index, by the index's name."""
    return {found.name: found.segments[0].uuid for found in open_lance(job).describe_indices()}


def test_another_tag_on_a_version_that_holds_it_blocks_and_is_named(tmp_path: Path):
    job = make_texts(tmp_path)
    version = run(job)["version"]
    write_texts(tmp_path / "in", {"new.txt": "new"})
    run(job)
    open_lance(job).tags.create("paper", version)
    with pytest.raises(SpecError, match=r"'paper' \(version 1\)\. Nothing was deleted"):
        delete_objects(lake_of(job), "t", [NAME])
    assert NAME in rows_of(job) and run(job)["counts"]["forgotten"] == 0
    assert delete_objects(lake_of(job), "t", ["new.txt"])["rows_deleted"] == 1  # the tagged version does not hold it
    assert {tag: found["version"] for tag, found in open_lance(job).tags.list().items()}["paper"] == version
    open_lance(job).tags.delete("paper")
    delete_objects(lake_of(job), "t", [NAME])
    assert files_with_the_secret(tmp_path) == set()


def test_a_deletion_that_was_cut_short_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = make_texts(tmp_path)
    run(job)
    for name in ("rewrite", "delete_rejects", "prove"):
        with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
            broken.setattr(f"pipelines.upkeep.delete.{name}", interrupt)
            delete_objects(lake_of(job), "t", where=f"object_id = '{NAME}'")
    report = delete_objects(lake_of(job), "t", where="object_id = 'nothing'")
    assert report["objects"] == 1
    assert files_with_the_secret(tmp_path) == set()
    assert open_lance(job).tags.list()["prod"]["version"] == report["version"]
    assert run(job)["state"] == "unchanged"


def test_what_was_measured_of_its_rows_is_gone_too(tmp_path: Path):
    """Evaluations, and the rows that a gate on drift has named."""
    job = make_texts(tmp_path, gates={"max_drift": 0.02})
    chain = [{"op": "chunk_text", "column": "h", "max_tokens": 3, "overlap": 0}]
    job |= {"preprocess": chain}
    (tmp_path / "in" / NAME).unlink()
    run(job)
    open_table(job).evaluate({"tasks": [{"kind": "geometry"}]})
    write_texts(tmp_path / "in", {NAME: " ".join(f"Q7xZ99vK{n} secret{n} diary{n}" for n in range(60))})
    with pytest.raises(GateRefused, match=rf"max_drift, worst: row '{NAME}#"):
        run(job)
    publish_version(lake_of(job), "t", force=True, why="seen")
    open_table(job).evaluate({"tasks": [{"kind": "geometry"}]})
    assert {name.partition("/")[0] for name in files_with_the_secret(tmp_path)} >= {"_evals.lance", "_runs.lance"}
    report = delete_objects(lake_of(job), "t", [NAME])
    assert (report["evaluations_deleted"], report["proof"]["evaluations_of_these_objects"]) == (1, 0)
    assert files_with_the_secret(tmp_path) == set()
    assert len(open_table(job).evaluations()) == 1


def test_gates_hold_no_deletion_up(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    job = make_texts(tmp_path, gates={"min_rows": 13})
    run(job)
    report = delete_objects(lake_of(job), "t", [NAME])
    assert [(gate["name"], gate["held"], gate["value"]) for gate in report["gates"]] == [("min_rows", False, 12)]
    assert "the table has 12 rows, 1 too few" in caplog.text
    assert open_table(job).version == report["version"] and report["tags_moved"] == ["prod"]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_refusals(tmp_path: Path):
    job = make_texts(tmp_path)
    with pytest.raises(NotFound, match="no table 't'"):
        delete_objects(lake_of(job), "t", [NAME])
    run(job)
    with pytest.raises(SpecError, match="where"):
        delete_objects(lake_of(job), "t", where="nope = 1")
    with held(job), pytest.raises(WriterConflict, match="being written by job 'test'"):
        delete_objects(lake_of(job), "t", [NAME])
    assert delete_objects(lake_of(job), "t", where="object_id = 'nothing'") == {
        "table": "t",
        "objects": 0,
        "version": 1,
    }
    assert NAME in rows_of(job)


def test_what_the_ledger_knows(tmp_path: Path):
    job = make_texts(tmp_path)
    run(job)
    report = delete_objects(lake_of(job), "t", [NAME])
    line = read_runs(lake_of(job), "t")[0]
    assert (line["state"], line["head"], line["tag"]) == ("deleted", report["version"], "prod")
    with pytest.raises(NotFound):  # the version before is gone
        roll_back(lake_of(job), "t")
    assert not [name for name in work_folder(job).list_names() if name == "deleting.json"]
    assert lance.dataset(open_lance(job).uri).count_rows() == 12


def test_a_lake_in_a_bucket(s3_endpoint: str, tmp_path: Path):
    options = {"aws_endpoint": s3_endpoint}
    job = make_texts(tmp_path, table={"uri": "s3://lake/deleting", "storage_options": options})
    run(job)
    report = delete_objects(lake_of(job), "t", [NAME])
    assert (report["rows_deleted"], report["listing_entries_masked"], report["tags_moved"]) == (1, 1, ["prod"])
    folder = lake_of(job)
    found = [path for path in folder.fs.find(folder.root) if MARK in folder.fs.cat_file(path) or MARK.decode() in path]
    assert found == []
    assert run(job)["counts"]["forgotten"] == 1
