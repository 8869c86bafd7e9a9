"""A run on which nothing moves: it is noticed, planned again, and in the end given up so that it can go on later."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray
from job_maker import make_job, run_job, write_texts
from run_maker import Here

from clusters import Capacity, ClusterProfile, Node
from operators.errors import ClusterError
from pipelines.flow.runners import ray as embed
from pipelines.flow.runners import stall
from pipelines.flow.runners.stall import Overdue, Stalled, Watch, WatchCallback, at_work, watched
from pipelines.job.jobfile import parse_job
from pipelines.job.spec import JobSpec
from pipelines.planning.plan import Plan

# signs of life


class Signs:
    """In place of Ray's head: counts the signs."""

    def __init__(self) -> None:
        self.count = 0

    def beat(self) -> None:
        self.count += 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "BEAT_S", 0.01)


def wait_for(held: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not held():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.usefixtures("quick")
def test_a_task_gives_signs_while_it_works_and_then_no_more():
    signs = Signs()
    with at_work(signs):
        wait_for(lambda: signs.count > 3)
    time.sleep(0.1)
    count = signs.count
    time.sleep(0.2)
    assert signs.count == count


@pytest.mark.usefixtures("quick")
def test_a_task_that_gets_no_further_falls_silent():
    signs = Signs()
    with at_work(signs, limit_s=0.2) as further:
        for _ in range(10):
            time.sleep(0.05)
            further()
        assert signs.count > 20
        time.sleep(0.4)
        count = signs.count
        time.sleep(0.2)
        assert signs.count == count


class Stage:
    def __call__(self, block: pa.Table) -> pa.Table:
        return block.slice(1)


def test_a_watched_stage_keeps_its_name_and_result():
    work = watched(Stage(), nullcontext)
    assert work.__name__ == "Stage"
    assert work(pa.table({"a": [1, 2]})).to_pydict() == {"a": [2]}


# the watch


class Clock:
    """The time, and what the head tells: a new sign at each look, the same one once all have fallen silent, or nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.answers = True
        self.last_at: float | None = None  # of the last sign, where there will be no other
        self.pulse: Any = SimpleNamespace(sign=self.sign)
        monkeypatch.setattr(stall, "time", SimpleNamespace(monotonic=lambda: self.now))

    def sign(self) -> bytes | None:
        return str(self.last_at or self.now).encode() if self.answers else None

    def fall_silent(self) -> None:
        self.last_at = self.now

    def watch(self, is_overdue: Callable[[], bool] = lambda: False) -> Watch:
        return Watch(self.pulse, 10, is_overdue, shard_at=self.now, heard_at=self.now)

    def advance(self, watch: Watch, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.now += 1
            watch.look()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_who_is_at_work_is_not_disturbed(clock: Clock):
    watch = clock.watch()
    clock.advance(watch, 10_000)


def test_shards_that_finish_are_enough(clock: Clock):
    watch = clock.watch()
    clock.fall_silent()
    for _ in range(100):
        clock.advance(watch, 9)
        watch.shard_finished()


def test_a_ray_that_names_its_pools_otherwise_ends_no_run(clock: Clock, caplog: pytest.LogCaptureFixture):
    """It is told once, and the watch looks as before."""
    callback = WatchCallback(Watch(clock.pulse, 10, is_overdue=lambda: True))
    for _ in range(3):
        with pytest.raises(Overdue):
            callback.on_execution_step(SimpleNamespace(_shutdown=False))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not tell of its actors" in caplog.text


def test_silence_is_a_stall(clock: Clock):
    watch = clock.watch()
    clock.advance(watch, 60)
    clock.fall_silent()
    clock.advance(watch, 9)
    with pytest.raises(Stalled, match=r"no shard was finished for .* s, and no task was at work for 10 s"):
        clock.advance(watch, 2)


def test_a_head_that_does_not_answer_is_silent(clock: Clock):
    watch = clock.watch()
    clock.advance(watch, 60)
    clock.answers = False
    clock.advance(watch, 9)
    clock.answers = True  # again, in time
    clock.advance(watch, 60)
    clock.answers = False
    with pytest.raises(Stalled):
        clock.advance(watch, 11)


def test_shards_in_flight_that_are_overdue_are_not_waited_for(clock: Clock):
    overdue = [False]
    watch = clock.watch(lambda: overdue[0])
    clock.advance(watch, 5)
    overdue[0] = True
    with pytest.raises(Overdue):
        clock.advance(watch, 1)


def test_ray_data_copies_its_settings_but_not_the_watch():
    watch = Watch(None, 1, lambda: True)
    assert copy.deepcopy({"watch": watch})["watch"] is watch
    sent = pickle.loads(pickle.dumps(watch))
    assert (sent.stall_s, sent.is_overdue()) == (1, False)


def test_ray_data_still_has_what_the_watch_stands_on():
    """When this fails, Ray Data has changed: look for another way to be called at each step of an execution's loop."""
    settings = ray.data.DataContext.__dataclass_fields__
    assert {"custom_execution_callback_classes", "execution_no_progress_timeout_s"} <= set(settings)


# losses


def test_a_loss_is_the_clusters_fault_only_if_a_node_is_gone(monkeypatch: pytest.MonkeyPatch):
    before, after = Capacity((Node(2), Node(2))), Capacity((Node(2),))
    monkeypatch.setattr(embed, "LOSS_S", 0.1)
    monkeypatch.setattr(embed, "living_capacity", lambda: before)
    lost = ray.exceptions.ActorDiedError()
    assert not embed.is_clusters_fault(lost, before)
    assert not embed.is_clusters_fault(ValueError("a bug"), after)
    monkeypatch.setattr(embed, "living_capacity", lambda: after)
    assert embed.is_clusters_fault(lost, before)
    assert not embed.is_clusters_fault(ValueError("a bug"), before)
    assert embed.is_clusters_fault(Stalled("x"), after)


def test_a_cluster_that_replaces_its_nodes_is_planned_for_as_a_whole(monkeypatch: pytest.MonkeyPatch):
    living = Capacity((Node(0),))  # as while the first nodes of an autoscaled cluster start
    monkeypatch.setattr(embed, "living_capacity", lambda: living)
    groups = [{"name": "cpu", "cpus": 4, "memory_mb": 8000, "max": 2}]
    grows = {"kind": "kuberay", "image": "i:1", "worker_groups": groups}
    assert embed.capacity_after_loss(ClusterProfile.model_validate(grows)).cpus == 8
    stays = {"kind": "ray", "address": "h:1", "worker_groups": groups}
    assert embed.capacity_after_loss(ClusterProfile.model_validate(stays)) is living
    assert embed.capacity_after_loss(ClusterProfile(cpus=8)) is living


# whole runs


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, ...]]]:
    """How many shards each execution finishes before nothing moves, to be filled in; without Ray. Then: those it was given."""
    script: list[Any] = []

    def run_flow(plan: Plan, pools: Any, capacity: Any, version: int, shards: list[int], attempt: str) -> Any:
        finishes = script.pop(0)
        script.append(tuple(shards))
        yield from islice(Here().embed_shards(plan, version, shards, attempt), finishes)
        if finishes is not None:
            raise Stalled("no shard was finished for 9 s")

    monkeypatch.setattr(embed, "run_flow", run_flow)
    monkeypatch.setattr(embed, "living_capacity", lambda: Capacity((Node(2, 0, 8000),)))
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 0.1})
    monkeypatch.setattr(embed, "running_ray", lambda profile: nullcontext())
    monkeypatch.setattr(embed.RayRunner, "lives", lambda self, actors: {})
    return script


