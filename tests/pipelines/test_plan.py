"""The plan: which version a run builds on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from job_maker import HASHING, make_job, write_texts
from job_maker import run as run_job
from lance import LanceDataset
from run_maker import lake_of, plan_of, resolved

from operators.errors import SpecError
from pipelines.planning.plan import choose_base, make_plan
from pipelines.state.ledger import open_dataset
from pipelines.state.manifest import Retry

TEXTS = {f"{n}.txt": f"the text number {n}" for n in range(4)}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    return make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))


def newest(job: dict[str, Any]) -> LanceDataset:
    table = open_dataset(lake_of(job), "t")
    assert table is not None
    return table


def base_of(job: dict[str, Any]) -> tuple[int | None, bool, bool]:
    """Version, whether it is restored, whether it is gated again."""
    base = choose_base(resolved(job), open_dataset(lake_of(job), "t"))
    return None if base.table is None else base.table.version, base.restores, base.unpublished


def publish_two(job: dict[str, Any], tmp_path: Path) -> None:
    assert run_job(job)["version"] == 1
    write_texts(tmp_path / "in", {"new.txt": "new"})
    assert run_job(job)["version"] == 2


def test_no_table(job: dict[str, Any]):
    assert base_of(job) == (None, False, False)


def test_the_tag_marks_the_newest_version(job: dict[str, Any], tmp_path: Path):
    publish_two(job, tmp_path)
    assert base_of(job) == (2, False, False)


def test_a_job_that_tags_nothing_builds_on_the_newest_but_for_one_that_readers_were_taken_back_from(
    job: dict[str, Any], tmp_path: Path
):
    publish_two(job, tmp_path)
    assert base_of({**job, "publish": {"tag": None}}) == (2, False, False)
    newest(job).tags.update("prod", 1)
    assert base_of({**job, "publish": {"tag": None}}) == (1, True, False)


def test_a_table_without_the_tag_is_gated(job: dict[str, Any], tmp_path: Path):
    publish_two(job, tmp_path)
    assert base_of({**job, "publish": {"tag": "next"}}) == (2, False, True)
    newest(job).tags.delete("prod")
    assert base_of(job) == (2, False, True)


def test_a_head_that_was_never_published_is_gated_again(job: dict[str, Any], tmp_path: Path):
    publish_two(job, tmp_path)
    newest(job).delete("id = '0.txt'")  # a commit that no run has published
    assert base_of(job) == (3, False, True)


def test_a_head_that_was_published_under_another_tag_is_gated_again(job: dict[str, Any], tmp_path: Path):
    publish_two(job, tmp_path)
    write_texts(tmp_path / "in", {"newer.txt": "newer"})
    assert run_job({**job, "publish": {"tag": "next"}})["version"] == 3
    assert base_of(job) == (3, False, True)


def test_a_head_that_readers_were_taken_back_from_is_not_built_on(job: dict[str, Any], tmp_path: Path):
    publish_two(job, tmp_path)
    newest(job).tags.update("prod", 1)
    assert base_of(job) == (1, True, False)
    plan = plan_of(job)
    assert (plan.base_version, plan.restores) == (1, True)
    assert plan.changes.work == 1  # what was added since is added again
    rebuild = {**job, "table": {**job["table"], "mode": "rebuild"}}
    assert base_of(rebuild) == (1, True, False)  # which compares what it drops with what readers have


def test_a_retry_needs_a_run_of_this_job_to_build_on(job: dict[str, Any], tmp_path: Path):
    with pytest.raises(SpecError, match=r"table 't' has no run whose rejects could be tried again. Run its job."):
        make_plan(resolved(job), plan_of(job).profile, retry=Retry(None))
    profile = plan_of(job).profile
    run_job(job)
    other = {**job, "embed": [HASHING, {**HASHING, "column": "g"}]}
    with pytest.raises(SpecError, match=r"was last written by is another one. Run this job as a whole"):
        make_plan(resolved(other), profile, retry=Retry(None))
    plan = make_plan(resolved(job), profile, retry=Retry(None))
    assert (plan.changes.listed, plan.changes.work, plan.shards) == (4, 0, ())


def test_a_plan_that_fails_leaves_no_folder(job: dict[str, Any]):
    run_job(job)
    folder = lake_of(job).child("_latentlake", "t")
    before = folder.list_names()
    with pytest.raises(SpecError):
        make_plan(
            resolved({**job, "embed": [HASHING, {**HASHING, "column": "g"}]}), plan_of(job).profile, retry=Retry(None)
        )
    left = set(folder.list_names()) - set(before)
    assert len(left) == 1  # of `plan_of`, which is no run
