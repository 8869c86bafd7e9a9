"""A pool grows while its run is under way, also on a cluster that has just enough room."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from job_maker import make_job, run, write_texts

ACTOR = "ray::MapWorker(MapBatches(EmbedShard))"
TEXTS = 80


def working_actors() -> set[int]:
    """Process ids of this process's actors that embed now."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(f"{ACTOR}."):  # the name of the method that runs
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.usefixtures("ray_session")
def test_a_pool_grows_into_the_last_room(tmp_path: Path):
    """Two actors of 0.75 CPUs, and reading and writing with 0.25 each, take both CPUs."""
    pool = {"min": 1, "initial": 1, "max": 2, "num_cpus": 0.75}
    source = write_texts(tmp_path / "in", {f"{n}.txt": f"text {n}" for n in range(TEXTS)})
    embed = [{"column": "h", "family": "hashing", "dim": 16, "delay_ms": 150, "pool": pool}]
    seen: set[int] = set()
    job = make_job(tmp_path, source, shard={"max_objects": 5}, embed=embed)
    report = run(job, runner="ray", progress=lambda event: seen.update(working_actors()))
    assert report["columns"]["h"]["embedded"] == TEXTS
    assert len(seen) == 2, "the pool did not grow"
