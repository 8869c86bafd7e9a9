"""A submitted job on a cluster that grows and shrinks beneath it: its pool follows, and its table is the right one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparison import check_identical, take_snapshot
from processes import ACTOR, find_workers
from ray_cluster import RayCluster
from submitting import finished_shards, start, wait_until, write_job, write_texts

from pipelines.jobs import run_job

LIMIT_S = 400
TEXTS = 400  # in 40 shards, of three seconds each
EMBED = {"column": "h", "family": "hashing", "dim": 16}
# The second node is not there when the job is planned, so the profile says that it may come.
PLANNED = {"cpus": 4, "gpus": 0, "memory_mb": 16_000, "nodes": 2, "stall_s": 60, "start_s": 120}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    """A head of two CPUs."""
    folder = tempfile.TemporaryDirectory(prefix="ll", dir="/tmp", ignore_cleanup_errors=True)
    with folder as name, RayCluster(Path(name)) as made:
        yield made


@pytest.mark.fault("pool grows on a node that joins, and the node is killed", "submitted: both actors work; identical")
def test_a_pool_grows_and_its_node_is_lost(cluster: RayCluster, tmp_path: Path) -> None:
    shared, clean = tmp_path / "shared", tmp_path / "clean"
    write_texts(shared / "in", TEXTS)
    # An actor leaves no room for another on its node.
    job = write_job(
        clean, shared, cluster, embed=[{**EMBED, "delay_ms": 300, "pool": {"min": 1, "max": 2, "num_cpus": 1.25}}]
    )
    profile = json.loads((clean / "cluster.yaml").read_text())
    (clean / "cluster.yaml").write_text(json.dumps(profile | PLANNED))
    submitter = start(cluster, clean, "submit", "job.yaml", "--json")
    try:
        wait_until(lambda: finished_shards(shared) >= 2 or submitter.poll() is not None, "no shard was finished")
        assert submitter.poll() is None, submitter.communicate()
        joined = cluster.add_node()
        wait_until(lambda: find_workers(ACTOR, joined.processes), "the pool did not grow")
        grown = finished_shards(shared)
        assert grown < TEXTS // 10 - 10, "too little is left to see anything"
        wait_until(lambda: finished_shards(shared) >= grown + 6, "nothing was finished")
        assert find_workers(ACTOR, cluster.nodes[0].processes) and find_workers(ACTOR, joined.processes)
        joined.kill()
        out, err = submitter.communicate(timeout=LIMIT_S)
    finally:
        submitter.kill()
    assert submitter.returncode == 0, out + err
    report = json.loads(out.splitlines()[-1])
    assert report["state"] == "published" and report["columns"]["h"]["embedded"] == TEXTS
    clean_job = write_job(
        tmp_path / "other", shared, cluster, embed=[EMBED], table={"uri": str(tmp_path / "lake"), "name": "t"}
    )
    run_job(str(clean_job), runner="inline")
    check_identical(*(take_snapshot(json.loads(path.read_text())) for path in (job, clean_job)))
