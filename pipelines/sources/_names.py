"""Files that no listing takes for objects: by their names alone, or because they are the job's own."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from latentlake.storage import OBJECT_STORES, Storage, lance_options, scheme_of

LEFT_OUT = "left out by its name"  # error of the entry of such a file; it is counted beside the objects, and is none
# Names of files and folders, at any depth, that are left out unless the job says otherwise: what macOS, Windows, Spark
# and Delta Lake leave between the data.
LEAVE_OUT = (
    "._*",
    ".DS_Store",
    "__MACOSX",
    "[Tt]humbs.db",
    "[Dd]esktop.ini",
    "_SUCCESS",
    "_temporary",
    "_started_*",
    "_committed_*",
    "_delta_log",
    "_spark_metadata",
    ".*.crc",
)
LAKE_FILES = r"(?:_latentlake|[^/]*\.lance)/"  # of a lake that lies in the source's own folder


def name_matcher(globs: Iterable[str]) -> Callable[[str], bool]:
    """Whether a part of a relative path, a folder's name or the file's, matches one of the globs."""
    parts = [re.sub(r"\\[Zz]$", "", fnmatch.translate(glob)) for glob in globs]
    if not parts:
        return lambda name: False
    one_of = re.compile("|".join(parts))
    return lambda name: any(one_of.fullmatch(part) for part in name.split("/"))


def own_names(source: Storage, lake: Storage | None, job_file: str | None = None) -> str | None:
    """A regular expression for the names, relative to the source, of the job's lake and of its file; None: neither lies there.

    A folder's name ends with '/'. Python and DuckDB (RE2) read it alike.
    """
    found = []
    if lake is not None and (below := name_below(source, lake)) is not None:
        found.append(f"{literal(below)}/" if below else LAKE_FILES)
    if job_file is not None and scheme_of(source.uri) == "file":
        root, path = os.path.realpath(source.root), os.path.realpath(job_file)
        if path.startswith(f"{root.rstrip('/')}/"):
            found.append(f"{literal(str(Path(path).relative_to(root)))}$")
    return f"^(?:{'|'.join(found)})" if found else None


def literal(text: str) -> str:
    """A regular expression for a text; `re.escape` also escapes spaces, which RE2 does not take."""
    return re.sub(r"[!-/:-@\[-`{-~]", r"\\\g<0>", text)


def name_below(source: Storage, lake: Storage) -> str | None:
    """Where a lake lies below a source, relative to it: empty if they are one place, None if it lies elsewhere."""
    schemes = [OBJECT_STORES.get(scheme_of(place.uri), scheme_of(place.uri)) for place in (source, lake)]
    if schemes[0] != schemes[1]:
        return None
    if schemes[0] == "file":
        root, path = os.path.realpath(source.root), os.path.realpath(lake.root)
    else:
        if address_of(source) != address_of(lake):
            return None
        root, path = source.root, lake.root
    if path == root:
        return ""
    return path.removeprefix(f"{root.rstrip('/')}/") if path.startswith(f"{root.rstrip('/')}/") else None


def address_of(place: Storage) -> Mapping[str, str]:
    """What tells one store from another where bucket names are equal: endpoint and account."""
    options = lance_options(place.uri, {k: v for k, v in place.options.items() if not v.startswith(("env:", "file:"))})
    return {
        name.lower().removeprefix("aws_").removesuffix("_url"): value.rstrip("/")
        for name, value in options.items()
        if "endpoint" in name.lower() or "account_name" in name.lower()
    }
