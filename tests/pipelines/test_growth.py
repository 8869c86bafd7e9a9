"""A pool grows while its run is under way, also on a cluster that has just enough room."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_maker import make_job, run, write_texts

TEXTS = 240  # 36 s of one actor: a busy machine takes as long to start another


@pytest.mark.usefixtures("ray_session")
def test_a_pool_grows_into_the_last_room(tmp_path: Path):
    """Two actors of 0.75 CPUs, and reading and writing with 0.25 each, take both CPUs. The second actor embeds too, and ends."""
    pool = {"min": 1, "initial": 1, "max": 2, "num_cpus": 0.75}
    source = write_texts(tmp_path / "in", {f"{n}.txt": f"text {n}" for n in range(TEXTS)})
    embed = [{"column": "h", "family": "hashing", "dim": 16, "delay_ms": 150, "pool": pool}]
    report = run(make_job(tmp_path, source, shard={"max_objects": 5}, embed=embed), runner="ray")
    assert report["columns"]["h"]["embedded"] == TEXTS
    actors = [point["actors"] for point in report["columns"]["h"]["actors"]]  # those that finished a shard
    assert (actors[0], max(actors)) == (1, 2), "the pool did not grow"
    assert actors[-1] < 2
