"""Registries whose keys are file names: `family: hashing` is the module `hashing` of the package `operators.embedders`.

A third party adds a name by an entry point of the group `latentlake.<kind>`, which points to a module of the same shape.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from operators.errors import unknown_name


@cache
def entry_points_of(kind: str) -> dict[str, EntryPoint]:
    """Installed entry points of the group `latentlake.<kind>`, by name."""
    return {point.name: point for point in entry_points(group=f"latentlake.{kind}")}


def module_names(package: str, kind: str) -> list[str]:
    """Names registered in `package` and by entry points of `kind`, sorted. Imports none of them."""
    root = importlib.import_module(package)
    own = {info.name for info in pkgutil.iter_modules(root.__path__) if not info.name.startswith("_")}
    return sorted((own - {"base"}) | set(entry_points_of(kind)))


def load_module(package: str, kind: str, name: str, what: str) -> ModuleType:
    """Import the module registered as `name`; `what` names the kind of thing in the error.

    Raises `UnknownName` with the nearest and all known names.
    """
    if name not in module_names(package, kind):
        raise unknown_name(what, name, module_names(package, kind))
    point = entry_points_of(kind).get(name)
    return point.load() if point else importlib.import_module(f"{package}.{name}")