def five_shards(folder: Path, **pool: float) -> JobSpec:
    source = write_texts(folder / "in", {f"{n:02}.txt": f"text {n}" for n in range(20)})
    hashing = {"column": "h", "family": "hashing", "dim": 16, "pool": {"min": 1, "max": 1, **pool}}
    return parse_job(make_job(folder, source, embed=[hashing], shard={"max_objects": 4}))


PROFILE = ClusterProfile(cpus=2, gpus=0, memory_mb=8000, nodes=1, stall_s=20)


def test_a_run_continues_as_long_as_it_gets_further(
    tmp_path: Path, executions: list[Any], caplog: pytest.LogCaptureFixture
):
    executions += [0, 2, 0, 1, None]
    job = five_shards(tmp_path)
    report = run_job(job, PROFILE, runner="ray")
    assert (report["state"], report["columns"]["h"]["embedded"]) == ("published", 20)
    assert [len(shards) for shards in executions] == [5, 5, 3, 3, 2]
    assert "no shard was finished for 9 s. The nodes that live offer 1 x 2 CPUs" in caplog.text


def test_a_run_that_gets_no_further_twice_ends_and_can_resume(tmp_path: Path, executions: list[Any]):
    executions += [2, 0, 0]
    job = five_shards(tmp_path)
    with pytest.raises(ClusterError, match=r"nothing moved on the cluster, 2 times in a row") as failure:
        run_job(job, PROFILE, runner="ray")
    assert failure.value.exit_code == 1
    assert failure.value.report is not None and failure.value.report["state"] == "failed"
    executions[:] = [None]
    again = run_job(job, PROFILE, runner="ray")
    assert (again["state"], again["run_id"]) == ("published", failure.value.report["run_id"])
    assert again["shards_taken_over"] == 2


def test_a_model_that_no_node_can_hold_any_more_ends_the_run(
    tmp_path: Path, executions: list[Any], monkeypatch: pytest.MonkeyPatch
):
    executions += [2]
    monkeypatch.setattr(embed, "living_capacity", lambda: Capacity((Node(1, 0, 8000),)))
    with pytest.raises(ClusterError, match=r"On what is left, the pools hold 1.2 of 1 logical CPUs") as failure:
        run_job(five_shards(tmp_path, num_cpus=1.2), PROFILE, runner="ray")
    assert failure.value.exit_code == 1 and "What is finished is kept" in str(failure.value)
