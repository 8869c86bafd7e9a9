"""A hub model whose revision the job leaves open: the table keeps to the commit that its first run met."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from job_maker import make_job, open_table, run, write_texts
from model_maker import write_model
from typer.testing import CliRunner

from operators.errors import FingerprintMismatch
from pipelines.child import end_children
from pipelines.cli.main import app

COMMITS = ("1" * 40, "2" * 40)


class Hub:
    """A hub's cache on this machine, whose branch main can be moved."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "models--owner--tiny"
        (self.repository / "refs").mkdir(parents=True)

    def publish(self, commit: str, model: Path) -> None:
        shutil.copytree(model, self.repository / "snapshots" / commit)
        (self.repository / "refs" / "main").write_text(commit)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a hub's cache. One for all tests: a run's child reads where it is as it imports the library."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
        patch.setenv("HF_HUB_CACHE", str(folder))
        end_children()
        yield folder
        end_children()


@pytest.fixture
def hub(cache: Path, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(cache)
    hub.publish(COMMITS[0], write_model(tmp_path / "model"))
    yield hub
    shutil.rmtree(hub.repository)


def hub_job(tmp_path: Path, **fields: Any) -> dict[str, Any]:
    embed = {"column": "v", "family": "sentence_transformers", "model": "owner/tiny", **fields}
    return make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "open a file", "b.txt": "two strings"}), [embed])


def test_the_commit_of_the_first_run_stays(hub: Hub, tmp_path: Path):
    job = hub_job(tmp_path)
    run(job)
    assert open_table(job).provenance("v").identity["revision"] == COMMITS[0]
    hub.publish(COMMITS[1], tmp_path / "model")
    write_texts(tmp_path / "in", {"c.txt": "compare two strings"})
    assert run(job)["counts"]["embedded"] == 1
    assert open_table(job).provenance("v").identity["revision"] == COMMITS[0]


def test_another_commit_is_taken_where_it_is_asked_for(hub: Hub, tmp_path: Path):
    run(hub_job(tmp_path))
    hub.publish(COMMITS[1], tmp_path / "model")
    with pytest.raises(FingerprintMismatch, match="revision"):
        run(hub_job(tmp_path, revision=COMMITS[1]))
    job = hub_job(tmp_path)
    job["table"]["mode"] = "rebuild"
    run(job)
    assert open_table(job).provenance("v").identity["revision"] == COMMITS[1]


@pytest.mark.parametrize(("fields", "count"), [({}, 1), ({"revision": COMMITS[0]}, 0)])
def test_plan_warns_of_what_is_left_open(hub: Hub, tmp_path: Path, fields: dict[str, Any], count: int):
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(hub_job(tmp_path, **fields)))
    result = CliRunner().invoke(app, ["plan", str(path), "--json"])
    warnings = json.loads(result.stdout)["warnings"]
    assert len(warnings) == count
    assert all("no `revision` of hub model 'owner/tiny' is pinned" in warning for warning in warnings)
