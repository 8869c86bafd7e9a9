"""A job on a cluster as its users have it: submitted from a clean folder, LatentLake not installed in it, to a real Ray."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import lance
import pytest
from command_line import latentlake_here
from doc_commands import commands
from ray_cluster import RayCluster
from submitting import PLANTED, ROOT, VARIABLE, latentlake, places_of, start, watched_arguments, write_job, write_texts

from latentlake import connect
from pipelines.jobs import run_job

PACKAGES = ("clusters", "latentlake", "operators", "pipelines")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head of two CPUs, with a key in its environment."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ll", dir="/tmp", ignore_cleanup_errors=True) as folder,
    ):
        patch.setenv(VARIABLE, PLANTED)
        with RayCluster(Path(folder)) as made:
            yield made


def test_a_slot_is_submitted_to_two_nodes_and_run_once(
    cluster: RayCluster, tmp_path: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
):
    """As the quickstart does. Its pool needs both nodes, which Ray must still find room for reading on; its model comes with it."""
    keys = {"aws_access_key_id": "env:AWS_ACCESS_KEY_ID", "aws_secret_access_key": f"env:{VARIABLE}"}
    client = boto3.client("s3", "us-east-1", endpoint_url=s3_endpoint, aws_access_key_id="a", aws_secret_access_key="b")
    for number in range(60):
        client.put_object(Bucket="objects", Key=f"submitted/{number}.txt", Body=f"word{number % 5} {number}".encode())
    options = {**keys, "aws_endpoint": s3_endpoint, "aws_region": "us-east-1"}
    write_job(
        tmp_path / "clean",
        tmp_path / "shared",
        cluster,
        source={"kind": "files", "uri": "s3://objects/submitted", "storage_options": options},
        embed=[{"column": "v", "family": "static", "model": "models/words.txt", "pool": {"min": 2, "num_cpus": 1.25}}],
    )
    (tmp_path / "clean" / "models").mkdir()
    (tmp_path / "clean" / "models" / "words.txt").write_text("".join(f"word{n} {n} 1 0 1\n" for n in range(5)))
    lines = [shlex.split(line)[1:] for line in commands("docs/quickstart.md", "On a Ray cluster")]
    node = cluster.add_node()
    try:
        with watched_arguments() as seen:
            detached, listed, followed, told = (latentlake(cluster, tmp_path / "clean", *line) for line in lines)
    finally:
        node.kill()
    assert detached.returncode == 0 and "job@2026-11-26@1: submitted" in detached.stderr, detached.stderr
    assert "job@2026-11-26@1" in listed.stdout and "SUCCEEDED" in told.stdout, listed.stderr + told.stderr
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "nothing was submitted" in followed.stderr and "other files" not in followed.stderr
    assert "60 listed, 60 embedded" in followed.stdout and "nothing moved" not in followed.stdout
    assert lance.dataset(str(tmp_path / "shared" / "lake" / "t.lance")).count_rows() == 60
    again = latentlake(cluster, tmp_path / "clean", *lines[2])
    assert (again.returncode, again.stdout) == (0, followed.stdout) and "SUCCEEDED already" in again.stderr
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", cluster.environment["RAY_AUTH_TOKEN_PATH"])
    monkeypatch.setenv(VARIABLE, PLANTED)
    for line in commands("docs/clusters.md", "Submit a job")[2:]:
        done = latentlake_here(*shlex.split(line)[1:], "--cluster", "cluster.yaml", cwd=tmp_path / "clean")
        assert done.returncode == 0, line + done.stderr
    for secret in (PLANTED, Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()):
        assert places_of(secret, cluster, seen) == []


def test_a_job_ends_with_its_own_exit_code(cluster: RayCluster, tmp_path: Path):
    """One that a gate refuses, one that is wrong in a way that only the cluster can tell; `test_submit_command.py` has all codes."""
    shared = tmp_path / "shared"
    write_texts(shared / "in", 60)
    write_texts(shared / "fewer", 10)
    run_job(str(write_job(tmp_path / "before", shared, cluster)), runner="inline")
    sections = {
        "refused": {
            "source": {"kind": "files", "uri": str(shared / "fewer")},
            "table": {"uri": str(shared / "lake"), "name": "t", "prune": True},
        },
        "wrong": {"embed": [{"column": "h", "family": "static", "model": "nobody/nothing"}]},
    }
    for name, changes in sections.items():
        table = {"uri": str(shared / "lake"), "name": name}
        write_job(tmp_path / name, shared, cluster, name=name, **{"table": table, **changes})
    expected = {"refused": (3, "GateRefused: "), "wrong": (2, "ModelNotFound: ")}
    command = commands("docs/clusters.md", "Submit a job")[1].replace("http://HEAD:8265", cluster.dashboard)
    running = {name: start(cluster, tmp_path / name, *shlex.split(command)[1:]) for name in expected}
    for name, (code, reason) in expected.items():
        out, err = running[name].communicate()
        assert (running[name].returncode, reason in out) == (code, True), out + err
        assert f"{name}@1: it ended with exit code {code}" in err


def test_ray_s_own_tool_submits_it_too(cluster: RayCluster, tmp_path: Path):
    """The working directory has our packages in it, as where LatentLake is not installed."""
    write_texts(tmp_path / "shared" / "in", 60)
    write_job(tmp_path / "clean", tmp_path / "shared", cluster)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / "clean" / package, ignore=shutil.ignore_patterns("__pycache__"))
    hidden = (tmp_path / "clean" / "sitecustomize.py").read_text()
    (tmp_path / "clean" / "sitecustomize.py").write_text(hidden.replace('"py_modules"', '"working_dir"'))
    (tmp_path / "clean" / "token").symlink_to(cluster.environment["RAY_AUTH_TOKEN_PATH"])
    lines = "\n".join(commands("docs/quickstart.md", "With Ray's own tool")).replace("HEAD:8265", cluster.dashboard[7:])
    try:
        done = cluster.run("bash", "-ec", lines, cwd=tmp_path / "clean", timeout=600)
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"it hangs: {hung.stdout!r}")
    assert done.returncode == 0 and "60 listed, 60 embedded" in done.stdout, done.stdout
    table = connect(tmp_path / "shared" / "lake").open("t", tag="prod")
    assert len(table) == 60
    assert "<tr><td>0.0000<" in table.search("text 7", k=3)._repr_html_()  # its own text is among the 60


def test_what_is_open_without_the_token(cluster: RayCluster):
    """As docs/security.md says."""
    (metrics,) = (
        option.partition("=")[2]
        for option in cluster.nodes[0].process.args
        if option.startswith("--metrics-export-port=")
    )
    closed = ("/api/version", "/api/jobs/", "/nodes?view=summary", "/api/v0/tasks", "/logical/actors")
    asked = {path: httpx.get(cluster.dashboard + path, timeout=60).status_code for path in (*closed, "/")}
    assert asked == {**dict.fromkeys(closed, 401), "/": 200}
    until = time.monotonic() + 60
    while True:
        try:
            assert httpx.get(f"http://127.0.0.1:{metrics}/metrics", timeout=60).status_code == 200
            break
        except httpx.ConnectError:  # the node's agent is about to start
            assert time.monotonic() < until
            time.sleep(1)
