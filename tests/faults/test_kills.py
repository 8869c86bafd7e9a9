"""SIGKILL of the driver, of a model's actor, of a reading worker: the table is the one that a clean run makes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparison import check_identical, check_settled, take_snapshot, unfinished
from job_maker import run
from moments import DEDUPLICATION, EARLY, LATE, MOMENTS, STREAM
from processes import ACTOR, READER, WRITER, Driver, Workers, find_workers, kill_all, wait_for_workers
from worlds import EMBED, World, Worlds, column_run, deduplicating_run, first_run, pruning_run, rebuilding_run

from pipelines.job.jobfile import parse_job
from pipelines.progress import EMBEDDING, LOADING, Event
from pipelines.run import run_job
from pipelines.state.ledger import read_runs

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

AFTER_THE_END = {"after-ledger", "clearing", "cleared"}  # what is run again then is another run
BEYOND_ITS_SHARDS = {"shards-8", "shards-10"}  # an incremental run has seven
AFTER_ITS_SHARDS = DEDUPLICATION | LATE
PROMISE = "identical; finished shards are taken over"


def resume(job: dict[str, Any], folder: Path, as_process: bool = True, runner: str = "ray") -> None:
    """Run a job again that was killed; nothing that is finished is done again."""
    lake, name = parse_job(job).table.lake, job["table"]["name"]
    ended = {
        line["run_id"] for line in read_runs(lake, name, "state = 'published'")
    }  # only its folder is left to be cleared
    before = {run_id: shards for run_id, shards in unfinished(job).items() if run_id not in ended}
    report = Driver(folder, job, "--runner", runner, shared_ray=runner == "ray").succeed() if as_process else run(job)
    assert report["shards_taken_over"] >= max(before.values(), default=0)
    assert report["run_id"] in before or not before or not report["shards"], "another run was begun"


def check_killed(
    world: World, folder: Path, moment: str, quick: bool = True, runner: str = "ray", as_process: bool = False
) -> None:
    """Kill the driver at a moment, run the job again, here or `as_process`, compare.

    To be `quick`, a run that dies when its shards are finished has them from an earlier kill, and its Ray outlives it as a
    cluster does. Else Ray is lost with the driver where it is at work, as with a machine.
    """
    job = world.streamed_job(folder) if quick and moment in AFTER_ITS_SHARDS else world.new_job(folder)
    options = ("--moment", moment, "--seed", str(sum(moment.encode())), "--runner", runner)
    driver = Driver(folder, job, *options, shared_ray=runner == "ray" and (quick or moment not in STREAM))
    code = driver.wait()
    assert code == -9 or moment.startswith("any"), f"the moment never came:\n{driver.log}"
    if moment in EARLY:
        assert not unfinished(job)
    resume(job, folder, as_process, runner)
    assert world.clean is not None
    check_identical(take_snapshot(job), world.clean)
    check_settled(job)


@pytest.fixture
def whole(pytestconfig: pytest.Config) -> bool:
    """Whether the whole matrix runs; of its sample, this process resumes what is killed."""
    return bool(pytestconfig.getoption("--faults", default=False))


@pytest.mark.fault("driver killed, first run", PROMISE, sample=1)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_first_run_is_killed(worlds: Worlds, tmp_path: Path, moment: str, whole: bool) -> None:
    check_killed(worlds.get(first_run), tmp_path, moment, quick=False, as_process=whole)


@pytest.mark.fault("driver killed, first run without Ray", PROMISE, sample=1)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_first_run_without_ray_is_killed(worlds: Worlds, tmp_path: Path, moment: str, whole: bool) -> None:
    check_killed(worlds.get(first_run), tmp_path, moment, quick=False, runner="inline", as_process=whole)


@pytest.mark.fault("driver killed, incremental run with prune", PROMISE)
@pytest.mark.parametrize("moment", [moment for moment in MOMENTS if moment not in BEYOND_ITS_SHARDS])
def test_a_second_run_is_killed(worlds: Worlds, tmp_path: Path, moment: str) -> None:
    check_killed(worlds.get(pruning_run), tmp_path, moment)


@pytest.mark.fault("driver killed, column added", PROMISE)
@pytest.mark.parametrize("moment", ["table-prepared", "manifest", "shards-5", "fragment", *LATE])
def test_a_run_that_adds_a_column_is_killed(worlds: Worlds, tmp_path: Path, moment: str) -> None:
    check_killed(worlds.get(column_run), tmp_path, moment)


@pytest.mark.fault("driver killed, rebuild", PROMISE)
@pytest.mark.parametrize("moment", ["manifest", "shards-5", *sorted(set(LATE) - AFTER_THE_END)])
def test_a_rebuild_is_killed(worlds: Worlds, tmp_path: Path, moment: str) -> None:
    check_killed(worlds.get(rebuilding_run), tmp_path, moment)


@pytest.mark.fault("driver killed, run that deduplicates", PROMISE)
@pytest.mark.parametrize("moment", ["shards-5", "counted", *AFTER_ITS_SHARDS])
def test_a_run_that_deduplicates_is_killed(worlds: Worlds, tmp_path: Path, moment: str) -> None:
    world = worlds.get(deduplicating_run)
    check_killed(world, tmp_path, moment)
    assert world.clean is not None and world.clean.published[-1]["h"]["filtered"] > 0, "nothing was dropped"


@pytest.mark.fault("driver killed, then killed again as it resumes", PROMISE)
@pytest.mark.parametrize(
    "moments",
    [
        ("manifest", "shards-1", "shards-3"),
        ("shards-3", "counted", "before-commit"),
        ("shards-5", "in-commit", "rejects-half"),
        ("fragment", "fragment", "after-commit"),
        ("after-commit", "before-tag", "before-ledger"),
        ("before-ledger", "clearing", "listing"),
    ],
    ids="+".join,
)
def test_one_run_is_killed_again_and_again(worlds: Worlds, tmp_path: Path, moments: tuple[str, ...]) -> None:
    world = worlds.get(pruning_run)
    job = world.new_job(tmp_path)
    for number, moment in enumerate(moments):
        options = ("--moment", moment, "--seed", str(number))
        assert Driver(tmp_path, job, *options, shared_ray=True).wait() in (-9, 0)
    resume(job, tmp_path, as_process=False)
    assert world.clean is not None
    check_identical(take_snapshot(job), world.clean)
    check_settled(job)


# Of the note that an attempt leaves: whether it is the moment to kill it. Each attempt is more careful than the one before.
ATTEMPTS: tuple[Callable[[dict[str, Any]], bool], ...] = (
    lambda note: True,
    lambda note: len(note.get("working_on", ())) > 1,
    lambda note: (
        len(note.get("working_on", ())) > 1
    ),  # what the last driver died with is taken for innocent: all together again
)


def notes_of(folder: Path) -> list[dict[str, Any]]:
    """What attempts at embedding have noted."""
    found = []
    for path in folder.glob("lake/_latentlake/t/*/attempts/0*-h.json"):
        try:
            found.append(json.loads(path.read_text()))
        except (FileNotFoundError, ValueError):
            continue
    return found


@pytest.mark.fault("driver killed three times in one shard", "identical: no row is taken for one that kills")
def test_a_shard_is_killed_with_its_driver_each_time(worlds: Worlds, tmp_path: Path) -> None:
    world = worlds.get(first_run)
    job = world.new_job(tmp_path)
    slow = {**job, "embed": [{**EMBED, "delay_ms": 40}]}
    for is_due in ATTEMPTS:
        driver = Driver(tmp_path, slow)
        actors = wait_for_workers(ACTOR, driver.processes)
        while driver.process.poll() is None and not any(map(is_due, notes_of(tmp_path))):
            time.sleep(0.005)
        assert driver.process.poll() is None, f"the attempt was not as careful as expected:\n{driver.log}"
        kill_all(actors)  # the machine is lost, so they end at once
        driver.kill()
    resume(job, tmp_path, as_process=False)
    assert world.clean is not None
    check_identical(take_snapshot(job), world.clean)


class Killer:
    """Kills Ray workers of this process's Ray, by their title, as soon as so many shards are finished."""

    def __init__(self, title: str, moments: tuple[int, ...]) -> None:
        self.title, self.moments = title, moments
        self.finished = -1
        self.killed = 0
        self.ended = threading.Event()

    def progress(self, event: Event) -> None:
        """The models are loaded, then shard after shard is finished."""
        self.finished += event.phase in (LOADING, EMBEDDING)

    def watch(self) -> None:
        """Kill one worker for each moment, then end."""
        workers = Workers()
        for moment in self.moments:
            while self.finished < moment and not self.ended.is_set():
                time.sleep(0.01)
            while not self.ended.is_set():
                if found := find_workers(self.title, workers):
                    kill_all(found[:1])
                    self.killed += 1
                    break
                time.sleep(0.005)


@pytest.mark.fault("SIGKILL of a Ray worker, mid-stream", "the run continues by itself; identical", sample=1)
@pytest.mark.parametrize("moments", [(0,), (1,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("title", [ACTOR, READER, WRITER], ids=["actor", "reader", "writer"])
def test_a_worker_is_killed(worlds: Worlds, tmp_path: Path, title: str, moments: tuple[int, ...]) -> None:
    world = worlds.get(pruning_run)
    job = world.new_job(tmp_path)
    killer = Killer(title, moments)
    thread = threading.Thread(target=killer.watch, daemon=True)
    thread.start()
    report = run_job(parse_job({**job, "embed": [{**EMBED, "delay_ms": 15}]}), progress=killer.progress)
    killer.ended.set()
    thread.join()
    assert killer.killed, "no worker was there to be killed"
    assert (report["state"], report["shards_taken_over"]) == ("published", 0)
    assert world.clean is not None
    check_identical(take_snapshot(job), world.clean)
    check_settled(job)
