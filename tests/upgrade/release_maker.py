"""Unpacks the lakes that `make_lake.py` has made at earlier releases."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from make_lake import SOURCE

import latentlake
from latentlake.storage import Storage, open_storage
from pipelines.job.spec import with_todays_keys

RELEASES = sorted(path.name.removesuffix(".tar.xz") for path in Path(__file__).parent.glob("*.tar.xz"))


@dataclass(frozen=True)
class Release:
    """A lake that a release made: its folder, and the jobs that it was made by, which now write to that folder."""

    lake: Path
    jobs: dict[str, dict[str, Any]]

    @property
    def storage(self) -> Storage:
        return open_storage(str(self.lake))

    def open(self, table: str) -> latentlake.Table:
        return latentlake.connect(self.lake).open(table)

    def run_folders(self, table: str) -> list[Path]:
        """Folders of the runs of a table that can be resumed, as their release sees it."""
        return sorted(path.parent for path in (self.lake / "_latentlake" / table).glob("*/run.json"))


def unpack(name: str, folder: Path) -> Release:
    """Unpack the lake of a release below `folder`, and its source where it has to lie."""
    with tarfile.open(Path(__file__).parent / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    place_source(folder / "source")
    jobs = json.loads((folder / "jobs.json").read_text(encoding="utf-8"))
    for job in jobs.values():
        job["table"]["uri"] = str(folder / "lake")
    return Release(folder / "lake", {name: with_todays_keys(job) for name, job in jobs.items()})


def place_source(source: Path) -> None:
    """Put the source at `SOURCE`, unless it is there already: several sessions of tests may run at once."""
    while not SOURCE.is_dir() or files_of(SOURCE) != files_of(source):
        draft = Path(tempfile.mkdtemp(prefix=f"{SOURCE.name}-", dir=SOURCE.parent))
        shutil.copytree(source, draft / "new")
        with suppress(OSError):  # another session was faster: look again
            if SOURCE.is_dir():
                SOURCE.rename(draft / "old")
            (draft / "new").rename(SOURCE)
        shutil.rmtree(draft)


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder."""
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {str(path.relative_to(folder)): (status.st_size, status.st_mtime_ns) for path, status in found.items()}
