"""The client works without the rest of LatentLake: copied into another package, as a second distribution holds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FILES = {name: f"clusters/{name}" for name in ("jobs.py", "packages.py", "attempts.py", "tokens.py")}
PROGRAM = """
import sys
from other.client import attempts, jobs, packages
from other.client.errors import NotFound

assert issubclass(jobs.NotFound, NotFound)
ours = {"ray", "torch", "pydantic", "clusters", "operators", "latentlake", "pipelines"} & set(sys.modules)
assert not ours, ours
"""


def test_the_client_needs_nothing_else_of_ours(tmp_path: Path):
    folder = tmp_path / "other" / "client"
    folder.mkdir(parents=True)
    for name, source in {**FILES, "errors.py": "operators/errors.py"}.items():
        shutil.copy(ROOT / source, folder / name)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=kept, text=True, stderr=subprocess.PIPE, check=False
    )
    assert done.returncode == 0, done.stderr
