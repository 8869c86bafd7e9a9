"""Puts the client of Ray's job server into the distribution: LatentLake's own files, as ADR 1 says."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "latentlake_airflow/client"
FILES = {
    "jobs.py": "clusters/jobs.py",
    "attempts.py": "clusters/attempts.py",
    "packages.py": "clusters/packages.py",
    "tokens.py": "clusters/tokens.py",
    "errors.py": "operators/errors.py",
}


class ClientFiles(BuildHookInterface):
    """Adds the client's files; a source distribution has them already."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add them to what is built."""
        here = Path(self.root)
        if (here / FOLDER).is_dir():
            return
        for name, source in FILES.items():
            build_data["force_include"][str(here.parent.parent / source)] = f"{FOLDER}/{name}"
