"""What a lake keeps may be damaged, or of a later release: a message says what cannot be done, and all else continues."""

from __future__ import annotations

import json
import logging
from typing import Any

import lance
import pytest
from damage_maker import DAMAGE
from release_maker import Release
from test_upgrade import KILLED, command, run

from latentlake.filters import sql_string
from latentlake.provenance import FIELD_KEY
from operators.errors import LatentLakeError, Unreadable

SOME = ("truncated", "a later format", "another object", "nulls alone")  # the kinds; the readers are tried with all


def damaged(text: str | bytes, damage: str) -> str:
    """Stored JSON, damaged."""
    content = text if isinstance(text, bytes) else text.encode()
    return DAMAGE[damage](content).decode(errors="replace")[:100_000]


def damage_ledger(release: Release, table: str, column: str, damage: str) -> None:
    runs = lance.dataset(str(release.lake / "_runs.lance"))
    condition = f"`table` = '{table}'"
    text = runs.to_table(columns=[column], filter=condition)[column][0].as_py()
    runs.update({column: sql_string(damaged(text, damage))}, where=condition)


def damage_provenance(release: Release, table: str, column: str, damage: str) -> None:
    dataset = lance.dataset(str(release.lake / f"{table}.lance"))
    text = damaged(dataset.schema.field(column).metadata[FIELD_KEY], damage)
    dataset.update_field_metadata({column: {FIELD_KEY.decode(): text}})
    newest = lance.dataset(dataset.uri)
    newest.tags.update("prod", newest.version)


@pytest.mark.parametrize("damage", SOME)
def test_the_manifest_cannot_be_read(release: Release, damage: str, caplog: pytest.LogCaptureFixture):
    (folder,) = release.run_folders(KILLED)
    path = folder / "run.json"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    lines = {line["run_id"]: line["state"] for line in command("runs", str(release.lake), KILLED, "--json")}
    assert lines[folder.name] == "killed, not resumable"
    with caplog.at_level(logging.WARNING):
        report = run(release, KILLED)
    assert f"run {folder.name} is not resumable: the manifest of the run" in caplog.text
    assert (report["state"], report["shards_taken_over"], report["counts"]["embedded"]) == ("published", 0, 40)
    command("maintain", str(release.lake), KILLED)
    assert not folder.exists()


@pytest.mark.parametrize("damage", SOME)
def test_the_stored_job_and_the_report_cannot_be_read(
    release: Release, damage: str, caplog: pytest.LogCaptureFixture, tmp_path: Any
):
    lake = str(release.lake)
    for column in ("spec", "report"):
        damage_ledger(release, "docs", column, damage)
    assert {line["state"] for line in command("runs", lake, "docs", "--json")} == {"published"}
    failure = command("retry", lake, "docs", error=LatentLakeError)
    assert "Give the job: --job FILE." in failure and failure.startswith("SpecError(")
    with caplog.at_level(logging.WARNING):
        done = command("maintain", lake, "docs", "--json")
    assert done["tags_moved"] == [] and "no tag is moved" in caplog.text
    assert "version 2, it was at 4" in command("rollback", lake, "docs")
    assert run(release, "docs")["state"] == "unchanged"
    assert release.open("docs").version == done["version"]  # gated now, by a job that can be read
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(release.jobs["docs"]))
    assert command("retry", lake, "docs", "--job", str(path), "--json")["counts"]["listed"] == 27


@pytest.mark.parametrize("damage", SOME)
def test_a_provenance_cannot_be_read(release: Release, damage: str):
    """The other columns are searched; a job that writes the column is refused."""
    damage_provenance(release, "notes", "b", damage)
    table = release.open("notes")
    assert (table.vector_columns, list(table.unreadable)) == (["h"], ["b"])
    assert len(table.search("boat", k=3)) == 3
    assert "b" not in table.search("boat", k=3).to_arrow().column_names
    with pytest.raises(Unreadable, match="column 'b': the provenance of a vector column"):
        table.search("boat", column="b")
    assert "unreadable" in command("show", str(release.lake), "notes", "--json")["columns"]["b"]
    with pytest.raises(Unreadable, match="column 'b'"):
        run(release, "notes")
    with pytest.raises(Unreadable, match="column 'b'"):
        command("maintain", str(release.lake), "notes")
