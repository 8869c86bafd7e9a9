"""A part of a job: `run --limit` into its table, and `try` into a lake that is not kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_maker import check_accounting, make_job, open_table, rows_of, run, write_texts
from run_maker import open_lance

from operators.errors import SpecError
from pipelines.job.jobfile import parse_job
from pipelines.trial import try_job


def make(folder: Path, texts: int = 40, **sections: Any) -> dict[str, Any]:
    source = write_texts(folder / "in", {f"{n:03}.txt": f"text number {n} about {n % 3}" for n in range(texts)})
    return make_job(folder, source, **sections)


def test_a_limited_run_takes_objects_from_the_whole_source_and_tags_nothing(tmp_path: Path):
    job = make(tmp_path)
    report = run(job, limit=5)
    check_accounting(report)
    assert (report["state"], report["tag"], report["counts"]["listed"]) == ("published", None, 5)
    assert report["whole"]["objects"] == 40
    table = open_lance(job)
    assert sorted(table.to_table(["id"])["id"].to_pylist()) == ["000.txt", "009.txt", "019.txt", "029.txt", "039.txt"]
    assert "prod" not in table.tags.list()
    assert run(job, limit=5)["state"] == "unchanged"


def test_a_whole_run_after_a_limited_one_embeds_the_rest(tmp_path: Path):
    job = make(tmp_path, table={"prune": True})
    run(job, limit=5)
    report = run(job)
    check_accounting(report)
    assert (report["counts"]["embedded"], report["counts"]["unchanged"], report["counts"]["removed"]) == (35, 5, 0)
    assert len(rows_of(job)) == 40 and report["tag"] == "prod"


def test_nothing_is_gone_in_a_limited_run(tmp_path: Path):
    job = make(tmp_path, table={"prune": True})
    published = run(job)["version"]
    write_texts(tmp_path / "in", {"000.txt": "changed", "001.txt": "changed as well"})
    report = run(job, limit=2)
    assert (report["counts"]["listed"], report["counts"]["embedded"], report["counts"]["removed"]) == (2, 1, 0)
    assert open_table(job).version == published and open_lance(job).count_rows() == 40
    assert run(job)["counts"]["embedded"] == 1


def test_a_file_of_many_objects_is_listed_whole_again(tmp_path: Path):
    (tmp_path / "in").mkdir()
    rows = pa.table({"id": [str(n) for n in range(30)], "text": [f"text {n}" for n in range(30)]})
    pq.write_table(rows, tmp_path / "in" / "a.parquet")
    source = {"kind": "parquet", "uri": str(tmp_path / "in"), "id": "id", "content": "text"}
    job = make_job(tmp_path, source)
    assert run(job, limit=3)["counts"]["listed"] == 3
    assert run(job)["counts"]["listed"] == 30


def test_a_limited_run_is_refused_with_a_rebuild(tmp_path: Path):
    job = make(tmp_path)
    run(job)
    with pytest.raises(SpecError, match="a run with a limit cannot rebuild"):
        run({**job, "table": {**job["table"], "mode": "rebuild"}}, limit=5)


def test_a_first_look_touches_nothing(tmp_path: Path):
    job = make(tmp_path)
    write_texts(tmp_path / "in", {f"{n:03}.txt": "" for n in (0, 39)})
    found = try_job(parse_job(job), 10)
    assert not (tmp_path / "lake").exists()
    assert json.loads(json.dumps(found)) == found
    counts = found["report"]["counts"]
    assert (counts["listed"], counts["embedded"] + counts["reused"], counts["rejected"]) == (10, 8, 2)
    assert {(one["object_id"], one["stage"]) for one in found["rejects"]} == {
        ("000.txt", "decode"),
        ("039.txt", "decode"),
    }
    assert found["columns"]["h"]["dimension"] == 64
    for row in found["rows"]:
        distances = [one["distance"] for one in row["nearest"]]
        assert (
            len(distances) == 3
            and distances == sorted(distances)
            and row["id"] not in {one["id"] for one in row["nearest"]}
        )
    whole = found["whole"]
    assert whole["objects"] == 40
    assert 0 < whole["seconds"][0] < whole["seconds"][1] and 0 < whole["mb"][0] <= whole["mb"][1]


def test_a_first_look_leaves_out_the_jobs_own_lake(tmp_path: Path):
    """Where it is below the source."""
    source = write_texts(tmp_path, {"a.txt": "one", "b.txt": "two"})
    job = make_job(tmp_path, source)
    run(job)
    assert try_job(parse_job(job), 50)["report"]["counts"]["listed"] == 2


def test_a_first_look_at_what_cannot_be_embedded(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "", "b.txt": " "}))
    found = try_job(parse_job(job), 5)
    assert (found["report"]["counts"]["rejected"], len(found["rejects"]), found["rows"]) == (2, 2, [])
