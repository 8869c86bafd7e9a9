"""What tests of submitted jobs share: a job in a clean folder, the commands, and a search for what must be seen nowhere."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from ray_cluster import RayCluster

ROOT = Path(__file__).parent.parent
PLANTED = secrets.token_hex(20)  # an AWS key, in the environment of the cluster and of the submitter
VARIABLE = "PLANTED_KEY"
LOOKS = 50  # of 0.1 s, at the arguments of a process
# In the working directory, so that every process of the job reads it: LatentLake is not installed.
NOT_INSTALLED = """
import importlib.metadata
import sys
from pathlib import Path

sys.path[:] = [place for place in sys.path if "py_modules" in place or not (Path(place) / "latentlake/__init__.py").exists()]
found = importlib.metadata.version

def version(name):
    if name == "latentlake":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)

importlib.metadata.version = version
"""


def write_texts(folder: Path, count: int) -> Path:
    """So many texts, as files."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.txt").write_text(f"text {number}")
    return folder


def write_job(folder: Path, shared: Path, cluster: RayCluster, **changes: Any) -> Path:
    """A clean folder with a job of shards of 10 objects, and a profile that knows what is shared: texts in `in`, and the lake."""
    folder.mkdir(parents=True)
    job = {
        "name": "job",
        "modality": "text",
        "source": {"kind": "files", "uri": str(shared / "in")},
        "embed": [{"column": "h", "family": "hashing", "dim": 16}],
        "table": {"uri": str(shared / "lake"), "name": "t"},
        "shard": {"max_objects": 10},
    }
    (folder / "job.yaml").write_text(json.dumps(job | changes))
    (folder / "sitecustomize.py").write_text(NOT_INSTALLED)
    profile = {"kind": "ray", "job_server": cluster.dashboard, "shared_storage": [{"path": str(shared)}]}
    (folder / "cluster.yaml").write_text(json.dumps(profile))
    return folder / "job.yaml"


def start(cluster: RayCluster, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `latentlake` in a folder, as somebody who has the cluster's token, and nothing else of Ray."""
    profile = () if "--cluster" in arguments else ("--cluster", "cluster.yaml")
    token = {"RAY_AUTH_TOKEN_PATH": cluster.environment["RAY_AUTH_TOKEN_PATH"]}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", *arguments, *profile],
        cwd=folder,
        env={**kept, **token, "PYTHONPATH": str(ROOT), VARIABLE: PLANTED},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def latentlake(cluster: RayCluster, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = start(cluster, folder, *arguments)
    out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def finished_shards(folder: Path) -> int:
    """How many shards of the only run on the lake below a folder are finished."""
    return len(list(folder.glob("lake/_latentlake/t/*/shards/*")))


def wait_until(holds: Callable[[], object], otherwise: str, limit_s: float = 300) -> None:
    """Wait until something holds; an `AssertionError` that says `otherwise` where it does not in time."""
    limit = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < limit, otherwise
        time.sleep(0.1)


@contextmanager
def watched_arguments() -> Iterator[set[str]]:
    """The arguments of all processes of the machine that were seen meanwhile."""
    seen: set[str] = set()
    looks: Counter[int] = Counter()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for number in psutil.pids():
                looks[number] += 1
                if looks[number] > LOOKS:  # it has become what it was started for
                    continue
                try:
                    seen.update(psutil.Process(number).cmdline())
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def places_of(secret: str, cluster: RayCluster, seen: set[str]) -> list[str]:
    """Where a secret is seen: in the cluster's job records, in its logs, among arguments."""
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    records = httpx.get(f"{cluster.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {token}"}).text
    assert '"submission_id": "job@' in records, "jobs were submitted"
    logs = [path for path in cluster.folder.rglob("logs/**/*") if path.is_file()]
    assert any("job-driver-job@" in path.name for path in logs), "a job has a log"
    found = [str(path) for path in [*logs, *cluster.folder.glob("*.log")] if secret.encode() in path.read_bytes()]
    return found + ["a job record"] * (secret in records) + [f"argument {text}" for text in seen if secret in text]
