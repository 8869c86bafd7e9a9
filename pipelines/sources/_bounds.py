"""What a listing may speak of: files below the source's own address, at the version that it saw."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from latentlake.storage import OBJECT_STORES, Storage, scheme_of

OUTSIDE = "it is outside the source"
LINK_OUT = "a link out of the source"
UNLISTED = "cannot be listed"  # begins the error of a file that should hold objects, nobody knows which
GONE = "gone since it was listed"
CHANGED = "the file changed since it was listed; the next run reads it again"


def is_below(storage: Storage, uri: str) -> bool:
    """Whether a file lies below a place, or is the place itself; on local disk with all links followed."""
    if scheme_of(storage.uri) == "file":
        root, path = os.path.realpath(storage.root), os.path.realpath(storage.path_of(uri))
    else:
        root, path = storage.uri_of(storage.root).rstrip("/"), uri
        if {".", ".."} & set(uri.removeprefix(root).split("/")):
            return False
    return path == root or path.startswith(f"{root.rstrip('/')}/")


def version_of(storage: Storage, uri: str) -> str | None:
    """The version of a file now, as a listing would give it; None if it cannot be told.

    Raises `FileNotFoundError`, and what else the store raises.
    """
    scheme, path = scheme_of(storage.uri), storage.path_of(uri)
    if scheme == "file":
        return local_version(os.stat(path))  # noqa: PTH116 (a string is at hand)
    if scheme in OBJECT_STORES:
        return store_version(storage.head(path))
    return fsspec_version(fsspec_info(storage, path))


def fsspec_info(storage: Storage, path: str) -> Mapping[str, Any]:
    """What fsspec's walk says of one file, asked again; `info` may say it in other words. Raises `FileNotFoundError`."""
    fs = storage.fs
    fs.invalidate_cache()
    if path.strip("/") == storage.root.strip("/"):
        found: Mapping[str, Any] = fs.info(path)
        return found
    names = {info["name"].lstrip("/"): info for info in fs.ls(path.rpartition("/")[0], detail=True)}
    if path.lstrip("/") not in names:
        raise FileNotFoundError(path)
    return names[path.lstrip("/")]


def local_version(status: os.stat_result) -> str:
    """Version of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def store_version(item: Mapping[str, Any]) -> str:
    """Version of an object, from what `Storage.list_pages` or `Storage.head` says of it."""
    return str(item["e_tag"] or f"{item['size']}-{item['last_modified'].isoformat()}")


def fsspec_version(info: Mapping[str, Any]) -> str | None:
    """Version of a file of any other filesystem, from what fsspec says of it."""
    stamp = next((str(info[key]) for key in ("etag", "ETag", "mtime", "LastModified", "created") if key in info), None)
    return None if stamp is None else f"{info.get('size')}-{stamp}"
