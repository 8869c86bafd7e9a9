"""What a listing passes by: files left out by their names, the job's own lake and file; and what that does to rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from job_maker import check_accounting, make_job, open_table, rows_of, run, run_job, write_jsonl, write_texts
from pydantic import ValidationError
from source_maker import Store, list_all

from pipelines.job.jobfile import load_job
from pipelines.sources import source_class
from pipelines.sources._names import LEAVE_OUT, LEFT_OUT, literal, name_matcher

JUNK = ("._a.txt", ".DS_Store", "b/Thumbs.db", "b/desktop.ini", "_SUCCESS", "_delta_log/0.json", "__MACOSX/b/c.txt")
KEPT = ("a.txt", "b/._", "b/SUCCESS", "x_SUCCESS", "delta_log/0.json", "my._a.txt", ".hidden", "_metadata")


def text_of(name: str) -> str:
    return f"the text of {name}"


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    names = [name for name in (*JUNK, *KEPT) if name != "b/._"]
    source = write_texts(tmp_path / "in", {name: text_of(name) for name in names})
    return make_job(tmp_path, source)


def test_junk_is_left_out_by_name_and_counted(job: dict[str, Any]):
    report = run(job)
    check_accounting(report)
    assert (report["counts"]["listed"], report["counts"]["left_out"]) == (len(KEPT) - 1, len(JUNK))
    assert set(rows_of(job)) == set(KEPT) - {"b/._"}
    again = run(job)
    assert (again["state"], again["counts"]["left_out"], again["objects_read"]) == ("unchanged", len(JUNK), 0)


def test_an_empty_file_stays_a_reject(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "", "b.txt": "b"}), gates={"max_reject_rate": 1})
    assert (run(job)["counts"]["rejected"], run(job)["counts"]["left_out"]) == (1, 0)


def test_it_can_be_asked_for(job: dict[str, Any]):
    job["source"]["leave_out"] = []
    report = run(job)
    assert (report["counts"]["listed"], report["counts"]["left_out"]) == (len(JUNK) + len(KEPT) - 1, 0)
    job["source"]["leave_out"] = ["*.json"]
    assert set(rows_of(job)) >= set(JUNK)
    listing = list_all(source_class("files")(**job["source"]))
    errors = dict(zip(listing["object_id"].to_pylist(), listing["error"].to_pylist(), strict=True))
    assert {name for name, error in errors.items() if error == LEFT_OUT} == {"_delta_log/0.json", "delta_log/0.json"}


def test_a_file_that_the_job_names_itself(tmp_path: Path):
    write_texts(tmp_path / "in", {"._a.txt": "a"})
    assert run(make_job(tmp_path, {"kind": "files", "uri": str(tmp_path / "in" / "._a.txt")}))["counts"]["listed"] == 1


@pytest.mark.parametrize("glob", ["a/b", "", "/"])
def test_only_names_can_be_left_out(glob: str):
    with pytest.raises(ValidationError, match="is no name of a file or folder; for paths there is `exclude`"):
        source_class("files")(kind="files", uri="x", leave_out=[glob])


def test_no_row_is_pruned_because_of_an_exclusion(job: dict[str, Any]):
    job["table"]["prune"], job["gates"] = True, {"max_objects_removed": 1}
    job["source"]["leave_out"] = []
    run(job)
    assert len(rows_of(job)) == len(JUNK) + len(KEPT) - 1
    del job["source"]["leave_out"]
    Path(job["source"]["uri"], ".hidden").unlink()
    Path(job["source"]["uri"], "_SUCCESS").unlink()  # this one is gone, and not only left out
    report = run(job)
    check_accounting(report)
    assert (report["counts"]["removed"], report["counts"]["left_out"]) == (2, len(JUNK) - 1)
    assert set(rows_of(job)) == {*JUNK, *KEPT} - {".hidden", "_SUCCESS", "b/._"}


def test_a_reject_that_is_left_out_now_is_no_reject(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "a", ".DS_Store": ""}))
    run({**job, "source": {**job["source"], "leave_out": []}, "gates": {"max_reject_rate": 1}})
    report = run(job)
    assert (report["counts"]["rejected"], report["counts"]["left_out"]) == (0, 1)
    import latentlake

    assert latentlake.connect(job["table"]["uri"]).rejects("t").num_rows == 0


def test_table_files_are_left_out_too_but_those_that_were_read_before(tmp_path: Path):
    source = write_jsonl(tmp_path / "in" / "a.jsonl", [{"id": "a", "text": "a"}]) | {"uri": str(tmp_path / "in")}
    write_jsonl(tmp_path / "in" / "_delta_log" / "b.jsonl", [{"id": "b", "text": "b"}])
    (tmp_path / "in" / "._a.jsonl").write_bytes(b"\0\5\x16\7 no JSON")
    job = make_job(tmp_path, source)
    report = run(job)
    assert (report["counts"]["listed"], report["counts"]["left_out"], set(rows_of(job))) == (1, 2, {"a"})
    assert run(job)["counts"] == {**report["counts"], "embedded": 0, "unchanged": 1}


def lake_job(folder: Path, lake: str) -> dict[str, Any]:
    """A job whose lake lies in its source."""
    source = write_texts(folder, {"a.txt": "a", "in/b.txt": "b"})
    return make_job(folder, source, table={"uri": str(folder / lake) if lake else str(folder), "prune": True})


@pytest.mark.parametrize("lake", ["lake", "in/a (lake) ü+", ""])
def test_a_lake_in_the_source_is_not_listed(tmp_path: Path, lake: str):
    job = lake_job(tmp_path, lake)
    for _ in range(3):
        report = run(job)
        assert (report["counts"]["listed"], report["counts"]["left_out"], report["counts"]["removed"]) == (2, 0, 0)
    assert set(rows_of(job)) == {"a.txt", "in/b.txt"}


def test_rows_of_an_older_run_that_read_its_own_lake_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = lake_job(tmp_path, "my lake")
    (tmp_path / "my lake").mkdir()
    (tmp_path / "my lake" / "x.txt").write_text("x")
    with monkeypatch.context() as before:
        before.setattr("pipelines.sources.base.own_names", lambda *_: None)
        job["gates"] = {"max_reject_rate": 1, "max_objects_removed": 1}
        run(job)
    assert "my lake/x.txt" in rows_of(job)
    assert run(job)["counts"]["removed"] == 0
    assert "my lake/x.txt" in rows_of(job)


def test_a_lake_that_stands_around_its_source_changes_nothing(tmp_path: Path):
    source = write_texts(tmp_path / "lake" / "in", {"a.txt": "a", "x.lance/b.txt": "b"})
    assert run(make_job(tmp_path, source))["counts"]["listed"] == 2


def test_the_job_file_is_no_object(tmp_path: Path):
    source = write_texts(tmp_path, {"a.txt": "a", "job.yaml.txt": "b"})
    job = make_job(tmp_path, {**source, "uri": str(tmp_path)})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert run_job(load_job(tmp_path / "job.yaml"))["counts"]["listed"] == 2
    assert set(rows_of(job)) == {"a.txt", "job.yaml.txt"}


def test_a_lake_below_the_source_in_a_bucket(s3_endpoint: str):
    options = {"aws_endpoint": s3_endpoint}
    import boto3

    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for name in ("own/a.txt", "own/lake.txt", "own/lake2/c.txt", "own/._a.txt"):
        client.put_object(Bucket="objects", Key=name, Body=name.encode())
    job = make_job(Path("/"), {"kind": "files", "uri": "s3://objects/own", "storage_options": options})
    job["table"] = {"uri": "s3://objects/own/lake", "name": "t", "storage_options": options}
    for _ in range(2):
        counts = run(job)["counts"]
        assert (counts["listed"], counts["left_out"]) == (3, 1)
    assert open_table(job).to_arrow().num_rows == 3
    other = source_class("files")(**{**job["source"], "storage_options": {"aws_endpoint": "http://elsewhere:1"}})
    from latentlake.storage import open_storage

    assert other.beside(open_storage("s3://objects/own/lake", options)).own is None


def test_the_keys_of_a_job_stay_as_they_were():
    """As 1204d81 made them; a field that is new is in no JSON at its default."""
    source = source_class("files")(kind="files", uri="x", include=["*.txt"])
    assert source.identity() == {"kind": "files", "include": ["*.txt"], "exclude": []}
    assert source.model_dump(mode="json") == {"kind": "files", "uri": "x", "storage_options": {}, **source.identity()}
    assert source.model_copy(update={"leave_out": []}).identity()["leave_out"] == []
    assert source_class("files")(**json.loads(source.model_dump_json())) == source


def test_globs_are_of_one_name():
    junk = name_matcher(LEAVE_OUT)
    assert [name for name in (*JUNK, *KEPT) if junk(name)] == [*JUNK, "b/._"]
    assert not name_matcher([])("._a")


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_both_engines_take_a_name_literally(name: str, other: str):
    if "\0" in name + other:
        return
    pattern = f"^(?:{literal(name)})$"
    for text in (name, other):
        (found,) = duckdb.execute("SELECT regexp_matches(?, ?)", [text, pattern]).fetchall()[0]
        assert found == (text == name)


def test_a_store_lists_them_alike(tmp_path: Path, s3_endpoint: str):
    import boto3

    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for store in (Store(str(tmp_path), {}), Store("s3://objects/junk", {"aws_endpoint": s3_endpoint}, client)):
        for name in (*JUNK, *KEPT):
            store.put(name, b"x")
        listing = list_all(store.source("files"))
        errors = dict(zip(listing["object_id"].to_pylist(), listing["error"].to_pylist(), strict=True))
        assert {name for name, error in errors.items() if error == LEFT_OUT} == {*JUNK, "b/._"}
