"""The reports of runs as files beside the table: written with the ledger's line, few, and without what was deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import latentlake_here
from job_maker import make_job, run, write_texts
from run_maker import lake_of

from operators.errors import GateRefused, NotFound
from pipelines.state import reports
from pipelines.state.ledger import REPORT, RUNS_TABLE, open_dataset, read_report, read_runs
from pipelines.state.reports import find_report, to_markdown, write_report
from pipelines.upkeep.delete import delete_objects
from pipelines.upkeep.maintain import maintain_table


def job_of(tmp_path: Path, **sections: Any) -> dict[str, Any]:
    return make_job(tmp_path, write_texts(tmp_path / "in", {f"{n}.txt": f"text {n}" for n in range(5)}), **sections)


def files_of(tmp_path: Path) -> Path:
    return tmp_path / "lake" / "_latentlake" / "t" / "reports"


def test_a_run_leaves_its_report_beside_the_table(tmp_path: Path):
    report = run(job_of(tmp_path))
    stored = files_of(tmp_path) / f"{report['run_id']}.json"
    (line,) = read_runs(lake_of(job_of(tmp_path)), "t")
    assert REPORT.read(stored.read_bytes()) == read_report(line["report"]) == json.loads(json.dumps(report))
    page = stored.with_suffix(".md").read_text()
    assert page.startswith(f"# Run {report['run_id']}: published\n")
    assert "| h | 5 | 5 | 0 | 0 | 0 | 0 |" in page and "max_reject_rate" in page
    assert f"Fingerprint of `h`: `{report['fingerprints']['h']}`" in page


def test_a_run_that_is_refused_or_fails_leaves_one_too(tmp_path: Path):
    job = job_of(tmp_path, gates={"max_reject_rate": 0.0})
    (tmp_path / "in" / "empty.txt").write_text("")
    with pytest.raises(GateRefused) as refused:
        run(job)
    page = to_markdown(find_report(lake_of(job), "t", "last"))
    assert f"# Run {refused.value.report['run_id']}: refused" in page
    assert "| max_reject_rate | no |" in page
    assert (files_of(tmp_path) / f"{refused.value.report['run_id']}.md").read_text() == page


def test_the_command_prints_a_report(tmp_path: Path):
    report = run(job_of(tmp_path))
    asked = ("runs", str(tmp_path / "lake"), "t", "--report")
    done = latentlake_here(*asked, "last", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == (files_of(tmp_path) / f"{report['run_id']}.md").read_text()
    done = latentlake_here(*asked, report["run_id"], "--json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout) == report
    done = latentlake_here(*asked, "nothing", cwd=tmp_path)
    assert done.returncode == NotFound.exit_code and "List its runs: latentlake runs URI t" in done.stderr


def test_the_oldest_reports_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reports, "KEPT", 2)
    folder = lake_of(job_of(tmp_path)).child("_latentlake", "t")
    for number in range(4):
        write_report(folder, {"run_id": f"2026112{number}T000000-aaaaaa", "state": "unchanged"})
    assert folder.child("reports").list_names() == [
        f"2026112{number}T000000-aaaaaa.{kind}" for number in (2, 3) for kind in ("json", "md")
    ]


def test_upkeep_keeps_the_reports(tmp_path: Path):
    run(job_of(tmp_path))
    before = sorted(files_of(tmp_path).iterdir())
    maintain_table(lake_of(job_of(tmp_path)), "t")
    assert sorted(files_of(tmp_path).iterdir()) == before != []


def test_what_is_deleted_is_in_no_report(tmp_path: Path):
    job = job_of(tmp_path)
    report = run(job)
    lake = lake_of(job)
    folder = lake.child("_latentlake", "t")
    told = {**report, "error": "the object '3.txt' is bad"}
    runs = open_dataset(lake, RUNS_TABLE)
    assert runs is not None
    runs.update({"report": f"'{json.dumps(told).replace(chr(39), chr(39) * 2)}'"})
    write_report(folder, told)
    delete_objects(lake, "t", ["3.txt"])
    for path in files_of(tmp_path).iterdir():
        assert "3.txt" not in path.read_text() and "[deleted]" in path.read_text()
