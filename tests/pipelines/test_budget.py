"""Runs with a budget of hours or money: they stop in good order, and resume."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from job_maker import check_accounting, make_job, open_table, run, write_texts
from run_maker import lake_of

from clusters import ClusterProfile
from operators.errors import BudgetSpent, NotFound, SpecError
from pipelines.planning import budget as budgets
from pipelines.planning.budget import STOP, Budget, BudgetMeter
from pipelines.progress import EMBEDDING, Event
from pipelines.state.ledger import read_runs
from pipelines.state.manifest import finished_shards, unfinished_runs

PRICED = ClusterProfile(price_per_hour=1.0)


def make(folder: Path, texts: int = 40, delay_ms: float = 50) -> dict[str, Any]:
    source = write_texts(folder / "in", {f"{n:03}.txt": f"text number {n}" for n in range(texts)})
    hashing = {"column": "h", "family": "hashing", "dim": 8, "delay_ms": delay_ms, "pool": {"max": 1}}
    return make_job(folder, source, embed=[hashing], shard={"max_objects": 2})


@pytest.mark.parametrize("runner", ["inline", "ray"])
def test_a_run_that_costs_too_much_finishes_what_is_in_flight_and_resumes(
    runner: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    """The machines get dear as the first shard is finished."""
    if runner == "ray":
        request.getfixturevalue("ray_session")
    prices = {"now": 0.0}
    monkeypatch.setattr(budgets, "price_now", lambda profile, living: prices["now"])
    monkeypatch.setattr(budgets, "LOOK_S", 0.1)
    job = make(tmp_path)

    def get_dear(event: Event) -> None:
        if event.phase == EMBEDDING and event.done:
            prices["now"] = 1e6

    with pytest.raises(BudgetSpent, match=r"has cost the 5 of --max-cost.*shards are finished") as ended:
        run(job, runner=runner, profile=PRICED, budget=Budget(max_cost=5), progress=get_dear)
    assert ended.value.exit_code == 1 and ended.value.report is not None
    assert ended.value.report["state"] == "interrupted"
    (manifest,) = unfinished_runs(lake_of(job), "t")
    finished = len(finished_shards(manifest.place(lake_of(job))))
    assert 0 < finished < 20
    with pytest.raises(NotFound):
        open_table(job)
    report = run(job, runner=runner)
    check_accounting(report)
    assert (report["run_id"], report["shards_taken_over"]) == (manifest.run_id, finished)
    assert len(open_table(job).to_arrow()) == 40


def test_each_attempt_has_its_own_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So that the same command, again and again, comes to the end. Hours fly once an attempt has finished a shard."""
    job, attempts, finished = make(tmp_path, 24, 100), 0, [0]
    monkeypatch.setattr(budgets, "LOOK_S", 0.1)

    def fly(event: Event) -> None:
        if event.phase == EMBEDDING:
            monkeypatch.setattr(budgets, "HOUR_S", 1e-6)

    while finished[-1] < 12:
        attempts += 1
        monkeypatch.setattr(budgets, "HOUR_S", 3600.0)
        try:
            report = run(job, budget=Budget(max_hours=1), progress=fly)
        except BudgetSpent as failure:
            assert "has used the 1 hours of --max-hours" in str(failure)
            (manifest,) = unfinished_runs(lake_of(job), "t")
            finished.append(len(finished_shards(manifest.place(lake_of(job)))))
            assert finished[-2] < finished[-1] < 12
        else:
            finished.append(12)
    check_accounting(report)
    assert attempts > 1 and report["shards_taken_over"] == finished[-2]
    assert [line["state"] for line in read_runs(lake_of(job), "t")] == ["published"]


def test_a_budget_that_is_spent_by_the_last_shard_does_not_keep_the_run_from_being_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job = make(tmp_path, 4, 0)

    def late(event: Event) -> None:
        if event.phase == EMBEDDING and event.done == 4:
            time.sleep(0.5)

    monkeypatch.setattr(budgets, "LOOK_S", 0.1)
    monkeypatch.setattr(BudgetMeter, "_why_spent", lambda meter, now: "late" if done(job) else "")
    report = run(job, budget=Budget(max_hours=1), progress=late)
    assert (report["state"], report["tag"]) == ("published", "prod")


def done(job: dict[str, Any]) -> bool:
    runs = list(unfinished_runs(lake_of(job), "t"))
    return bool(runs) and len(finished_shards(runs[0].place(lake_of(job)))) == len(runs[0].shards)


def test_shards_in_flight_have_their_time_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One of 40 s, of which nothing is waited for."""
    monkeypatch.setattr(budgets, "LOOK_S", 0.1)
    monkeypatch.setattr(budgets, "GRACE_S", 0.5)
    job = make(tmp_path, 2, 20_000)
    began = time.monotonic()
    with pytest.raises(BudgetSpent, match="0 of 1 shards"):
        run(job, budget=Budget(max_hours=3 / 3600))
    assert time.monotonic() - began < 38


@pytest.mark.parametrize(
    ("budget", "profile", "told"),
    [
        (Budget(max_hours=0), ClusterProfile(), "--max-hours 0: give more than 0"),
        (Budget(max_cost=-1), PRICED, "--max-cost -1"),
        (Budget(max_cost=float("nan")), PRICED, "--max-cost nan"),
        (Budget(max_cost=1), ClusterProfile(), "--max-cost needs a price, .* none for machine"),
        (
            Budget(max_cost=1),
            ClusterProfile.model_validate(
                {
                    "kind": "ray",
                    "job_server": "http://h:8265",
                    "worker_groups": [{"name": "a", "price_per_hour": 1}, {"name": "b"}],
                }
            ),
            "none for group 'b'",
        ),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused_before_anything_starts(
    budget: Budget, profile: ClusterProfile, told: str, tmp_path: Path
):
    job = make(tmp_path, 1)
    with pytest.raises(SpecError, match=told):
        run(job, profile=profile, budget=budget)
    assert not (tmp_path / "lake").exists()


def test_a_meter_counts_the_machines_that_live(tmp_path: Path):
    meter = BudgetMeter(Budget(max_cost=2), ClusterProfile(price_per_hour=3600), time.time() - 1)
    meter.look()
    assert 1 <= meter.cost < 2 and meter.spent_at is None
    time.sleep(1)
    meter.look()
    assert meter.spent_at is not None and not meter.overdue
    assert str(meter.failure(3, 7)).startswith("the run has cost the 2 of --max-cost")


def test_what_an_earlier_attempt_left_stops_nobody(tmp_path: Path):
    job = make(tmp_path, 6, 0)
    with pytest.raises(BudgetSpent):
        run(job, budget=Budget(max_hours=1e-9))
    (manifest,) = list(unfinished_runs(lake_of(job), "t"))
    place = manifest.place(lake_of(job))
    assert STOP in place.list_names() and not finished_shards(place)
    assert run(job, budget=Budget(max_hours=1))["state"] == "published"
    assert STOP not in place.list_names()
