"""A cluster of two nodes, of which the second is lost in the middle of a run: the run ends well, and never hangs."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from comparison import check_identical, take_snapshot
from ray_cluster import RayCluster
from worlds import EMBED, Worlds, first_run

from clusters import ClusterProfile
from pipelines.job.jobfile import parse_job
from pipelines.run import run_job

ROOT = Path(__file__).parent.parent.parent
STALL_S = 60
LIMIT_S = 600  # a run that takes longer counts as hanging
SHARDS = 7  # of ten may be finished before the node is killed

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.xdist_group("lost_nodes"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head of two CPUs."""
    with tempfile.TemporaryDirectory(prefix="ll", dir="/tmp") as folder, RayCluster(Path(folder)) as made:
        yield made


@pytest.mark.fault("second node killed, mid-run", "the run continues on the first; identical")
@pytest.mark.parametrize("seed", range(20))
def test_a_node_is_killed(worlds: Worlds, cluster: RayCluster, tmp_path: Path, seed: int) -> None:
    world, draw = worlds.get(first_run), random.Random(seed)
    shards, delay_s = draw.randrange(SHARDS), draw.uniform(0, 3)
    # Two actors that hold most of a node each: on one node they would leave nothing for reading.
    embed = {**EMBED, "delay_ms": 60, "pool": {"min": 2, "max": 2, "num_cpus": 1.25}}
    job = world.new_job(tmp_path, embed=[embed])
    (tmp_path / "job.json").write_text(json.dumps(job))
    (tmp_path / "cluster.yaml").write_text(f"address: {cluster.address}\nstall_s: {STALL_S}\nstart_s: 120\n")
    node = cluster.add_node()
    command = [sys.executable, "-m", "pipelines", "run", str(tmp_path / "job.json")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--cluster", str(tmp_path / "cluster.yaml")],
            cwd=ROOT,  # where its workers look for our packages too
            env=cluster.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + LIMIT_S
        while len(list(tmp_path.glob("lake/_latentlake/t/*/shards/*"))) < shards or not list(
            tmp_path.glob("lake/_latentlake/t/*/run.json")
        ):
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.05)
        time.sleep(delay_s)
        node.kill()
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it hangs after {shards} shards and {delay_s:.1f} s:\n{(tmp_path / 'log').read_text()}")
    finally:
        process.kill()
        process.wait()
        node.kill()
    assert code == 0, (tmp_path / "log").read_text()
    assert world.clean is not None
    check_identical(take_snapshot(job), world.clean)


def hold_cpus() -> Any:
    """An actor that is not the job's, and holds 1.5 of this process's two CPUs. Fails where others keep hold of them."""

    class Holder:  # here, so that it is sent as it is
        def here(self) -> bool:
            return True

    holder = ray.remote(Holder).options(num_cpus=1.5).remote()
    try:
        ray.get(holder.here.remote(), timeout=180)
    except ray.exceptions.GetTimeoutError:
        ray.kill(holder)
        pytest.fail(f"others keep hold of CPUs, of which there are left: {ray.available_resources()}")
    return holder


@pytest.mark.fault("reading starves beside another job", "said, and the run continues when there is room")
def test_a_run_starves(worlds: Worlds, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An actor fits beside the other job's, but then no reading task does."""
    world = worlds.get(first_run)
    job = world.new_job(tmp_path, embed=[{**EMBED, "pool": {"min": 1, "max": 1, "num_cpus": 0.3}}])
    holder, told = hold_cpus(), threading.Event()

    class Watcher(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "The run continues with" in record.getMessage() and not told.is_set():
                told.set()
                ray.kill(holder)

    watcher = Watcher()
    logging.getLogger("pipelines.flow.runners.ray").addHandler(watcher)
    try:
        run_job(parse_job(job), ClusterProfile(cpus=2, gpus=0, memory_mb=8000, nodes=1, stall_s=STALL_S))
    finally:
        logging.getLogger("pipelines.flow.runners.ray").removeHandler(watcher)
        ray.kill(holder)
    assert told.is_set()
    assert "no task was at work" in caplog.text and "reading and writing wait for 0.25 CPUs" in caplog.text
    assert world.clean is not None
    check_identical(take_snapshot(job), world.clean)
