"""Suites: what they accept, and that each mistake is told with its key and a remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentlake.evaluation import load_suite, task_kinds
from operators.errors import InvalidSpec

RETRIEVAL = {"kind": "retrieval", "queries": "queries.jsonl", "qrels": "qrels.tsv"}


def write_files(folder: Path, grade: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "open a file"}\n')
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\nq1\tdoc3\t{grade}\n")


def test_a_suite_from_yaml_json_and_a_mapping_is_the_same(tmp_path: Path):
    write_files(tmp_path)
    (tmp_path / "suite.yaml").write_text("tasks:\n  - {kind: retrieval, queries: queries.jsonl, qrels: qrels.tsv}\n")
    (tmp_path / "suite.json").write_text(json.dumps({"name": "suite", "tasks": [RETRIEVAL]}))
    absolute = {**RETRIEVAL, "queries": tmp_path / "queries.jsonl", "qrels": str(tmp_path / "qrels.tsv")}
    suites = [
        load_suite(tmp_path / "suite.yaml"),
        load_suite(tmp_path / "suite.json"),
        load_suite({"tasks": [absolute]}),
    ]
    assert suites[0] == suites[1] == suites[2]
    assert suites[0].name == "suite" and suites[0].tasks[0].title == "retrieval"
    assert load_suite(suites[0]) is suites[0]


def test_the_hash_follows_what_files_hold_and_not_where_they_lie(tmp_path: Path):
    suites = []
    for name, grade in (("one", 1), ("moved", 1), ("other", 2)):
        write_files(tmp_path / name, grade)
        (tmp_path / name / "suite.yaml").write_text(json.dumps({"tasks": [RETRIEVAL]}))
        suites.append(load_suite(tmp_path / name / "suite.yaml").hash())
    assert suites[0] == suites[1] != suites[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": []}, r"task: unknown key. Did you mean 'tasks'\?"),
        ({"tasks": []}, "tasks: give a list of at least one task"),
        ({"tasks": {}}, "tasks: give a list"),
        ({"tasks": [RETRIEVAL], "name": 3}, r"name: must be a text \(got 3\)"),
        ({"tasks": ["sts"]}, r"tasks\[0\]: must be a mapping of keys to values, not str"),
        ({"tasks": [{"queries": "a"}]}, r"tasks\[0\].kind: is missing; it is one of .*retrieval"),
        (
            {"tasks": [{"kind": "retreival"}]},
            r"tasks\[0\].kind: no kind of task 'retreival'. Did you mean 'retrieval'\?",
        ),
        ({"tasks": [{**RETRIEVAL, "measure": "AP"}]}, r"tasks\[0\].measure: unknown key. Did you mean 'measures'\?"),
        ({"tasks": [{**RETRIEVAL, "depth": 0}]}, r"tasks\[0\].depth: .*greater than or equal to 1 \(got 0\)"),
        ({"tasks": [{"kind": "retrieval"}]}, r"give `folder` \(BEIR\), or both `queries` and `qrels`"),
        ({"tasks": [{**RETRIEVAL, "folder": "beir"}]}, r"give `folder` \(BEIR\), or both"),
        ({"tasks": [RETRIEVAL, RETRIEVAL]}, "2 tasks are called 'retrieval'; give each a `name`"),
    ],
)
def test_mistakes(given: dict, message: str):
    with pytest.raises(InvalidSpec, match=message):
        load_suite(given)


def test_every_mistake_is_told_at_once():
    with pytest.raises(InvalidSpec) as told:
        load_suite({"extra": 1, "tasks": [{"kind": "unknown"}, {**RETRIEVAL, "split": 3}]})
    assert len(told.value.problems) == 3


def test_a_file_that_is_no_suite(tmp_path: Path):
    with pytest.raises(InvalidSpec, match="cannot read the file"):
        load_suite(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("tasks: [")
    with pytest.raises(InvalidSpec, match="not YAML"):
        load_suite(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(InvalidSpec, match="a suite is a mapping"):
        load_suite(tmp_path / "list.yaml")


def test_kinds_are_files():
    assert "retrieval" in task_kinds() and "base" not in task_kinds()
