"""A job whose index has a target: its queries, its report, and upkeep, tuning and deletion of the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from job_maker import HASHING, make_job, open_table, run, write_jsonl
from typer.testing import CliRunner

import latentlake
from latentlake.tuning import choice, tune, upkeep
from latentlake.tuning.settings import read_settings
from operators.errors import InvalidSpec, SpecError
from pipelines.cli.main import app
from pipelines.job.jobfile import parse_job
from pipelines.state.ledger import WORK_FOLDER, read_runs
from pipelines.upkeep.delete import delete_objects
from pipelines.upkeep.maintain import maintain_table

WORDS = [
    "copy",
    "delete",
    "file",
    "folder",
    "list",
    "map",
    "number",
    "read",
    "sort",
    "string",
    "table",
    "tree",
    "value",
    "word",
    "write",
    "year",
    "zip",
    "zone",
]


@pytest.fixture(autouse=True)
def small_tables_gain(monkeypatch: pytest.MonkeyPatch):
    """Let exact search seem slow, and let the kinds of index be few that are built at once."""
    monkeypatch.setattr(choice, "EXACT_MS", 0.0)
    monkeypatch.setattr(choice, "EXACT_GAIN", 0.0)
    monkeypatch.setattr(upkeep, "SLOWER", 1e9)  # a busy machine is no reason to tune again
    every = choice.kinds_of
    monkeypatch.setattr(choice, "kinds_of", lambda *a: every(*a)[:1])
    real = tune.Column.attempt

    def attempt(self: Any, effort: Any, *how: Any, **named: Any) -> Any:
        trial = real(self, effort, *how, **named)
        if effort is None:
            trial.ms[:] = 10_000.0
        return trial

    monkeypatch.setattr(tune.Column, "attempt", attempt)


def texts(start: int, rows: int) -> list[dict[str, Any]]:
    named = lambda n: " ".join(WORDS[(n * step) % len(WORDS)] for step in (1, 3, 5, 7, n % 11))  # noqa: E731
    return [{"id": str(n), "text": f"{named(n)} {n % 97}"} for n in range(start, start + rows)]


def write_queries(folder: Path, rows: int = 60) -> str:
    path = folder / "queries.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"{WORDS[n % 18]} the {WORDS[n % 7]}"}) for n in range(rows)))
    return str(path)


def job_in(folder: Path, rows: int, **index: Any) -> dict[str, Any]:
    source = write_jsonl(folder / "in" / "rows.jsonl", texts(0, rows))
    return make_job(folder, source, index=[{"column": "h", "target_recall": 0.9, **index}])


def test_a_job_tunes_its_index_and_upkeep_keeps_it(tmp_path: Path):
    job = job_in(tmp_path, 1500, queries=write_queries(tmp_path))
    first = run(job)
    (told,) = first["indexes"]
    table = open_table(job)
    settings = read_settings(table.schema, "h")
    assert settings is not None and table.version == first["version"] == first["indexes"][0]["version"]
    assert (told["type"], told["recall"]) == (settings.index, settings.measured.recall)
    assert (settings.queries_from, settings.measured.queries) == ("file", 30)
    assert told["tuned"]["measured"]["low"] <= told["recall"] <= told["tuned"]["measured"]["high"]
    lake = parse_job(job).table.lake
    assert lake.child(WORK_FOLDER, "t", "queries").list_names() == ["h.arrow"]
    assert json.loads(read_runs(lake, "t")[0]["spec"])["index"][0]["target_recall"] == 0.9

    (tmp_path / "queries.jsonl").unlink()
    del job["index"]  # a later job that asks for nothing keeps what is tuned, and finds the queries that were kept
    write_jsonl(tmp_path / "in" / "rows.jsonl", texts(0, 1520))
    second = run(job)
    assert second["indexes"][0]["tuned"] == told["tuned"] and second["indexes"][0]["added"] == 20
    assert second["indexes"][0]["measured_at"] == settings.measured_at < second["version"]
    write_jsonl(tmp_path / "in" / "rows.jsonl", texts(0, 2200))
    third = run(job)
    assert third["indexes"][0]["measured_at"] > second["version"]

    done = maintain_table(lake, "t")
    now = read_settings(open_table(job).schema, "h")
    assert now is not None and now.queries_from == "file"
    assert done["indexes"][0]["tuned"]["measured_at"] == now.measured_at > third["version"]  # its segments were merged
    assert done["recall"] == {"h": now.measured.recall}
    assert lake.child(WORK_FOLDER, "t", "queries").list_names() == ["h.arrow"]

    delete_objects(lake, "t", [open_table(job).head(1).to_list()[0]["object_id"]])
    after = latentlake.connect(lake.uri).open("t")
    assert after.count() == 2199 and read_settings(after.schema, "h") is not None
    assert after.search("read the file", k=5).to_arrow().num_rows == 5


def test_a_table_is_tuned_by_command(tmp_path: Path):
    job = job_in(tmp_path, 1000)
    del job["index"]
    before = run(job)["version"]
    uri, queries = job["table"]["uri"], write_queries(tmp_path)
    done = CliRunner().invoke(app, ["tune", uri, "t", "--target", "0.9", "--queries", queries, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["tags_moved"] == ["prod"] and report["version"] > before
    table = open_table(job)
    settings = read_settings(table.schema, "h")
    assert settings is not None and table.version == report["version"] and settings.queries_from == "file"
    shown = json.loads(CliRunner().invoke(app, ["show", uri, "t", "--json"]).stdout)
    assert shown["columns"]["h"]["index"]["goal"] == "recall@10 0.9"
    assert "30 queries" in shown["columns"]["h"]["index"]["recall"]
    assert "type" in CliRunner().invoke(app, ["show", uri, "t"]).stdout
    assert run(job)["state"] == "unchanged"
    plain = CliRunner().invoke(app, ["tune", uri, "t"])
    assert plain.exit_code == 0 and "queries of yours" in plain.stdout
    assert read_settings(open_table(job).checkout(before).schema, "h") is None


def test_queries_that_cannot_be_read_end_a_run_before_it_starts(tmp_path: Path):
    job = job_in(tmp_path, 30, queries=str(tmp_path / "none.jsonl"))
    with pytest.raises(SpecError, match=r"index of 'h': the queries at .* cannot be read"):
        run(job)
    assert not (tmp_path / "lake" / "t.lance").exists()


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ({"target_recall": None, "k": 5}, "give target_recall too"),
        ({"target_recall": None, "queries": "q.jsonl"}, "give target_recall too"),
        ({"type": "none"}, "leave target_recall out"),
        ({"target_recall": 1.2}, "less than or equal to 1"),
        ({"max_p95_ms": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_tuned_is_told(tmp_path: Path, index: dict[str, Any], told: str):
    with pytest.raises(InvalidSpec, match=told):
        parse_job(job_in(tmp_path, 1, **index))


def test_a_job_without_a_target_is_stored_as_ever(tmp_path: Path):
    job = make_job(tmp_path, {"kind": "files", "uri": str(tmp_path)}, index=[{"column": "h", "type": "ivf_flat"}])
    assert parse_job(job).to_json()["index"] == [{"column": "h", "metric": None, "type": "ivf_flat"}]
    tuned = {"column": HASHING["column"], "target_recall": 0.9, "queries": "q.jsonl"}
    stored = parse_job({**job, "index": [tuned]}).to_json()["index"][0]
    assert stored["queries"] == str(Path("q.jsonl").absolute()) and stored["k"] == 10
