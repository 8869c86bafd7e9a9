"""What a RayJob runs, on a real cluster whose head has no CPUs: submitted over HTTP, as KubeRay's operator does it.

The objects are those that `latentlake manifest` makes. Kubernetes itself is not here: its files lie in a folder, and what it
would restart is killed by hand.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from ray_cluster import RayCluster

import latentlake
from clusters import ClusterProfile
from clusters.jobs import JobInfo, JobServer
from clusters.kuberay.pods import FILES
from latentlake.storage import open_storage
from pipelines.manifests import make_manifest
from pipelines.state.ledger import read_report, read_runs

ROOT = Path(__file__).parent.parent.parent
TEXTS = 40

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.xdist_group("kuberay_job")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head without CPUs, as in the manifest, and a worker of two."""
    with tempfile.TemporaryDirectory(prefix="ll", dir="/tmp") as folder, RayCluster(Path(folder), cpus=0) as made:
        made.environment["PYTHONPATH"] = str(ROOT)
        made.add_node(2)
        yield made


@pytest.fixture
def server(cluster: RayCluster) -> Iterator[JobServer]:
    with JobServer(cluster.dashboard, Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()) as made:
        yield made


def submit(folder: Path, server: JobServer, name: str, **changes: Any) -> str:
    """Send a RayJob's entrypoint, its files in a folder in place of their mount; the submission's id."""
    (folder / "in").mkdir(exist_ok=True)
    for number in range(TEXTS):
        (folder / "in" / f"{number}.txt").write_text(f"text {number}")
    job = {
        "name": name,
        "modality": "text",
        "source": {"kind": "files", "uri": str(folder / "in")},
        "embed": [{"column": "v", "family": "hashing", "dim": 16}],
        "table": {"uri": str(folder / "lake"), "name": name},
        "shard": {"max_objects": 4},
        **changes,
    }
    profile = {
        "kind": "kuberay",
        "image": "i:1",
        "worker_groups": [{"name": "cpu", "cpus": 2, "memory_mb": 8000, "max": 1}],
        "shared_storage": [str(folder)],
        "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}},
    }
    (folder / "given.yaml").write_text(yaml.safe_dump(job))
    files, made = make_manifest(folder / "given.yaml", ClusterProfile.model_validate(profile))
    for file, text in files["data"].items():
        (folder / file).write_text(text)
    entrypoint = made["spec"]["entrypoint"].replace(FILES, str(folder)).replace("--retries 3", "--retries 3 --pause 1")
    server.submit(f"{name}-1", entrypoint, json.loads(made["spec"]["runtimeEnvYAML"]), {})
    return f"{name}-1"


def ended(server: JobServer, submission_id: str, limit_s: float = 600) -> JobInfo:
    until = time.monotonic() + limit_s
    while not (info := server.info(submission_id)).is_over:
        assert time.monotonic() < until, server.logs(submission_id)
        time.sleep(1)
    return info


@pytest.mark.fault("RayJob on a head without CPUs", "runs on the workers")
def test_a_job_runs_on_the_workers(tmp_path: Path, server: JobServer):
    info = ended(server, submit(tmp_path, server, "docs"))
    assert info.status == "SUCCEEDED", info.message
    assert server.logs("docs-1").rstrip().endswith("latentlake: exit code 0: done")
    assert latentlake.connect(str(tmp_path / "lake")).open("docs").count_rows() == TEXTS


@pytest.mark.fault("RayJob refused by a gate", "exit code 3, with the reason in its message")
def test_the_jobs_message_ends_with_the_reason(tmp_path: Path, server: JobServer):
    """KubeRay copies it into the RayJob's status."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.txt").write_text("")
    info = ended(server, submit(tmp_path, server, "refused", gates={"max_reject_rate": 0}))
    assert (info.status, info.driver_exit_code) == ("FAILED", 3)
    assert "GateRefused" in info.message
    assert info.message.rstrip().endswith("exit code 3: a gate refused publication; readers see what they saw before")


@pytest.mark.fault("RayJob's driver killed", "started again, and resumes")
def test_a_driver_that_is_killed_is_started_again_and_resumes(tmp_path: Path, server: JobServer, cluster: RayCluster):
    slow = [{"column": "v", "family": "hashing", "dim": 16, "delay_ms": 300, "pool": {"max": 1}}]
    submission_id = submit(tmp_path, server, "killed", embed=slow)
    until = time.monotonic() + 300
    while len(list((tmp_path / "lake").rglob("shards/*"))) < 2 and time.monotonic() < until:
        time.sleep(0.2)
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:4] == ["-m", "pipelines", "run"] and str(tmp_path / "job.yaml") in words:
            process.kill()
    info = ended(server, submission_id)
    log = server.logs(submission_id)
    assert info.status == "SUCCEEDED", log
    assert "exit code 137; retry 1 of 3" in log and log.rstrip().endswith("exit code 0 after 1 retries: done")
    (run,) = read_runs(open_storage(str(tmp_path / "lake")), "killed", "state = 'published'")
    assert read_report(run["report"])["shards_taken_over"] > 0


@pytest.mark.fault("probes of a cluster with a token", "answered without it")
def test_health_checks_need_no_token(cluster: RayCluster):
    """As the probes of the pods ask; the ports are this cluster's."""
    assert httpx.get(f"{cluster.dashboard}/api/gcs_healthz").status_code == 200
    assert httpx.get(f"{cluster.dashboard}/api/jobs/").status_code == 401
    agents = [
        word.partition("=")[2]
        for node in cluster.nodes
        for word in node.process.args
        if str(word).startswith("--dashboard-agent-listen-port=")
    ]
    assert len(agents) == 2
    for port in agents:
        assert httpx.get(f"http://127.0.0.1:{port}/api/local_raylet_healthz").status_code == 200
