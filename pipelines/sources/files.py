"""Objects that are files: a folder, a bucket, or a prefix of one, listed recursively."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from obstore.exceptions import BaseError
from pathspec import GitIgnoreSpec
from pydantic import Field

from latentlake.storage import OBJECT_STORES, Storage, scheme_of
from operators.batch import RowError
from operators.errors import SourceError
from pipelines.sources.base import LISTING_ROWS, KnownFile, Objects, SourceConfig, as_listing, in_groups

REMOTE_READS = 32  # requests under way at once from one reading task


class Source(SourceConfig):
    """Every file below `uri` that matches `include` and not `exclude` (globs as in .gitignore). Its id is its path."""

    uri_is_object: ClassVar[bool] = True

    kind: Literal["files"] = "files"
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)

    def list_objects(self, known: KnownFile) -> Iterator[pa.Table]:
        """Stream the listing; see `SourceConfig.list_objects`."""
        wanted = self._wanted()
        chosen = (found for found in walk_files(self.storage) if wanted(found.name))
        for group in in_groups(chosen, LISTING_ROWS):
            yield as_listing([found.entry() for found in group])

    def read_objects(self, entries: pa.Table, fields: list[pa.Field]) -> Objects:
        """Read whole files, several at once from a remote store."""
        errors, uris = entries["error"].to_pylist(), entries["uri"].to_pylist()
        storage = self.storage

        def read_one(uri: str, error: str | None) -> bytes | Exception:
            return RowError(error) if error else read_file(storage, uri)

        workers = 1 if scheme_of(self.uri) == "file" else REMOTE_READS
        with ThreadPoolExecutor(workers) as pool:
            contents = list(pool.map(read_one, uris, errors))
        return Objects(contents, pa.table({}))

    def _wanted(self) -> Callable[[str], bool]:
        include = GitIgnoreSpec.from_lines(self.include) if self.include else None
        exclude = GitIgnoreSpec.from_lines(self.exclude)
        return lambda name: (include is None or include.match_file(name)) and not exclude.match_file(name)


@dataclass(frozen=True)
class Found:
    """A file that a walk met: its name relative to the root, its URI, and what the listing knows of it."""

    name: str
    uri: str
    size: int | None
    version: str | None
    error: str | None = None

    def entry(self) -> dict[str, Any]:
        """The file as a row of a listing."""
        return {
            "object_id": self.name,
            "uri": self.uri,
            "version": self.version,
            "size": self.size,
            "error": self.error,
        }


def walk_files(storage: Storage) -> Iterator[Found]:
    """Every file below a place, streamed; folders are not files. Raises `SourceError` where a part cannot be listed."""
    scheme = scheme_of(storage.uri)
    walk = walk_local if scheme == "file" else walk_store if scheme in OBJECT_STORES else walk_fsspec
    try:
        yield from walk(storage)
    except (OSError, ValueError, BaseError) as failure:
        reason = (str(failure).splitlines() or [type(failure).__name__])[0]
        raise SourceError(
            f"cannot list '{storage.uri}': {reason}\n  Nothing was changed; mend it and run again."
        ) from failure


def walk_local(storage: Storage) -> Iterator[Found]:
    """Walk a local folder in the order of names. A dangling link is a file that cannot be read; links to folders are not
    followed."""
    root = Path(storage.root)
    if root.is_file():
        yield found_local(root.name, root)
        return
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        folders += [Path(e.path) for e in reversed(entries) if e.is_dir(follow_symlinks=False)]
        for entry in entries:
            if not os.path.isdir(entry.path):  # noqa: PTH112 (the others raise for a link to itself)
                yield found_local(os.path.relpath(entry.path, root), Path(entry.path))


def found_local(name: str, path: Path) -> Found:
    """What the disk says of one file."""
    shown = os.fsencode(name).decode("utf-8", "backslashreplace")
    if shown != name:
        return Found(
            shown, os.fsencode(path).decode("utf-8", "backslashreplace"), None, "bad-name", "the name is not UTF-8"
        )
    try:
        status = path.stat()
    except OSError as failure:
        return Found(name, str(path), None, f"error-{failure.errno}", f"cannot be read: {failure.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return Found(name, str(path), None, "irregular", "not a regular file")
    return Found(name, str(path), status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def walk_store(storage: Storage) -> Iterator[Found]:
    """Walk a prefix of an object store, page by page. A prefix that is an object is that object."""
    bucket, _, prefix = storage.root.partition("/")
    for page in storage.list_pages():
        for item in page:
            path = f"{bucket}/{item['path']}"
            if item["size"] or not is_folder_marker(storage, path):
                name = item["path"].removeprefix(f"{prefix}/" if prefix else "")
                if item["path"] == prefix:
                    name = prefix.rpartition("/")[2]
                version = item["e_tag"] or f"{item['size']}-{item['last_modified'].isoformat()}"
                yield Found(name, storage.uri_of(path), item["size"], version)


def is_folder_marker(storage: Storage, path: str) -> bool:
    """Whether an empty object is the marker `path/` that consoles write for a folder; listings leave its slash out."""
    try:
        storage.fs.cat_file(path)
    except FileNotFoundError:
        return True
    return False


def walk_fsspec(storage: Storage) -> Iterator[Found]:
    """Walk any other filesystem that fsspec knows, folder by folder."""
    root, fs = storage.root.lstrip("/"), storage.fs
    folders = (files.values() for _, _, files in fs.walk(storage.root, detail=True, on_error="raise"))
    for files in ([fs.info(root)],) if fs.isfile(root) else folders:
        for info in files:
            path = info["name"].lstrip("/")
            name = path.removeprefix(root).lstrip("/") or path.rpartition("/")[2]
            stamp = next(
                (str(info[key]) for key in ("etag", "ETag", "mtime", "LastModified", "created") if key in info), None
            )
            version = None if stamp is None else f"{info.get('size')}-{stamp}"
            yield Found(name, storage.uri_of(info["name"]), info.get("size"), version)


def read_file(storage: Storage, uri: str) -> bytes | Exception:
    """Content of a file below a place, or what went wrong."""
    try:
        content: bytes = storage.fs.cat_file(storage.path_of(uri))
    except (OSError, ValueError, BaseError) as failure:
        return failure
    return content
