"""The source changes between a kill and the next run: the snapshot holds, and the run after that picks the changes up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from comparison import check_rows, check_settled, check_snapshot, lake_of, take_snapshot
from job_maker import check_accounting, run, write_texts
from processes import Driver
from worlds import World, texts_of

from pipelines.planning.work import read_work
from pipelines.state.manifest import finished_shards, unfinished_runs

pytestmark = pytest.mark.slow

CHANGED, REMOVED, ADDED = range(0, 300, 15), range(7, 300, 20), range(300, 320)


def change_source(folder: Path) -> None:
    """Change, remove and add files, all over the listing."""
    write_texts(folder, {f"{n:04}.txt": f"changed text {n} at some length" for n in CHANGED})
    for n in REMOVED:
        (folder / f"{n:04}.txt").unlink()
    write_texts(folder, texts_of(ADDED))


def finished_objects(job: dict[str, Any]) -> set[str]:
    """Objects of the shards that the run which was cut short has finished."""
    (manifest,) = unfinished_runs(lake_of(job), "t")
    place = manifest.place(lake_of(job))
    return {name for shard in finished_shards(place) for name in read_work(place, shard)["object_id"].to_pylist()}


@pytest.mark.fault("the source changes between kill and resume", "the snapshot holds; the next run equals a clean one")
@pytest.mark.parametrize("moment", ["manifest", "shards-3", "shards-5", "before-commit", "after-commit"])
def test_the_source_changes_before_a_run_resumes(tmp_path: Path, moment: str) -> None:
    texts = texts_of(range(300))
    world = World(tmp_path, write_texts(tmp_path / "in", texts), {"table": {"prune": True}})
    job = world.job(tmp_path)
    assert Driver(tmp_path, job, "--moment", moment, "--runner", "inline").wait() == -9
    finished = finished_objects(job)
    change_source(tmp_path / "in")

    report = run(job)
    check_accounting(report)
    assert report["counts"]["listed"] == 300
    resumed = take_snapshot(job)
    check_snapshot(resumed)
    found = dict(zip(resumed.rows["id"].to_pylist(), resumed.rows["text"].to_pylist(), strict=True))
    rejects = {name: (stage, reason) for name, _, _, _, stage, reason, *_ in resumed.rejects}
    assert not {f"{n:04}.txt" for n in ADDED} & set(found)
    for name in (f"{n:04}.txt" for n in REMOVED):
        if name in finished:
            assert name in found or rejects[name][0] == "decode"
        else:
            assert rejects[name][0] == "read", rejects.get(name)
    for name in (f"{n:04}.txt" for n in CHANGED):
        read = texts[name] if name in finished else (tmp_path / "in" / name).read_text()
        assert found.get(name) == read or (name in rejects and not read.strip())

    run(job)
    clean = world.job(tmp_path / "clean")
    run(clean)
    check_rows(take_snapshot(job).rows, take_snapshot(clean).rows)
    assert take_snapshot(job).rejects == take_snapshot(clean).rejects
    check_settled(job)


@pytest.mark.fault("the source changes between a kill and a run that lists again", "the next run equals a clean one")
@pytest.mark.parametrize("moment", ["listed", "manifest-torn"])
def test_the_source_changes_before_a_run_lists_again(tmp_path: Path, moment: str) -> None:
    world = World(tmp_path, write_texts(tmp_path / "in", texts_of(range(300))), {})
    job = world.job(tmp_path)
    assert Driver(tmp_path, job, "--moment", moment, "--runner", "inline").wait() == -9
    change_source(tmp_path / "in")
    run(job)
    clean = world.job(tmp_path / "clean")
    run(clean)
    check_rows(take_snapshot(job).rows, take_snapshot(clean).rows)
    check_settled(job)
