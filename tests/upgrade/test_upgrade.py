"""What an earlier release has written is searched, run again, resumed and kept up by this one.

Where one of these tests fails, an upgrade would break the lakes that people have: the change is wrong, not the test.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from job_maker import run_job
from make_lake import SOURCE, make_jobs, sentence
from release_maker import Release
from typer.testing import CliRunner

from operators.errors import FingerprintMismatch, InvalidSpec
from operators.preprocess import find_operator, operators_by_name
from pipelines.cli.main import app
from pipelines.job.jobfile import parse_job
from pipelines.job.spec import with_todays_keys
from pipelines.state.ledger import SPEC, read_runs
from pipelines.state.manifest import Manifest, described_runs
from pipelines.upkeep.stored_jobs import stored_job

ENDED = ("docs", "notes", "items", "pictures", "sounds")  # tables whose last run ended
KILLED = "products"
TABLES = sorted([*ENDED, KILLED])
VERSIONS = {"docs": 4} | dict.fromkeys(["items", "notes", "pictures", "products", "sounds"], 1)
ROWS = {"docs": 416, "items": 40, "notes": 40, "pictures": 12, "products": 40, "sounds": 12}
QUERIES: dict[str, str | Path] = {
    "docs": "this document is new",
    "items": sentence(307),
    "notes": sentence(207),
    "products": sentence(1007),
    "pictures": SOURCE / "pictures" / "07.png",
    "sounds": SOURCE / "sounds" / "07.wav",
}
FOUND = {
    "docs": "new.txt#0", "items": "7", "notes": "n7", "products": "sku-007", "pictures": "07.png", "sounds": "07.wav"
}  # fmt: skip


def run(release: Release, table: str) -> dict[str, Any]:
    return run_job(parse_job(release.jobs[table]))


def command(*arguments: str, error: type[Exception] | None = None) -> Any:
    """What a command prints, as JSON where it is; or with `error` the error of that type that it ends with, as text."""
    done = CliRunner().invoke(app, list(arguments))
    if error is not None:
        assert isinstance(done.exception, error), (arguments, done.output, done.exception)
        return repr(done.exception)
    if done.exception is not None:
        raise done.exception
    return json.loads(done.stdout.splitlines()[-1]) if "--json" in arguments else done.stdout


def test_the_jobs_are_those_of_the_script(release: Release):
    """So that a field which a later release needs is given it in the test, not in the archive. Renamed keys are changed by the user."""
    made = json.loads(json.dumps(make_jobs(release.lake)))
    assert release.jobs == {name: with_todays_keys(job) for name, job in made.items()}


@pytest.mark.parametrize("key", ["shard.max_rows=8", "gates.max_rows_removed=0.5"])
def test_a_key_that_was_renamed_says_its_new_name(release: Release, key: str):
    path = release.lake.parent / "job.json"
    path.write_text(json.dumps(release.jobs["products"]))
    new = key.partition("=")[0].replace("rows", "objects").rpartition(".")[2]
    told = command("validate", str(path), "--set", key, error=InvalidSpec)
    assert f"unknown key. It is called '{new}' now." in told


def test_stored_jobs_have_todays_keys(release: Release):
    (line, *_) = read_runs(release.storage, "products", "spec IS NOT NULL")
    assert json.loads(line["spec"])["shard"]["max_rows"] == 8
    spec = SPEC.read(line["spec"])
    assert (spec["shard"]["max_objects"], spec["gates"]["max_objects_removed"]) == (8, 0.1)
    (folder,) = release.run_folders(KILLED)
    manifest = Manifest.from_json((folder / "run.json").read_bytes())
    assert (manifest.spec["shard"]["max_objects"], manifest.spec["gates"]["max_objects_removed"]) == (8, 0.1)
    assert stored_job(release.storage, "products").shard.max_objects == 8


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_searched(release: Release, table: str):
    found = release.open(table)
    assert (found.version, found.count(), found.tags()) == (VERSIONS[table], ROWS[table], {"prod": VERSIONS[table]})
    query, id = QUERIES[table], FOUND[table]
    assert found.search(query, k=3, column="h").to_arrow()["id"].to_pylist()[0] == id
    vector = found.to_arrow(columns=["h"], where=f"id = '{id}'")["h"][0].as_py()
    (first, *_) = found.search(vector, k=3, column="h", exact=True).to_list()
    assert (first["id"], round(first["_distance"], 5)) == (id, 0)
    assert len(found.search(id=id, k=3, column="h")) == 3
    assert [version.version for version in found.versions()][-1] == VERSIONS[table]


@pytest.mark.parametrize("table", ENDED)
def test_a_run_of_a_job_whose_source_is_as_it_was_changes_nothing(release: Release, table: str):
    report = run(release, table)
    counts = report["counts"]
    assert (report["state"], report["version"], report["objects_read"]) == ("unchanged", VERSIONS[table], 0)
    assert counts["unchanged"] + counts["rejected"] + counts["filtered"] == counts["listed"]
    assert release.open(table).version == VERSIONS[table]


def raise_version(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    """Let an operator be of a later version than it was."""
    known = find_operator(op)
    later = replace(known, version=known.version + 1)
    found = {name: later if name == op else one for name, one in operators_by_name().items()}
    monkeypatch.setattr("operators.preprocess.operators_by_name", lambda: found)


@pytest.mark.parametrize("what", ["decoder", "chunk_text", "drop_short_text"])
@pytest.mark.parametrize("table", ["docs", "pictures", "sounds"])
def test_what_made_the_documents_alone_may_have_another_version(
    release: Release, table: str, what: str, monkeypatch: pytest.MonkeyPatch
):
    if what == "decoder":
        for decoder in ("text", "image", "audio"):
            monkeypatch.setattr(f"operators.decode.{decoder}.VERSION", 99)
    else:
        raise_version(monkeypatch, what)
    first = release.open(table).search(QUERIES[table], k=1).to_list()[0]
    assert first["id"] == FOUND[table]
    if what == "decoder":
        with pytest.raises(FingerprintMismatch):
            run(release, table)


def test_what_a_query_goes_through_may_not(release: Release, monkeypatch: pytest.MonkeyPatch):
    raise_version(monkeypatch, "clean_text")
    with pytest.raises(FingerprintMismatch, match="this query has"):
        release.open("docs").search("boat")


def test_an_operator_that_is_unknown_here_does_not_stop_a_search(
    release: Release, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    known = {name: op for name, op in operators_by_name().items() if name not in ("clean_text", "chunk_text")}
    monkeypatch.setattr("operators.preprocess.operators_by_name", lambda: known)
    assert release.open("docs").search(QUERIES["docs"], k=1).to_list()[0]["id"] == FOUND["docs"]
    assert "operator 'clean_text' of column 'h' is not known here: the query goes without it" in caplog.text


def test_the_killed_run_is_gone_on_with_or_discarded(release: Release, caplog: pytest.LogCaptureFixture):
    (killed,) = [folder.name for folder in release.run_folders(KILLED)]
    with caplog.at_level(logging.WARNING):
        report = run(release, KILLED)
    counts = report["counts"]
    assert (report["state"], counts["listed"], counts["embedded"], counts["unchanged"]) == ("published", 80, 40, 40)
    if report["run_id"] == killed:
        assert report["shards_taken_over"] == 2
        assert f"going on with run {killed}" in caplog.text
    else:
        assert f"run {killed} of job 'products' is discarded: it was started by a release that" in caplog.text
        assert {line["run_id"]: line["state"] for line in read_runs(release.storage, KILLED)}[killed] == "discarded"
    assert release.run_folders(KILLED) == []
    table = release.open(KILLED)
    assert table.count() == 80 and len(set(table.to_arrow(["id"])["id"].to_pylist())) == 80
    assert run(release, KILLED)["state"] == "unchanged"


def test_a_change_is_taken_in(release: Release, tmp_path: Path):
    """A source that has moved: every object is read, and none embedded."""
    job = release.jobs["notes"]
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(
        (SOURCE / "notes.jsonl").read_bytes()
        + b'{"id": "late", "text": "boat", "stars": 1, "share": 0.5, "tag": "", "old": true}\n'
    )
    report = run_job(parse_job(job | {"source": job["source"] | {"uri": str(moved)}}))
    counts = report["counts"]
    assert (report["state"], counts["embedded"], counts["rejected"], counts["unchanged"]) == ("published", 1, 2, 40)
    assert release.open("notes").count() == 41


@pytest.mark.parametrize("table", TABLES)
def test_runs_rejects_show_and_versions(release: Release, table: str):
    lake = str(release.lake)
    states = [line["state"] for line in command("runs", lake, table, "--json")]
    assert states[0].startswith("killed") if table == KILLED else states[0] == "published"
    rejects = {line["object_id"]: line["error"] for line in command("rejects", lake, table, "--json")}
    assert len(rejects) == {"products": 0, "docs": 2, "notes": 2}.get(table, 1)
    assert all(rejects.values())
    shown = command("show", lake, table, "--json")
    assert shown["columns"]["h"]["family"] == "hashing"
    assert command("versions", lake, table, "--json")[-1]["tags"] == "prod"
    assert "h" in command("show", lake, table)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_maintained_and_what_its_killed_run_needs_stays(release: Release, table: str):
    before = release.open(table)
    rows = before.to_arrow(["id", "h"]).sort_by("id")
    done = command("maintain", str(release.lake), table, "--keep-days", "0", "--orphan-days", "0", "--json")
    assert done["rows"] == ROWS[table]
    after = release.open(table)
    assert after.to_arrow(["id", "h"]).sort_by("id") == rows
    assert after.tags() == {"prod": done["version"]}
    assert run(release, table)["state"] == ("published" if table == KILLED else "unchanged")


def test_readers_are_taken_back_and_the_next_run_builds_on_that(release: Release):
    lake = str(release.lake)
    assert "version 2, it was at 4" in command("rollback", lake, "docs")
    assert release.open("docs").version == 2
    report = run(release, "docs")
    assert (report["state"], report["counts"]["embedded"], report["counts"]["unchanged"]) == ("published", 2, 23)


@pytest.mark.parametrize("table", ["docs", "notes", "items", "pictures", "sounds"])
def test_what_was_rejected_is_tried_again_by_the_stored_job(release: Release, table: str):
    report = command("retry", str(release.lake), table, "--json")
    counts = report["counts"]
    assert counts["rejected"] in (0, {"notes": 2}.get(table, 1))
    assert counts["embedded"] + counts["rejected"] + counts["filtered"] + counts["unchanged"] == counts["listed"]
    assert next(line["state"] for line in described_runs(release.storage, table, False)) == report["state"]
