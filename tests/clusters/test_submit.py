"""A job on a cluster as its users have it: submitted from a clean folder, to more than one node."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lance
import pytest
from ray_cluster import RayCluster

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("clusters", "latentlake", "operators", "pipelines")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head of two CPUs."""
    with tempfile.TemporaryDirectory(prefix="ll", dir="/tmp") as folder, RayCluster(Path(folder)) as made:
        yield made


def write_job(folder: Path, pool: dict[str, float]) -> Path:
    """A job on 60 texts in 6 shards, as a file."""
    (folder / "in").mkdir()
    for number in range(60):
        (folder / "in" / f"{number}.txt").write_text(f"text {number}")
    job = {
        "name": "job",
        "modality": "text",
        "source": {"kind": "files", "uri": str(folder / "in")},
        "embed": [{"column": "h", "family": "hashing", "dim": 16, "pool": pool}],
        "table": {"uri": str(folder / "lake"), "name": "t"},
        "shard": {"max_objects": 10},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))
    return path


def test_a_job_is_submitted_from_a_clean_folder_to_two_nodes(cluster: RayCluster, tmp_path: Path):
    """Its pool needs both nodes, and Ray must still find room for what reads."""
    clean = tmp_path / "clean"
    clean.mkdir()
    for package in PACKAGES:
        shutil.copytree(ROOT / package, clean / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(write_job(tmp_path, {"min": 2, "num_cpus": 1.25}), clean)
    # As where LatentLake is not installed: nothing knows its version.
    hidden = "import importlib.metadata as m\nfound = m.version\n"
    hidden += "def version(name):\n    if name == 'latentlake':\n        raise m.PackageNotFoundError(name)\n    return found(name)\n"
    (clean / "sitecustomize.py").write_text(f"{hidden}m.version = version\n")
    submit = ["ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", str(clean), "--"]
    node = cluster.add_node()
    try:
        done = cluster.run(*submit, "python", "-m", "pipelines", "run", "job.yaml", "--json", timeout=600)
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"it hangs: {hung.stdout!r}")
    finally:
        node.kill()
    assert done.returncode == 0, done.stdout
    assert "nothing moved" not in done.stdout and "continues with" not in done.stdout
    assert lance.dataset(str(tmp_path / "lake" / "t.lance")).count_rows() == 60
