"""The start-up check: our four packages have plain names, so another package of that name may stand before ours.

Imports nothing of our own at module level: it has to work where `operators` is somebody else's.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

PACKAGES = ("clusters", "latentlake", "operators", "pipelines")
ROOT = Path(__file__).parent.parent


def check_layout() -> None:
    """Make sure that our packages all come from the folder that this one lies in, without importing them.

    Raises `LatentLakeError`, naming the path that stands in the way. Runs when `latentlake` is imported.
    """
    for package in PACKAGES:
        places = find_places(package)
        strangers = [place for place in places if place.parent.resolve() != ROOT.resolve()]
        if strangers or not places:
            found = f"is {strangers[0]}" if strangers else "cannot be found"
            remedy = (
                f"Take {strangers[0].parent} off the import path (PYTHONPATH, the working directory), or rename that package."
                if strangers
                else "Install latentlake again."
            )
            errors = load_errors(from_file=package == "operators")
            raise errors.LatentLakeError(
                f"package '{package}' {found}, not {ROOT / package}, which is LatentLake's.\n  {remedy}"
            )


def find_places(package: str) -> list[Path]:
    """Where Python would import a top-level package from; several folders for one without `__init__.py`."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(spec.origin or "")]


def load_errors(from_file: bool) -> ModuleType:
    """Our module `operators.errors`; `from_file`: read from its file, because the name leads elsewhere."""
    if not from_file:
        return importlib.import_module("operators.errors")
    spec = importlib.util.spec_from_file_location("operators.errors", ROOT / "operators" / "errors.py")
    assert spec is not None and spec.loader is not None, "a file has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
