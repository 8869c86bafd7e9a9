"""Sources, the lakes that a run finds, and the lakes that a clean run leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from comparison import Snapshot, take_snapshot
from job_maker import make_job, run, write_texts
from processes import Driver

EMBED = {"column": "h", "family": "hashing", "dim": 16, "delay_ms": 2, "pool": {"min": 1, "max": 1}}
SHARD_ROWS = 32
INDEX = [{"column": "h", "type": "ivf_flat"}]
GATES = {"max_reject_rate": 0.2, "max_objects_removed": 0.5}


class World:
    """A source, and jobs on it. `folder/base` holds the lake that a run finds, where there is one."""

    def __init__(self, folder: Path, source: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """`changes` are sections of the job."""
        self.folder, self.source, self.changes = folder, source, changes
        self.clean: Snapshot | None = None

    def job(self, folder: Path, **changes: Any) -> dict[str, Any]:
        """The job, writing to the lake below `folder`."""
        sections = {"shard": {"max_objects": SHARD_ROWS}, "index": INDEX, "gates": GATES, "embed": [EMBED]}
        return make_job(folder, self.source, **(sections | dict(self.changes) | changes))

    def new_job(self, folder: Path, base: str = "base", **changes: Any) -> dict[str, Any]:
        """The job, on a copy of the lake that a run finds."""
        if (self.folder / base).exists():
            shutil.copytree(self.folder / base / "lake", folder / "lake")
        return self.job(folder, **changes)

    def streamed_job(self, folder: Path) -> dict[str, Any]:
        """The job, on a copy of the lake that a run leaves which died when all its shards were finished."""
        if not (self.folder / "streamed").exists():
            job = self.new_job(self.folder / "streamed")
            assert Driver(self.folder / "streamed", job, "--moment", "counted", "--runner", "inline").wait() == -9
        return self.new_job(folder, "streamed")


Maker = Callable[[Path], World]


class Worlds:
    """Worlds that have been made, each with its clean run."""

    def __init__(self, new_folder: Callable[[str], Path]) -> None:
        self._new_folder = new_folder
        self._made: dict[str, World] = {}

    def get(self, make: Maker) -> World:
        """The world that a function makes. The tests of a session share it."""
        if make.__name__ not in self._made:
            world = make(self._new_folder(make.__name__))
            job = world.new_job(world.folder / "clean")
            run(job)
            world.clean = take_snapshot(job)
            self._made[make.__name__] = world
        return self._made[make.__name__]


def texts_of(numbers: range, what: str = "") -> dict[str, str]:
    """Texts, of which every fiftieth is rejected, and some hold the same."""
    texts = {f"{n:04}.txt": f"text number {n % 290} about subject {n % 7} {what}" for n in numbers}
    return {name: "  \n" if int(name[:4]) % 50 == 49 else text for name, text in texts.items()}


def first_run(folder: Path) -> World:
    """There is no table yet."""
    return World(folder, write_texts(folder / "in", texts_of(range(300))), {})


def second_run(folder: Path, **changes: Any) -> World:
    """The table is there; objects have changed, come, gone, moved, been repaired and broken."""
    world = World(folder, write_texts(folder / "in", texts_of(range(300))), changes)
    run(World(folder, world.source, {}).job(folder / "base"))
    write_texts(
        folder / "in", texts_of(range(300, 350)) | texts_of(range(150), "changed") | {"0149.txt": "repaired now"}
    )
    write_texts(folder / "in", {"0200.txt": ""})
    for number in range(270, 290):
        (folder / "in" / f"{number:04}.txt").unlink()
    (folder / "in" / "0010.txt").rename(folder / "in" / "moved.txt")
    return world


def pruning_run(folder: Path) -> World:
    """A second run that deletes what is gone."""
    return second_run(folder, table={"prune": True})


def column_run(folder: Path) -> World:
    """A second run that adds a column."""
    return second_run(folder, embed=[EMBED, {**EMBED, "column": "g", "dim": 8}])


def rebuilding_run(folder: Path) -> World:
    """A second run that writes the whole table again."""
    return second_run(folder, table={"mode": "rebuild"}, embed=[{**EMBED, "dim": 24}])


def deduplicating_run(folder: Path) -> World:
    """A second run that drops what is nearly equal to other rows, of the table and its own."""
    return second_run(folder, deduplicate={"column": "h", "threshold": 0.1})
