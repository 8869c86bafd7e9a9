"""Source kinds, one file each: module `<kind>` has a class `Source`. The registry is the file name."""

from __future__ import annotations

from operators.registry import load_module, module_names
from pipelines.sources.base import SourceConfig


def source_kinds() -> list[str]:
    """Every source kind, ours and those of installed entry points (`latentlake.sources`), sorted."""
    return module_names(__name__, "sources")


def source_class(kind: str) -> type[SourceConfig]:
    """The config class of a source kind. Raises `UnknownName`."""
    source: type[SourceConfig] = load_module(__name__, "sources", kind, "source kind").Source
    return source
