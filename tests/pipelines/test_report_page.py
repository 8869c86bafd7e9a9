"""The page about a version of a table: what it tells, in a real browser, of tables that mean harm."""

from __future__ import annotations

import re
import shlex
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from chromium import Shown, show
from command_line import latentlake_here
from doc_commands import commands
from job_maker import HASHING, make_job, open_table, run, write_jsonl

from latentlake.exploration.report import Known, report_page
from latentlake.tuning.settings import read_settings

EVIL = "</script><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"
LINK = "<a href=\"javascript:document.title='ran'\">x</a>"
ROWS = 40


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A job whose every text wants to be more than text, run twice; one object is rejected, and the second version is untagged."""
    folder = tmp_path_factory.mktemp("report")
    rows = [
        {"id": f"{EVIL}{row}", "text": f"{EVIL} {LINK} word{row} word{row % 3}", "label": EVIL if row % 2 else LINK}
        for row in range(ROWS)
    ]
    source = write_jsonl(folder / "texts.jsonl", [*rows, {"id": f"{EVIL}empty", "text": "", "label": EVIL}], ["label"])
    job = make_job(folder, source, publish={"tag": "prod"}, gates={"max_reject_rate": 0.5})
    run(job)
    write_jsonl(
        folder / "texts.jsonl",
        [*rows[1:], *(row | {"id": f"more{row['id']}", "text": f"more {row['text']}"} for row in rows)],
        ["label"],
    )
    run(job | {"publish": {"tag": None}})
    return job


def page_of(job: dict[str, Any], folder: Path, *options: str) -> Path:
    done = latentlake_here("report", job["table"]["uri"], "t", "-o", str(folder / "page.html"), *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "page.html"


def sections(dom: str) -> dict[str, str]:
    """Text of each section of a page as it was shown."""
    return {
        name: " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())
        for name, text in re.findall(r'<section id="([\w-]+)">(.*?)</section>', dom, re.DOTALL)
    }


@pytest.fixture(scope="module")
def shown(job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("page")
    return show(page_of(job, folder, "--version", "2", "--color", "label", "--method", "pca"), folder)


@pytest.mark.slow
def test_a_page_in_a_browser(shown: Shown):
    assert 'data-ready="yes"' in shown.dom and 'data-drawn="yes"' in shown.dom
    assert "<title>t, version 2</title>" in shown.dom  # no script of the table's has run
    assert shown.console == [] and shown.requests == []
    assert "onerror=" not in re.sub(r"<script.*?</script>", "", shown.dom, flags=re.DOTALL).replace(
        "&lt;img src=x onerror=", ""
    )


@pytest.mark.slow
def test_what_it_tells(job: dict[str, Any], shown: Shown):
    told = sections(shown.dom)
    assert re.search(r"h 79 40 0 39 0 0 1", told["counts"]), told["counts"]  # listed … rejected, removed
    assert open_table(job).provenance("h").fingerprint in told["provenance"]
    assert "none: searched exactly" in told["index-quality"]
    assert "was not evaluated" in told["evaluation"]
    assert "Against version 1" in told["drift"] and "0." in told["drift"]
    assert "pca of h, 80 rows at version 2" in told["map"]
    assert told["clusters"].count(" rows, ") == 8 and "word1" in told["clusters"]
    assert told["outliers"].count("label:") == 12
    assert told["runs"].count("published") + told["runs"].count("unpublished") >= 1


@pytest.mark.slow
def test_sections_without_data_say_so(tmp_path: Path):
    job = make_job(tmp_path, write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "text": "one text"}]))
    run(job)
    told = sections(page_of(job, tmp_path).read_text())
    assert "a map needs 5" in told["map"] and "8 clusters need 16" in told["clusters"]
    assert "outliers need more than 10" in told["outliers"]
    assert told["rejects"].endswith("No object was rejected or filtered.")
    plain = sections(report_page(open_table(job), Known()))
    assert plain["counts"].endswith("The ledger knows no run that made this version.")
    assert plain["runs"].endswith("The ledger knows no run of this table.")


def test_an_evaluation_with_its_intervals(job: dict[str, Any], tmp_path: Path):
    table = open_table(job)
    evaluation = table.evaluate({"name": EVIL, "tasks": [{"kind": "geometry", "name": LINK}]})
    told = sections(page_of(job, tmp_path, "--method", "pca").read_text())["evaluation"]
    assert EVIL in told and LINK in told
    for result in evaluation.results:
        assert result.measure in told and f"{result.value:.3f}" in told
        assert result.low is None or f"{result.low:.3f} to {result.high:.3f}" in told


def test_the_readers_version_and_rejects(job: dict[str, Any], tmp_path: Path):
    told = sections(page_of(job, tmp_path, "--method", "pca").read_text())
    assert "Readers of 'prod' have this version." in told["drift"]
    assert "h 41 40 0 0 0 1" in told["counts"]


def test_a_tuned_index_with_its_intervals(tmp_path: Path):
    rows = [{"id": str(row), "text": f"word{row % 50} word{row % 17} word{row}"} for row in range(600)]
    index = [{"column": "h", "metric": "cosine", "type": "ivf_flat", "target_recall": 0.9}]
    job = make_job(tmp_path, write_jsonl(tmp_path / "in.jsonl", rows), index=index)
    run(job)
    settings = read_settings(open_table(job).schema, "h")
    assert settings is not None
    told = sections(page_of(job, tmp_path, "--method", "pca").read_text())["index-quality"]
    found = settings.measured
    assert "tuned to recall@10 of 0.900" in told
    assert f"no filter {found.recall:.3f} {found.low:.3f} to {found.high:.3f}" in told


def test_what_cannot_be(job: dict[str, Any], tmp_path: Path):
    for option, name, what in (
        ("--column", "hh", "no vector column"),
        ("--color", "lable", "no column"),
        ("--method", "x", "no method"),
    ):
        done = latentlake_here("report", job["table"]["uri"], "t", "-o", "page.html", option, name, cwd=tmp_path)
        assert done.returncode == 2 and what in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_the_commands_of_the_page(tmp_path: Path):
    """Those of docs/exploring.md."""
    rows = [{"id": str(row), "text": f"word{row % 7} word{row}", "title": f"part {row % 3}"} for row in range(30)]
    embed = [HASHING | {"column": "minilm"}]
    run(make_job(tmp_path, write_jsonl(tmp_path / "in.jsonl", rows, ["title"]), embed, table={"name": "texts"}))
    for section in ("A map that the table keeps", "A page about a version", "Duplicates"):
        for command in commands("docs/exploring.md", section):
            done = latentlake_here(*shlex.split(command)[1:], cwd=tmp_path)
            assert done.returncode == 0, done.stderr
    assert (tmp_path / "redundant.csv").read_text().startswith('"id","duplicate_of","distance"')
    assert (tmp_path / "texts.html").stat().st_size > 4_000_000
