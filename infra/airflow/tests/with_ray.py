"""Runs a command beside a Ray cluster: `python with_ray.py COMMAND...`, with LatentLake's own Python, as the cluster's.

The command finds the address of the job server in RAY_JOBS_ADDRESS, and its token in the file RAY_JOBS_TOKEN.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from ray_cluster import RayCluster  # noqa: E402


def main(command: list[str]) -> int:
    """Run it; its exit code."""
    with tempfile.TemporaryDirectory(prefix="ll", dir="/tmp") as folder, RayCluster(Path(folder), cpus=4) as cluster:
        places = {
            "RAY_JOBS_ADDRESS": cluster.dashboard,
            "RAY_JOBS_TOKEN": cluster.environment["RAY_AUTH_TOKEN_PATH"],
        }
        return subprocess.run(command, env={**os.environ, **places}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
