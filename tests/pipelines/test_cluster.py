"""The Ray that a job runs on: started, reached, found; and a process that runs one job after another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from libraries import library

from clusters import Capacity, ClusterProfile, Node, machine_capacity
from operators.errors import ClusterError
from pipelines import ray_connection as cluster
from pipelines.cli.main import interrupt
from pipelines.ray_connection import address_of, capacity_of, living_capacity, reached, running_ray

torch = library("torch")
OWN_PROCESS = Path(__file__).parent / "own_process.py"


@pytest.fixture(scope="module")
def steps() -> dict[str, dict[str, Any]]:
    """What became of the steps of a process that runs one job after another, by name."""
    with tempfile.TemporaryDirectory(prefix="ll", dir="/tmp") as folder:  # a short path, for Ray's sockets
        (Path(folder) / "tmp").mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = {**kept, "TMPDIR": f"{folder}/tmp", "HOME": folder}
        done = subprocess.run(
            [sys.executable, str(OWN_PROCESS), folder], env=environment, text=True, capture_output=True
        )
    assert done.returncode == 0, done.stderr
    return {(line := json.loads(text))["step"]: line for text in done.stdout.splitlines() if text.startswith("{")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_process_runs_one_job_after_another(steps: dict[str, dict[str, Any]]):
    results = {name: line["result"] for name, line in steps.items() if "GPUs" not in name and name != "no device"}
    failed = results.pop("failed start")
    assert failed.startswith("ClusterError: Ray could not be started: ")
    assert "TMPDIR" in failed
    assert results == {
        "first": "published",
        "notebook": "published",
        "in the user's Ray": "published",
        "which is still there": 42,
        "with its settings": True,
    }
    assert all(line["restored"] and not line["left"] for line in steps.values()), steps


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whole_jobs_run_on_logical_gpus(steps: dict[str, dict[str, Any]]):
    """One model has a GPU, two share another."""
    told = steps["models on GPUs"]["result"]
    assert told["rows"] == 24
    assert told["shards"] >= 4  # each came through as one block: the sink refuses anything else


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_gpus_that_are_not_there_are_told(steps: dict[str, dict[str, Any]]):
    many = steps["too many GPUs"]["result"]
    assert many.startswith("PoolUnschedulable: the pools hold 3 GPUs at least") and many.endswith("(exit code 2)")
    told = steps["no device"]["result"]
    if torch.cuda.is_available():
        return
    assert told.startswith("SpecError: torch "), told
    assert "finds no GPU" in told and "pool.num_gpus: 0" in told


def test_an_address_is_the_profiles_or_the_environments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert address_of(ClusterProfile()) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")  # as `ray job submit` sets it
    assert address_of(ClusterProfile()) == "10.0.0.5:6379"
    assert address_of(ClusterProfile(cpus=3)) == "10.0.0.5:6379"
    assert address_of(ClusterProfile(address="other:1")) == "other:1"
    assert address_of(ClusterProfile(address="local")) is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert address_of(ClusterProfile()) is None


def test_the_job_servers_address_is_not_the_heads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")  # as Ray's pages tell users of `ray job submit`
    with pytest.raises(ClusterError, match=r"job server.*\n  Submit the job there"):
        address_of(ClusterProfile())
    assert address_of(ClusterProfile(address="10.0.0.5:6379")) == "10.0.0.5:6379"


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As if this process had no Ray; where a cluster would have been reached."""
    asked: list[str] = []

    def init(address: str = "", **_: object) -> None:
        asked.append(address)
        raise ConnectionError(f"nobody answers at {address}")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr(cluster, "is_connected", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return asked


def test_a_cluster_that_cannot_be_reached_is_named(no_ray: list[str]):
    for attempt in (running_ray, reached):
        told = pytest.raises(ClusterError, match=r"Ray at 'h:1' cannot be reached: .*nobody answers at h:1\n  Check")
        with told, attempt(ClusterProfile(address="h:1")):
            pytest.fail("there is no Ray")
    with pytest.raises(ClusterError, match="'h:1' cannot be reached"):
        capacity_of(ClusterProfile(address="h:1"))  # and nothing of this machine is taken for the cluster's
    assert no_ray == ["h:1"] * 3


def test_the_environment_comes_back_where_ray_does_not_start(no_ray: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "read_authentication", lambda: None)
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/of/the/user")
    before = dict(os.environ)
    with pytest.raises(ClusterError, match="Ray could not be started"), running_ray(ClusterProfile()):
        pytest.fail("there is no Ray")
    assert (dict(os.environ), no_ray) == (before, ["local"])


@pytest.mark.parametrize(("asked", "sends"), [(None, False), ("0", False), ("1", True)])
def test_a_private_ray_sends_usage_data_only_if_asked_to(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, sends: bool
):
    from ray._common.usage.usage_lib import usage_stats_enabled

    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    if asked is not None:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", asked)
    at_start: list[bool] = []
    monkeypatch.setattr("ray.init", lambda **_: at_start.append(usage_stats_enabled()))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr(cluster, "is_connected", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with running_ray(ClusterProfile()):
        assert [*at_start, usage_stats_enabled()] == [sends, sends]
    assert os.environ.get("RAY_USAGE_STATS_ENABLED") == asked


def test_what_a_profile_states_in_full_asks_nobody(no_ray: list[str]):
    stated = ClusterProfile(address="h:1", cpus=8, gpus=0, memory_mb=4000, nodes=2)
    assert capacity_of(stated) == Capacity((Node(4, 0, 2000),) * 2)
    assert capacity_of(ClusterProfile()) == machine_capacity()
    assert capacity_of(ClusterProfile(cpus=3, nodes=1)).cpus == 3
    with reached(ClusterProfile()):
        pass
    assert no_ray == []


def test_ray_does_not_take_sigterm_from_the_command(monkeypatch: pytest.MonkeyPatch):
    """Its own handler exits with code 15, and what was run could not be told from a failure."""

    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr(cluster, "is_connected", lambda: False)  # tests before this one may have connected
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with running_ray(ClusterProfile(address="h:1")):
            assert signal.getsignal(signal.SIGTERM) is interrupt
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with running_ray(ClusterProfile(address="h:1")):
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # Ray's ends what Ray started
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_cluster_without_cpus_says_what_to_state(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "is_connected", lambda: True)
    dead = {"Alive": False, "Resources": {"CPU": 8.0}}
    head = {"Alive": True, "Resources": {"memory": 1.0, "node:10.0.0.1": 1.0}}
    monkeypatch.setattr("ray.nodes", lambda: [dead, head])
    with pytest.raises(ClusterError, match=r"no node with CPUs now\.\n  .*cpus, gpus, memory_mb, nodes"):
        capacity_of(ClusterProfile())
    assert capacity_of(ClusterProfile(cpus=64, nodes=8)).nodes[0].cpus == 8


def test_living_nodes_are_learned_from_ray(monkeypatch: pytest.MonkeyPatch):
    resources = {"CPU": 4.0, "GPU": 2.0, "memory": 3.0 * 2**30, "object_store_memory": 1.0 * 2**30}
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0, "memory": 2.0**30}},
        {"Alive": True, "Resources": resources},
        {"Alive": False, "Resources": resources},
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert living_capacity() == Capacity((Node(4, 2, 4096), Node(16, 0, 1024)))
