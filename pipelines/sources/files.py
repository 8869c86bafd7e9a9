"""Objects that are files: a folder, a bucket, or a prefix of one, listed recursively."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import pyarrow as pa
from obstore.exceptions import BaseError
from pathspec import GitIgnoreSpec
from pydantic import Field

from latentlake.odd_keys import exact_key, is_odd_uri, is_refusal, list_odd, read_odd
from latentlake.retries import is_outage, refuses_keys
from latentlake.storage import OBJECT_STORES, Storage, scheme_of
from operators.batch import ReadError, RowError, describe
from operators.errors import SourceError, redact_url
from operators.pulse import beat
from pipelines.sources._bounds import GONE, LINK_OUT, OUTSIDE, fsspec_version, is_below, local_version, store_version
from pipelines.sources._names import LEFT_OUT, name_matcher
from pipelines.sources.base import LISTING_ROWS, KnownFile, Objects, SourceConfig, as_listing, in_groups

REMOTE_READS = 32  # requests under way at once from one reading task
READ_TRIES = 4  # of a file that changes while it is read
CLOCK_TICK_S = 0.02  # within which some systems give two changes of a file one time


class Source(SourceConfig):
    """Every file below `uri` that matches `include` and not `exclude` (globs as in .gitignore). Its id is its path."""

    uri_is_object: ClassVar[bool] = True

    kind: Literal["files"] = "files"
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)

    def list_objects(self, known: KnownFile) -> Iterator[pa.Table]:
        """Stream the listing; see `SourceConfig.list_objects`."""
        wanted, left_out = self._wanted(), name_matcher(self.leave_out)
        chosen = (
            replace(found, error=LEFT_OUT) if left_out(found.name) and found.uri != self._only else found
            for found in walk_files(self.storage, self.own)
            if wanted(found.name)
        )
        for group in in_groups(chosen, LISTING_ROWS):
            yield as_listing([found.entry() for found in group])

    def read_objects(self, entries: pa.Table, fields: list[pa.Field]) -> Objects:
        """Read whole files as they are now, several at once from a remote store. Raises `SourceError` if it is dead."""
        errors, uris = entries["error"].to_pylist(), entries["uri"].to_pylist()
        storage = self.storage

        dead: list[SourceError] = []  # once one reader finds the store dead, no other begins

        def read_one(uri: str, error: str | None, version: str | None) -> bytes | Exception:
            """The content, or why there is none."""
            if error:
                return RowError(error)
            if dead:
                return dead[0]
            beat()
            try:
                return read_file(storage, uri, version)
            except SourceError as failure:
                dead.append(failure)
                return failure

        workers = 1 if scheme_of(self.uri) == "file" else REMOTE_READS
        with ThreadPoolExecutor(workers) as pool:
            contents = list(pool.map(read_one, uris, errors, entries["version"].to_pylist()))
        if dead:
            raise dead[0]
        return Objects(contents, pa.table({}))

    @property
    def _only(self) -> str:
        """URI of the file that the job names itself, where it names one; its name is asked for."""
        return self.storage.uri_of(self.storage.root)

    def _wanted(self) -> Callable[[str], bool]:
        include = GitIgnoreSpec.from_lines(self.include) if self.include else None
        exclude = GitIgnoreSpec.from_lines(self.exclude) if self.exclude else None
        return lambda name: (
            (include is None or include.match_file(name)) and (exclude is None or not exclude.match_file(name))
        )


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


def walk_files(storage: Storage, own: str | None = None) -> Iterator[Found]:
    """Every file below a place, streamed, but for those whose name matches `own` (see `own_names`); folders are not files.

    Raises `SourceError` if a part cannot be listed.
    """
    scheme = scheme_of(storage.uri)
    mine = re.compile(own).match if own else None
    try:
        if scheme == "file":
            yield from walk_local(storage, mine)
            return
        for found in walk_store(storage) if scheme in OBJECT_STORES else walk_fsspec(storage):
            if mine is None or not mine(found.name):
                yield found
    except (OSError, ValueError, BaseError) as failure:
        reason = redact_url((str(failure).splitlines() or [type(failure).__name__])[0])
        raise SourceError(
            f"cannot list '{storage.uri}': {reason}\n  Nothing was changed; fix it and run again."
        ) from failure


def walk_local(storage: Storage, mine: Callable[[str], Any] | None = None) -> Iterator[Found]:
    """Walk a local folder in the order of names. Links to folders are not followed; a dangling link is a file that cannot
    be read, and so is a link that leads out of the folder. Whose name is `mine`, as a folder with a '/' behind, is passed by."""
    root = storage.root
    if os.path.isfile(root):  # noqa: PTH113 (strings throughout: pathlib takes most of the time of a large walk)
        yield found_local(root.rpartition("/")[2], root)
        return
    folders, prefix = [root], len(root.rstrip("/")) + 1
    while folders:
        with os.scandir(folders.pop()) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        if mine is not None:
            entries = [e for e in entries if not (mine(e.path[prefix:]) or mine(f"{e.path[prefix:]}/"))]
        folders += [e.path for e in reversed(entries) if e.is_dir(follow_symlinks=False)]
        for entry in entries:
            link = entry.is_symlink()
            if os.path.isdir(entry.path) if link else entry.is_dir():  # noqa: PTH112 (`is_dir` raises for a link to itself)
                continue
            found = found_local(entry.path[prefix:], entry.path)
            if link and found.error is None and not is_below(storage, entry.path):
                found = Found(found.name, found.uri, None, "link-out", LINK_OUT)
            yield found


def found_local(name: str, path: str) -> Found:
    """What the disk says of one file."""
    shown = name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")
    if shown != name:
        uri = os.fsencode(path).decode("utf-8", "backslashreplace")
        return Found(shown, uri, None, "bad-name", "the name is not UTF-8")
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as failure:
        return Found(name, path, None, f"error-{failure.errno}", f"cannot be read: {failure.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return Found(name, path, None, "irregular", "not a regular file")
    return Found(name, path, status.st_size, local_version(status))


def walk_store(storage: Storage) -> Iterator[Found]:
    """Walk a prefix of an object store, page by page. A prefix that is an object is that object.

    Where obstore meets a key that it cannot address, and the listing fails, S3 itself is asked for the rest.
    """
    last: str | None = None
    try:
        for page in storage.list_pages():
            for item in page:
                if item["size"] or not is_folder_marker(storage, f"{storage.root.partition('/')[0]}/{item['path']}"):
                    yield found_in_store(storage, item)
            last = page[-1]["path"]
    except (ValueError, BaseError) as failure:
        if not is_refusal(storage, failure):
            raise
        for page in list_odd(storage, None if last is None else exact_key(storage, last)):
            yield from (found_in_store(storage, item) for item in page)


def found_in_store(storage: Storage, item: Mapping[str, Any]) -> Found:
    """What the listing of an object store says of one object."""
    bucket, _, prefix = storage.root.partition("/")
    name = item["path"].removeprefix(f"{prefix}/" if prefix else "")
    if item["path"] == prefix:
        name = prefix.rpartition("/")[2]
    return Found(name, storage.uri_of(f"{bucket}/{item['path']}"), item["size"], store_version(item))


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
            name, uri = path.removeprefix(root).lstrip("/") or path.rpartition("/")[2], storage.uri_of(info["name"])
            if redact_url(uri) != uri:
                yield Found(redact_url(name), redact_url(uri), None, "secret", "the address holds a secret")
                continue
            yield Found(name, uri, info.get("size"), fsspec_version(info))


def read_file(storage: Storage, uri: str, version: str | None = None) -> bytes | Exception:
    """Content of a file below a place as it is now, whole and of one version; or what went wrong.

    Under an odd key only the `version` that was listed is read.
    """
    try:
        if is_odd_uri(storage, uri):
            return read_odd(storage, storage.path_of(uri).partition("/")[2], version)
        if not is_below(storage, uri):
            return ReadError(OUTSIDE)
        path = storage.path_of(uri)
        if scheme_of(storage.uri) == "file":
            return read_local(path)
        content: bytes = storage.fs.cat_file(path)
    except FileNotFoundError:
        return ReadError(GONE)
    except (OSError, ValueError, BaseError) as failure:
        check_alive(storage, failure)
        return failure
    return content


def check_alive(storage: Storage, failure: Exception) -> None:
    """Raise `SourceError` where a read failed because its store is dead, or takes our keys no more: it is no object's fault."""
    if scheme_of(storage.uri) not in OBJECT_STORES:
        return
    if refuses_keys(failure):
        raise SourceError(
            f"the store of '{storage.uri}' refuses the credentials: {describe(failure)}\n"
            "  Run again with others: the run resumes after its finished shards."
        ) from failure
    if is_outage(failure) and not storage.answers():
        raise SourceError(
            f"the store of '{storage.uri}' does not answer: {describe(failure)}\n"
            "  Run again when it does: the run resumes after its finished shards."
        ) from failure


def read_local(path: str) -> bytes:
    """Content of a local file. Raises `ReadError` if it changes whenever it is read, and `OSError`."""
    for _ in range(READ_TRIES):
        with open(path, "rb", opener=open_regular) as file:
            before = os.fstat(file.fileno())
            content = file.read()
            after = os.fstat(file.fileno())
        settled = not 0 <= time.time() - after.st_mtime < CLOCK_TICK_S
        if settled and local_version(before) == local_version(after) and len(content) == after.st_size:
            return content
        time.sleep(CLOCK_TICK_S)
    raise ReadError(f"it changed while it was read, {READ_TRIES} times")


def open_regular(path: str, flags: int) -> int:
    """Open a file without waiting: for a pipe that took its place since the listing nobody may ever write."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ReadError("not a regular file")
    return handle
