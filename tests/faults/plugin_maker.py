"""Third-party plugins for the processes of a driver: modules with entry points, as an installed package has them."""

from __future__ import annotations

import shutil
from pathlib import Path

PLUGINS = Path(__file__).parent / "plugins"
ENTRY_POINTS = """[latentlake.embedders]
poison = poison_embedder

[latentlake.preprocess]
poison = poison_operator
"""


def install_plugins(folder: Path) -> Path:
    """A folder that, on `PYTHONPATH`, is a package with the plugins."""
    shutil.copytree(PLUGINS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    info = folder / "poison-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: poison\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder
