"""`latentlake eval` and `evals`, on a table that a job wrote."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from command_line import latentlake_here
from doc_commands import commands
from job_maker import make_job, write_texts

TEXTS = {f"{n}.txt": f"the text number {n} speaks of {'boats' if n % 2 else 'trains'}" for n in range(12)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with job.yaml, run inline into the lake `lake`, and suite.yaml."""
    folder = tmp_path_factory.mktemp("evaluated")
    embed = [{"column": "words", "family": "hashing", "dim": 32}]
    job = make_job(folder, write_texts(folder / "in", TEXTS), embed, table={"name": "notes"})
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    (folder / "queries.tsv").write_text("q1\tthe text number 3\nq2\tnumber 4\n")
    (folder / "qrels.txt").write_text("q1 0 3.txt 1\nq2 0 4.txt 1\n")
    task = {"kind": "retrieval", "queries": "queries.tsv", "qrels": "qrels.txt", "measures": ["nDCG@10", "RR"]}
    (folder / "suite.yaml").write_text(yaml.safe_dump({"tasks": [task]}))
    done = latentlake_here("run", "job.yaml", "--runner", "inline", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_job_and_a_lake_name_the_same_table(folder: Path):
    job = yaml.safe_load((folder / "job.yaml").read_text())
    by_job = latentlake_here("eval", "job.yaml", "--suite", "suite.yaml", "--json", cwd=folder)
    assert by_job.returncode == 0, by_job.stderr
    place = [job["table"]["uri"], job["table"]["name"]]
    by_lake = latentlake_here("eval", *place, "--suite", "suite.yaml", "--tag", "prod", cwd=folder)
    told = json.loads(by_job.stdout)
    assert {r["measure"]: r["value"] for r in told["results"]}["RR"] == pytest.approx(1.0)
    assert "nDCG@10" in by_lake.stdout and "suite 'suite'" in by_lake.stdout
    kept = latentlake_here("evals", *place, "--json", cwd=folder)
    assert [one["results"] for one in json.loads(kept.stdout)] == [told["results"]]
    assert "nDCG@10" in latentlake_here("evals", *place, cwd=folder).stdout


def test_the_commands_of_the_page(folder: Path):
    for command in commands("docs/evaluation.md", "Evaluation"):
        program, *arguments = shlex.split(command)
        done = latentlake_here(*arguments, cwd=folder)
        assert program == "latentlake" and done.returncode == 0, done.stderr
        assert "nDCG@10" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["job.yaml"], "--suite is missing"),
        (["job.yaml", "other", "--suite", "suite.yaml"], "leave TABLE out"),
        (["lake", "--suite", "suite.yaml"], "TABLE is missing"),
        (["job.yaml", "--suite", "nowhere.yaml"], "cannot read the file"),
        (["job.yaml", "--suite", "suite.yaml", "--column", "nothing"], "no vector column 'nothing'"),
    ],
)
def test_mistakes_end_with_2(folder: Path, arguments: list[str], message: str):
    done = latentlake_here("eval", *arguments, cwd=folder)
    assert done.returncode == 2 and message in done.stderr
