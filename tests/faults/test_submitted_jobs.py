"""Submitted jobs that lose their submitter or their driver, and ones that are told to stop: the next submission ends well."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lance
import psutil
import pytest
from ray_cluster import RayCluster
from submitting import finished_shards, latentlake, start, wait_until, write_job, write_texts

DONE = 2  # shards of six that are finished before anything happens
SLOW = [{"column": "h", "family": "hashing", "dim": 16, "delay_ms": 300, "pool": {"min": 1, "max": 1}}]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.xdist_group("submitted_jobs")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head of two CPUs."""
    folder = tempfile.TemporaryDirectory(prefix="ll", dir="/tmp", ignore_cleanup_errors=True)
    with folder as name, RayCluster(Path(name)) as made:
        yield made


@pytest.fixture
def job(cluster: RayCluster, tmp_path: Path) -> Path:
    """The clean folder of a job of a name of its own, of 18 seconds."""
    name = f"job-{tmp_path.name}".replace("_", "-")
    write_texts(tmp_path / "shared" / "in", 60)
    write_job(tmp_path / "clean", tmp_path / "shared", cluster, name=name, embed=SLOW)
    return tmp_path / "clean"


def drivers(cluster: RayCluster) -> list[psutil.Process]:
    """The commands that submitted jobs run now."""
    found = []
    for process in cluster.nodes[0].processes():
        try:
            if process.cmdline()[1:4] == ["-m", "pipelines", "run"]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def check_table(folder: Path) -> None:
    """The whole table is there, once."""
    ids = lance.dataset(str(folder / "lake" / "t.lance")).to_table(["id"])["id"].to_pylist()
    assert sorted(ids) == sorted(f"{number}.txt" for number in range(60))


@pytest.mark.fault("submitter killed, then the driver", "the job runs on; submitted again, it resumes")
def test_submitter_and_driver_are_killed(cluster: RayCluster, job: Path) -> None:
    shared = job.parent / "shared"
    submitter = start(cluster, job, "submit", "job.yaml", "--json")
    wait_until(lambda: finished_shards(shared) >= DONE, "no shard was finished")
    submitter.kill()
    submitter.communicate()
    before = finished_shards(shared)
    wait_until(lambda: finished_shards(shared) > before, "the job stands still without its submitter")
    again = start(cluster, job, "submit", "job.yaml", "--json")
    assert again.stderr is not None and "RUNNING already" in again.stderr.readline()
    (driver,) = drivers(cluster)
    driver.kill()
    _, err = again.communicate()
    assert again.returncode == 1 and "it ended with exit code" in err, err
    done = latentlake(cluster, job, "submit", "job.yaml", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "@2: submitted" in done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["state"] == "published" and report["shards_taken_over"] > before
    check_table(shared)


@pytest.mark.fault("a submitted job is cancelled", "it ends as interrupted, holds nothing, and is resumed")
def test_a_job_is_cancelled(cluster: RayCluster, job: Path) -> None:
    shared = job.parent / "shared"
    submitter = start(cluster, job, "submit", "job.yaml", "--slot", "s")
    wait_until(lambda: finished_shards(shared) >= DONE, "no shard was finished")
    assert latentlake(cluster, job, "cancel", "job.yaml", "--slot", "s").returncode == 0
    out, err = submitter.communicate()
    assert submitter.returncode == 130, out + err
    leases = sorted(shared.glob("lake/_latentlake/t/lease/*"))
    assert json.loads(leases[-1].read_text())["token"] == "", "it has given the table back"
    done = latentlake(cluster, job, "submit", "job.yaml", "--slot", "s", "--json")
    report = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and report["shards_taken_over"] >= DONE
    check_table(shared)


@pytest.mark.fault("a submitter is told to end", "it says how to come back; the job runs on")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_submitter_is_told_to_end(cluster: RayCluster, job: Path, number: signal.Signals) -> None:
    shared = job.parent / "shared"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        submitter = start(cluster, job, "submit", "job.yaml")
    finally:
        signal.signal(signal.SIGINT, before)
    wait_until(lambda: finished_shards(shared) >= 1, "no shard was finished")
    submitter.send_signal(number)
    _, err = submitter.communicate()
    assert submitter.returncode == 130 and "Follow it: latentlake logs job-" in err and "Stop it: " in err, err
    followed = latentlake(cluster, job, "logs", "job.yaml", "--follow")
    assert followed.returncode == 0 and "60 listed, 60 embedded" in followed.stdout, followed.stdout
    check_table(shared)
