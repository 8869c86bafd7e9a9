"""The disk at the table's location is full, or read-only: a clear error, and the earlier version intact."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comparison import check_rows, check_settled, check_snapshot, take_snapshot
from job_maker import run, run_job, write_texts
from worlds import EMBED, World, texts_of

from operators.errors import LatentLakeError
from pipelines.job.jobfile import parse_job
from pipelines.progress import EMBEDDING, Event

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

DISK_MB = 24
FULL = r"No space left|disk is full|os error 28|Errno 28"
READ_ONLY = r"Read-only file system|read-only|os error 30|Errno 30"
BIG = {"embed": [{**EMBED, "dim": 2048}]}  # 300 rows are 2.4 MB


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Mounts something at `tmp_path/lake`; a test is skipped where that is not allowed."""
    (tmp_path / "lake").mkdir()
    mounts = 0

    def mount(*arguments: str) -> None:
        nonlocal mounts
        done = subprocess.run(["mount", *arguments, str(tmp_path / "lake")], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mount {' '.join(arguments)} is not allowed here: {done.stderr.strip()}")
        mounts += not any("remount" in argument for argument in arguments)

    yield mount
    for _ in range(mounts):
        subprocess.run(["umount", "-l", str(tmp_path / "lake")], check=True)


def fill(folder: Path, leave_bytes: int) -> Path:
    """Fill a disk but for a few bytes; the file that does."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        except OSError:
            pass
    with filler.open("r+b") as file:
        file.truncate(max(0, filler.stat().st_size - leave_bytes))
    return filler


def worlds_of(folder: Path) -> tuple[World, World]:
    """The same source, writing to the disk, and writing elsewhere."""
    source = write_texts(folder / "in", texts_of(range(100)))
    return World(folder, source, BIG), World(folder / "clean", source, BIG)


def check_failed(job: dict[str, Any], reason: str, progress: Any = None) -> None:
    """A run fails, says why, and leaves readers what they had."""
    before = take_snapshot(job)
    with pytest.raises((LatentLakeError, OSError), match=reason) as caught:
        run_job(parse_job(job), progress=progress, runner="ray")
    print(f"{type(caught.value).__name__}: {caught.value}")
    after = take_snapshot(job)
    assert (after.tags, after.version) == (before.tags, before.version)
    assert after.rows.equals(before.rows)


def check_repaired(world: World, clean: World, folder: Path) -> None:
    """The job finishes, and makes what a clean run makes."""
    run_job(parse_job(world.job(folder)), wait=True)  # a lease that could not be given back runs out
    run(clean.job(folder / "clean"))
    found, wanted = take_snapshot(world.job(folder)), take_snapshot(clean.job(folder / "clean"))
    check_snapshot(found)
    check_rows(found.rows, wanted.rows)
    assert found.rejects == wanted.rejects
    check_settled(world.job(folder))


@pytest.mark.fault(
    "disk full at the table", "an error that says so; the earlier version readable; the next run finishes"
)
@pytest.mark.parametrize("moment", ["before the run", "while listing", "mid-stream", "before the commit"])
def test_the_disk_is_full(tmp_path: Path, mounted: Callable[..., None], moment: str) -> None:
    mounted("-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs")
    world, clean = worlds_of(tmp_path)
    job = world.job(tmp_path)
    run(job)
    write_texts(tmp_path / "in", texts_of(range(50, 400), "changed"))
    lake = tmp_path / "lake"

    def progress(event: Event) -> None:
        if moment == "before the commit" and event.phase == EMBEDDING and event.done == event.total:
            fill(lake, 0)

    leave = {"before the run": 0, "while listing": 16 << 10, "mid-stream": 1200 << 10}
    if moment in leave:
        fill(lake, leave[moment])
    check_failed(job, FULL, progress)
    (lake / "filler").unlink()
    check_repaired(world, clean, tmp_path)


@pytest.mark.fault("the table on a read-only disk", "an error that says so; readable; the next run finishes")
def test_the_disk_is_read_only(tmp_path: Path, mounted: Callable[..., None]) -> None:
    world, clean = worlds_of(tmp_path)
    job = world.job(tmp_path)
    run(job)
    write_texts(tmp_path / "in", texts_of(range(50, 200), "changed"))
    mounted("--bind", str(tmp_path / "lake"))
    mounted("-o", "remount,bind,ro")
    check_failed(job, READ_ONLY)
    mounted("-o", "remount,bind,rw")
    check_repaired(world, clean, tmp_path)
