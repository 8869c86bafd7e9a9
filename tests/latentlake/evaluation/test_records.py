"""What a lake remembers of evaluations, and how an evaluation looks."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pytest
from lake_maker import LakeMaker

import latentlake
from latentlake.evaluation import compare, read_evaluations, record_evaluation
from latentlake.storage import open_storage
from operators.errors import LatentLakeError, NotFound, SpecError

TASKS = [
    {"kind": "sts", "pairs": "pairs.jsonl", "columns": ["words"]},
    {"kind": "geometry", "name": "shape", "duplicate_rows": 5},
]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    rows = [("open a file", "open the file", 4), ("run", "compare", 0), ("a b c", "b c d", 3)]
    lines = [json.dumps({"sentence1": a, "sentence2": b, "score": score}) for a, b, score in rows]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    (tmp_path / "suite.json").write_text(json.dumps({"name": "small", "tasks": TASKS}))
    return tmp_path / "suite.json"


@pytest.fixture
def table(maker: LakeMaker) -> latentlake.Table:
    maker.write_texts(texts=[f"the number {n} of {n * n}" for n in range(30)])
    return latentlake.connect(maker.uri).open("notes")


def test_a_record_is_read_back_as_it_was_made(table: latentlake.Table, suite: Path, maker: LakeMaker):
    found = table.evaluate(suite, resamples=50)
    assert [result.measure for result in found.results[:2]] == ["Spearman", "Pearson"]
    (back,) = table.evaluations()
    assert list(back.results) == list(found.results) and back.settings == found.settings
    assert (back.table, back.version, back.suite, back.suite_hash) == ("notes", 1, "small", found.suite_hash)
    assert back.samples.keys() == found.samples.keys()
    for key, sample in found.samples.items():
        np.testing.assert_array_equal(back.samples[key].data, sample.data)
        assert back.samples[key].ids.tolist() == sample.ids.tolist()
    assert all(change.value == 0 for change in compare(found, back))
    assert latentlake.connect(maker.uri).tables() == ["notes"]  # `_evals` is internal


def test_the_same_again_changes_nothing_and_other_settings_add(table: latentlake.Table, suite: Path, maker: LakeMaker):
    for _ in range(2):
        table.evaluate(suite, resamples=50)
    rows = lance.dataset(f"{maker.uri}/_evals.lance").count_rows()
    table.evaluate(suite, resamples=60)
    assert lance.dataset(f"{maker.uri}/_evals.lance").count_rows() == 2 * rows
    assert [found.settings["resamples"] for found in table.evaluations()] == [50, 60]
    maker.write_texts(texts=["another"] * 12, mode="overwrite")
    second = latentlake.connect(maker.uri).open("notes")
    second.evaluate(suite, resamples=50)
    assert [found.version for found in second.evaluations()] == [1, 1, 2]
    assert [found.version for found in second.evaluations(2)] == [2]
    assert second.evaluations(3) == []


def test_nothing_is_recorded_where_that_is_asked(table: latentlake.Table, suite: Path, maker: LakeMaker):
    table.evaluate(suite, resamples=20, record=False)
    assert table.evaluations() == [] and not Path(f"{maker.uri}/_evals.lance").exists()


def test_evaluations_that_are_recorded_at_once_all_stay(table: latentlake.Table, suite: Path, maker: LakeMaker):
    found = table.evaluate(suite, resamples=20, record=False)
    lake = open_storage(maker.uri)
    several = [replace(found, version=number) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: record_evaluation(lake, one), several))
    assert sorted(one.version for one in read_evaluations(lake, "notes")) == list(range(6))


def test_a_lake_that_cannot_be_written_says_so(table: latentlake.Table, suite: Path, tmp_path: Path):
    found = table.evaluate(suite, resamples=20, record=False)
    (tmp_path / "_evals.lance").write_text("")
    with pytest.raises(LatentLakeError, match=r"cannot keep it[\s\S]*`record=False`"):
        record_evaluation(open_storage(str(tmp_path)), found)


def test_how_an_evaluation_looks(table: latentlake.Table, suite: Path):
    found = table.evaluate(suite, resamples=20, record=False)
    lines = found.to_text(120).splitlines()
    assert lines[0] == "notes, version 1: suite 'small'"
    assert lines[1].split() == ["task", "measure", "column", "mode", "value", "interval", "n"]
    assert lines[2].startswith("sts") and " to " in lines[2]
    odd = replace(found, suite="<script>", results=[replace(found.results[0], task="<b>")], notes=("<i>",))
    html = odd._repr_html_()
    assert "<script>" not in html and "<b>" not in html.replace("<b>&lt;script&gt;</b>", "") and "<i>" not in html
    told = json.loads(found.to_json())
    assert told["results"][0]["measure"] == "Spearman" and told["settings"]["columns"]["words"]
    assert found.to_arrow().num_rows == len(found.results) == len(found.to_arrow()["value"].drop_null())


def test_results_are_found_by_their_names(table: latentlake.Table, suite: Path):
    found = table.evaluate(suite, resamples=20, record=False)
    assert found.find("Spearman", task="sts").n == 3
    with pytest.raises(NotFound, match=r"no such result: measure 'Spearmann'. Did you mean 'Spearman'\?"):
        found.find("Spearmann")
    twice = replace(found, results=[*found.results, replace(found.results[0], task="again")])
    with pytest.raises(SpecError, match=r"2 results of measure 'Spearman'; say which:[\s\S]*task 'again'"):
        twice.find("Spearman")
    with pytest.raises(NotFound, match="uniformity of task 'shape' has no value per unit"):
        found.values(found.find("uniformity"))
