"""What is sent to a cluster for a job: files as one zip, named by what it holds, as Ray keeps the packages of jobs.

Ray unpacks it on every node. Equal files make an equal package, which is sent once.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from pathspec import GitIgnoreSpec

from .errors import SpecError

LIMIT_MB = 100  # of a request's body to Ray's job server, in MiB
READ_LIMIT_MB = 10 * LIMIT_MB  # of the files: beyond it nobody waits to see what they are when compressed
MAX_FILES = 50_000
NEVER_SENT = frozenset({".git", ".hg", ".svn", "__pycache__", ".DS_Store"})
IGNORE_FILES = (".gitignore", ".rayignore")
MOMENT = (1980, 1, 1, 0, 0, 0)  # the time of every file in a package
SHOWN = 3  # folders that an error names
MOSTLY = 0.8  # of a folder, so that the one in it is named instead

Rules = tuple[
    tuple[str, GitIgnoreSpec], ...
]  # of the folders above and of this one: its path, "" or "a/b/", and its rules


@dataclass(frozen=True)
class Package:
    """A zip, and the address under which the cluster keeps it."""

    name: str
    content: bytes
    files: int

    @property
    def uri(self) -> str:
        """The address, as a runtime environment names it."""
        return f"gcs://{self.name}"


def list_files(folder: Path) -> dict[str, Path]:
    """The files below a folder, by their path in it, less those that a `.gitignore` or `.rayignore` in it leaves out.

    Folders of version control and Python's caches are left out too. Links are followed, unless they lead back to where they
    are. Raises `SpecError` if it is no folder, or holds more files than any job's.
    """
    if not folder.is_dir():
        raise SpecError(f"no folder '{folder}'.\n  Give the folder to send with --working-dir.")
    found: dict[str, Path] = {}
    for name, path in walk(folder, "", dict.fromkeys(IGNORE_FILES, ()), frozenset({os.path.realpath(folder)})):
        found[name] = path
        if len(found) > MAX_FILES:
            raise SpecError(f"'{folder}' holds more than {MAX_FILES:,} files.\n  {remedy(folder)}")
    return found


def walk(folder: Path, prefix: str, rules: Mapping[str, Rules], above: frozenset[str]) -> Iterator[tuple[str, Path]]:
    """Files below a folder; `above`: real paths of the folders that hold it, and its own."""
    rules = {kind: (*known, *read_rules(folder / kind, prefix)) for kind, known in rules.items()}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as failure:
        raise SpecError(f"cannot read the folder '{folder}': {failure.strerror}.\n  {remedy(folder)}") from failure
    for entry in entries:
        name, is_folder = prefix + entry.name, entry.is_dir()
        if entry.name in NEVER_SENT or any(is_ignored(name + "/" * is_folder, known) for known in rules.values()):
            continue
        if not is_folder:
            if entry.is_file():
                yield name, Path(entry.path)
        elif (real := os.path.realpath(entry.path)) not in above:
            yield from walk(Path(entry.path), f"{name}/", rules, above | {real})


def read_rules(path: Path, prefix: str) -> Rules:
    """The rules of an ignore file; none where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return ((prefix, GitIgnoreSpec.from_lines(lines)),)


def is_ignored(name: str, rules: Rules) -> bool:
    """Whether a path is left out; as in git, the last rule that matches decides, and a folder's own come last."""
    for prefix, spec in reversed(rules):
        if (decided := spec.check_file(name.removeprefix(prefix)).include) is not None:
            return decided
    return False


def pack(files: Mapping[str, Path | bytes], folder: Path) -> Package:
    """Files, or their contents, by their path in the package; `folder` is what an error calls them.

    Raises `SpecError` if they are too large for a job server, which names the largest of them, or if one cannot be read.
    """
    sizes = {name: len(file) if isinstance(file, bytes) else size_of(file) for name, file in files.items()}
    if sum(sizes.values()) > READ_LIMIT_MB * 2**20:
        raise too_large(sizes, folder)
    digest, buffer = hashlib.sha256(), io.BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as archive:
        for name in sorted(files):
            content, mode = read(files[name])
            digest.update(json.dumps([name, mode, hashlib.sha256(content).hexdigest()]).encode())
            entry = ZipInfo(name, MOMENT)
            entry.compress_type, entry.create_system, entry.external_attr = ZIP_DEFLATED, 3, (stat.S_IFREG | mode) << 16
            archive.writestr(entry, content)
            if buffer.tell() > LIMIT_MB * 2**20:
                raise too_large(sizes, folder)
    if buffer.tell() > LIMIT_MB * 2**20:
        raise too_large(sizes, folder)
    return Package(f"_ray_pkg_{digest.hexdigest()[:40]}.zip", buffer.getvalue(), len(files))


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where that cannot be told, as reading it will tell why."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def read(file: Path | bytes) -> tuple[bytes, int]:
    """Content and permissions of a file. Raises `SpecError`."""
    if isinstance(file, bytes):
        return file, 0o644
    try:
        return file.read_bytes(), 0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644
    except OSError as failure:
        raise SpecError(
            f"cannot read '{file}': {failure.strerror}.\n  Make it readable, or leave it out with a .rayignore."
        ) from failure


def too_large(sizes: Mapping[str, int], folder: Path) -> SpecError:
    """The error of files that a job server does not take: the largest of them, and what to do."""
    told = ", ".join(f"{name} ({size / 2**20:,.0f} MiB)" for name, size in largest(sizes))
    return SpecError(
        f"'{folder}' is too large to be sent: a job server takes {LIMIT_MB} MiB, compressed, and this is "
        f"{sum(sizes.values()) / 2**20:,.0f} MiB of files.\n  The largest: {told}.\n  {remedy(folder)} "
        "Put models into an object store, and name them by their URI."
    )


def remedy(folder: Path) -> str:
    """What to do about a folder with too much in it."""
    return f"List what the job does not need in {folder}/.rayignore, or give another folder with --working-dir."


def largest(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The largest files and folders, none within another; a folder that is mostly one of its own is named by that one."""
    found = []
    for name, size in sorted(groups(sizes, "").items(), key=lambda pair: -pair[1])[:SHOWN]:
        while name.endswith("/"):
            inner, most = max(groups(sizes, name).items(), key=lambda pair: pair[1])
            if most < MOSTLY * size:
                break
            name, size = inner, most
        found.append((name, size))
    return found


def groups(sizes: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Bytes of each file and folder in a folder."""
    totals: dict[str, int] = {}
    for name, size in sizes.items():
        if name.startswith(prefix):
            first, below, _ = name.removeprefix(prefix).partition("/")
            totals[prefix + first + below] = totals.get(prefix + first + below, 0) + size
    return totals
