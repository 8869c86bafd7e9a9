"""Several writers at once: the table is one that they would have made one after the other, or they end with 4."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import lance
import psutil
import pyarrow as pa
import pytest
from comparison import check_identical, check_rows, check_settled, check_snapshot, lake_of, take_snapshot, unfinished
from job_maker import run
from moments import UPKEEP
from processes import Driver
from worlds import EMBED, World, Worlds, pruning_run, second_run

from operators.errors import SchemaMismatch, WriterConflict
from pipelines.progress import EMBEDDING, LOADING
from pipelines.state.ledger import read_runs

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

OTHER = {**EMBED, "column": "g", "dim": 8}
# Sections of the jobs that run at once. Their names tell in what order they came through.
GROUPS: dict[str, list[dict[str, Any]]] = {
    "same": [{}, {}],
    "other column": [{}, {"embed": [EMBED, OTHER]}],
    "rebuild": [{}, {"table": {"mode": "rebuild"}}],
    "four": [{}, {"embed": [EMBED, OTHER]}, {"table": {"mode": "rebuild"}}, {"table": {"prune": True}}],
}
FOREIGN_ROWS = 7
TTL_S = 12.0


def at_storage(job: dict[str, Any], storage: str, endpoint: str, folder: Path) -> dict[str, Any]:
    """The job on local disk, or with its lake in an object store."""
    if storage == "local":
        return job
    client = boto3.client("s3", endpoint_url=endpoint)
    prefix = f"{folder.parent.name}-{folder.name}"
    for path in (folder / "lake").rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "lake", f"{prefix}/{path.relative_to(folder / 'lake')}")
    return {
        **job,
        "table": job["table"] | {"uri": f"s3://lake/{prefix}", "storage_options": {"aws_endpoint": endpoint}},
    }


def replayed(world: World, folder: Path, group: list[dict[str, Any]], names: list[str]) -> pa.Table:
    """Rows after the jobs of a group of these names have run one after the other."""
    for number, name in enumerate(names):
        sections = group[int(name)]
        run((world.job if number else world.new_job)(folder, **sections))
    return take_snapshot(world.job(folder)).rows


@pytest.mark.fault("2 and 4 writers at once", "one after the other, or exit 4 naming the holder; no id twice")
@pytest.mark.parametrize("wait", [False, True], ids=["refused", "waiting"])
@pytest.mark.parametrize("storage", ["local", "s3"])
@pytest.mark.parametrize("kind", GROUPS)
def test_writers_at_once(worlds: Worlds, tmp_path: Path, s3_endpoint: str, kind: str, storage: str, wait: bool) -> None:
    world, group = worlds.get(second_run), GROUPS[kind]
    world.new_job(tmp_path / "at-once")
    jobs = [
        at_storage(
            world.job(tmp_path / "at-once", **sections) | {"name": str(number)},
            storage,
            s3_endpoint,
            tmp_path / "at-once",
        )
        for number, sections in enumerate(group)
    ]
    begun = {line["run_id"] for line in read_runs(lake_of(jobs[0]), "t")}
    drivers = [Driver(tmp_path, job, *(["--wait"] if wait else []), shared_ray=True) for job in jobs]
    codes = [driver.wait(400) for driver in drivers]
    assert set(codes) <= ({0} if wait else {0, 4}) and 0 in codes, [driver.log for driver in drivers]
    for code, driver in zip(codes, drivers, strict=True):
        assert code == 0 or "WriterConflict: the table is being written by job '" in driver.log, driver.log
    lines = [line for line in read_runs(lake_of(jobs[0]), "t") if line["run_id"] not in begun]
    order = [line["job"] for line in sorted(lines, key=lambda line: line["finished_at"])]
    assert sorted(order) == [str(number) for number, code in enumerate(codes) if code == 0]
    found = take_snapshot(jobs[0])
    check_snapshot(found)
    check_rows(found.rows, replayed(world, tmp_path / "replay", group, order))
    assert not unfinished(jobs[0])


def append(table: lance.LanceDataset, ids: list[str]) -> None:
    """Append rows as somebody who knows nothing of us would."""
    rows = table.to_table(limit=len(ids))
    for name in ("id", "object_id"):
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), pa.array(ids))
    lance.write_dataset(rows, table.uri, mode="append")


STRANGERS: dict[str, Callable[[lance.LanceDataset], None]] = {
    "appends": lambda table: append(table, [f"foreign-{n}" for n in range(FOREIGN_ROWS)]),
    "appends ours": lambda table: append(table, [f"{n:04}.txt" for n in range(320, 320 + FOREIGN_ROWS)]),
    "deletes": lambda table: table.delete("object_id >= '0220.txt' AND object_id < '0230.txt'"),
    "deletes ours": lambda table: table.delete("object_id < '0010.txt'"),
    "compacts": lambda table: table.optimize.compact_files(),
    "indexes": lambda table: table.create_scalar_index("object_id", "BTREE"),
    "adds a column": lambda table: table.add_columns({"foreign": "1"}),
    "drops a column": lambda table: table.drop_columns(["h_tokens"]),
}


class Stranger:
    """Writes to a table without its lease, once, when it is called."""

    def __init__(self, job: dict[str, Any], kind: str) -> None:
        self.uri, self.kind, self.done = f"{job['table']['uri']}/t.lance", kind, False

    def write(self) -> None:
        if not self.done:
            self.done = True
            STRANGERS[self.kind](lance.dataset(self.uri))


@pytest.mark.fault("a writer without the lease", "repaired, or exit 4; no id twice, no foreign row lost", sample=1)
@pytest.mark.parametrize("moment", ["after the plan", "before the commit"])
@pytest.mark.parametrize("mode", ["incremental", "rebuild"])
@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_writes(
    worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mode: str, moment: str
) -> None:
    world = worlds.get(pruning_run)
    job = world.new_job(tmp_path, table={"prune": True, "mode": mode})
    stranger = Stranger(job, kind)
    before = take_snapshot(job)
    with monkeypatch.context() as patches:
        if moment == "before the commit":
            original = lance.LanceDataset.commit

            def commit(*args: Any, **options: Any) -> Any:
                stranger.write()
                return original(*args, **options)

            patches.setattr(lance.LanceDataset, "commit", staticmethod(commit))
        progress = (
            (lambda event: event.phase in (LOADING, EMBEDDING) and stranger.write())
            if moment == "after the plan"
            else None
        )
        try:
            run(job, progress=progress)
        except WriterConflict:
            assert take_snapshot(job).tags == before.tags
            assert take_snapshot(job).rows.equals(before.rows)
    assert stranger.done
    if (kind, mode) == ("adds a column", "incremental"):  # one that no row may lack
        with pytest.raises(SchemaMismatch, match="'foreign' of table 't' may not be null"):
            run(job)
        lance.dataset(stranger.uri).drop_columns(["foreign"])
    run(job)  # nothing to do, or the conflict is over
    found = take_snapshot(job)
    check_snapshot(found)
    foreign = [name.startswith("foreign-") for name in found.rows["id"].to_pylist()]
    if mode == "incremental" and kind == "appends":
        assert sum(foreign) in (0, FOREIGN_ROWS)
    ours = found.rows.filter(pa.array([not is_foreign for is_foreign in foreign]))
    assert world.clean is not None
    check_rows(ours.select(world.clean.rows.schema.names), world.clean.rows)


@pytest.mark.fault(
    "a writer that stalls beyond its lease", "the other finishes; the first commits nothing and ends with 4"
)
@pytest.mark.parametrize(
    "moment", ["shards-3", "counted", "before-commit", "after-commit", "before-tag", "in-tag", "before-ledger"]
)
def test_a_writer_stalls(worlds: Worlds, tmp_path: Path, moment: str) -> None:
    world = worlds.get(pruning_run)
    job = world.new_job(tmp_path)
    first = Driver(tmp_path, job, "--moment", moment, "--stall", "--ttl", str(TTL_S))
    wait_until_stopped(first)
    Driver(tmp_path, job, "--ttl", str(TTL_S), "--wait", shared_ray=True).succeed()
    assert world.clean is not None
    check_identical(take_snapshot(job), world.clean)
    first.process.send_signal(signal.SIGCONT)
    assert first.wait() == 4 or moment == "before-ledger", first.log
    check_identical(take_snapshot(job), world.clean)
    check_settled(job)


@pytest.mark.fault(
    "a writer that stalls as it moves the tag, and wakes up after a later version", "readers keep the later version"
)
def test_a_writer_stalls_as_it_moves_the_tag(worlds: Worlds, tmp_path: Path) -> None:
    world = worlds.get(pruning_run)
    job = world.new_job(tmp_path)
    first = Driver(tmp_path, job, "--moment", "in-tag", "--stall", "--ttl", str(TTL_S))
    wait_until_stopped(first)
    Driver(tmp_path, job, "--ttl", str(TTL_S), "--wait", shared_ray=True).succeed()
    later = {**job, "embed": [*job["embed"], OTHER]}
    version = Driver(tmp_path, later, shared_ray=True).succeed()["version"]
    assert take_snapshot(job).tags == {"prod": version}
    first.process.send_signal(signal.SIGCONT)
    assert first.wait() == 4, first.log
    assert "it is put right" in first.log
    assert take_snapshot(job).tags == {"prod": version}
    check_settled(later)


def wait_until_stopped(driver: Driver) -> None:
    """Wait until a driver has stalled."""
    while driver.process.poll() is None and psutil.Process(driver.process.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.05)
    assert driver.process.poll() is None, driver.log


@pytest.mark.fault("a job and `maintain` at once", "one after the other; identical")
@pytest.mark.parametrize("first", ["job", "maintain"])
def test_maintaining_beside_a_run(worlds: Worlds, tmp_path: Path, first: str) -> None:
    world = worlds.get(pruning_run)
    job = world.new_job(tmp_path)
    options = {"job": ("--wait",), "maintain": ("--wait", "--maintain")}
    order = [first, *(name for name in options if name != first)]
    drivers = [Driver(tmp_path, job, *options[name], shared_ray=True) for name in order]
    for driver in drivers:
        driver.succeed()
    assert world.clean is not None
    found = take_snapshot(job)
    check_snapshot(found)
    check_rows(found.rows, world.clean.rows)
    assert (found.rejects, set(found.tags)) == (world.clean.rejects, set(world.clean.tags))
    check_settled(job)


@pytest.mark.fault("`maintain` between a kill and the next run", "nothing that the run needs is removed; identical")
@pytest.mark.parametrize("moment", ["manifest", "shards-5", "before-commit", "after-commit", "before-tag"])
def test_maintaining_what_can_still_resume(worlds: Worlds, tmp_path: Path, moment: str) -> None:
    world = worlds.get(pruning_run)
    job = world.new_job(tmp_path)
    assert Driver(tmp_path, job, "--moment", moment, shared_ray=True).wait() == -9
    before = unfinished(job)
    Driver(tmp_path, job, "--maintain").succeed()
    assert unfinished(job) == before
    report = Driver(tmp_path, job, shared_ray=True).succeed()
    assert report["shards_taken_over"] >= max(before.values(), default=0)
    assert world.clean is not None
    check_identical(take_snapshot(job), world.clean)
    check_settled(job)


@pytest.mark.fault("`maintain` killed", "the table is what it was; the next run, and the next `maintain`, go on")
@pytest.mark.parametrize("moment", UPKEEP)
def test_maintaining_is_killed(worlds: Worlds, tmp_path: Path, moment: str) -> None:
    world = worlds.get(pruning_run)
    shutil.copytree(world.folder / "clean" / "lake", tmp_path / "lake")
    job = world.job(tmp_path)
    assert Driver(tmp_path, job, "--maintain", "--moment", moment).wait() == -9
    assert world.clean is not None
    check_rows(take_snapshot(job).rows, world.clean.rows)
    run(job)
    check_settled(job)
    Driver(tmp_path, job, "--maintain").succeed()
    found = take_snapshot(job)
    check_rows(found.rows, world.clean.rows)
    assert found.rejects == world.clean.rejects
    check_settled(job)
