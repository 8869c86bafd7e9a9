"""Packages of third parties for the tests: modules with entry points, found as those of an installed package are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from operators.preprocess import operators_by_name
from operators.registry import entry_points_of
from pipelines.job.document import reserved


def write_package(folder: Path, modules: Mapping[str, str]) -> Path:
    """Make a folder that, on a path of Python's, is an installed package; `modules` has sources by "kind/name"."""
    info = folder / "thirdparty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    lines = []
    for place, source in modules.items():
        kind, name = place.split("/")
        (folder / f"thirdparty_{name}.py").write_text(source)
        lines.append(f"[latentlake.{kind}]\n{name} = thirdparty_{name}\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


@contextmanager
def installed(folder: Path, modules: Mapping[str, str]) -> Iterator[Path]:
    """The package of `write_package`, on this process's path; forgotten at the end."""
    sys.path.insert(0, str(write_package(folder, modules)))
    forget()
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.startswith("thirdparty_")]:
            del sys.modules[name]
        forget()


def forget() -> None:
    """Let registries look again."""
    for cached in (entry_points_of, operators_by_name, reserved):
        cached.cache_clear()
