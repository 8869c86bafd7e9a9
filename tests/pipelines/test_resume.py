"""Which run is resumed, and what it then does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from damage_maker import DAMAGE
from job_maker import HASHING, make_job, open_table, rows_of, write_texts
from job_maker import run as run_job
from run_maker import (
    cut_short,
    lake_of,
    manifest_of,
    no_successor,
    open_lance,
    plan_of,
    resolved,
    tally_of,
    work_folder,
)

from latentlake.storage import open_storage
from operators.errors import GateRefused
from pipelines.flow.columns import MERGED_FOLDER
from pipelines.flow.runners.inline import InlineRunner
from pipelines.planning.plan import resume_key
from pipelines.resume import clear_folder, discard
from pipelines.state.journal import ATTEMPTS_FOLDER, Journal
from pipelines.state.ledger import record_run
from pipelines.state.manifest import (
    MANIFEST,
    SHARDS_FOLDER,
    Retry,
    described_runs,
    unfinished_runs,
    write_manifest,
)
from pipelines.upkeep.rollback import roll_back

# which run is resumed


def key(job: dict[str, Any], retry: Retry | None = None) -> str:
    return resume_key(resolved(job), retry)


def base_job(tmp_path: Path) -> dict[str, Any]:
    steps = [{"op": "clean_text"}]
    return make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "x"}), preprocess=steps)


OTHER_RUN = {
    "source": {"source": {"include": ["*.txt"]}},
    "preprocess": {"preprocess": [{"op": "clean_text", "fix_encoding": False}]},
    "no preprocess": {"preprocess": []},
    "model": {"embed": [{**HASHING, "dim": 32}]},
    "dtype": {"embed": [{**HASHING, "dtype": "float16"}]},
    "a column": {"embed": [HASHING, {**HASHING, "column": "g"}]},
    "another column": {"embed": [{**HASHING, "column": "g"}]},
    "mode": {"table": {"mode": "rebuild"}},
    "prune": {"table": {"prune": True}},
    "table": {"table": {"name": "u"}},
}
SAME_RUN = {
    "pool": {"embed": [{**HASHING, "pool": {"min": 1, "max": 8, "num_cpus": 2}}]},
    "batches": {"embed": [{**HASHING, "batch_cost": 77}]},
    "delay": {"embed": [{**HASHING, "delay_ms": 1.0}]},
    "gates": {"gates": {"max_reject_rate": 0.5, "min_recall": 0.9}},
    "tag": {"publish": {"tag": "next"}},
    "index": {"index": [{"column": "h", "type": "ivf_flat"}]},
    "shard": {"shard": {"max_objects": 7}},
    "name": {"name": "renamed"},
    "table options": {"table": {"storage_options": {"aws_region": "x", "aws_access_key_id": "env:NAME"}}},
    "source options": {"source": {"storage_options": {"aws_region": "x"}}},
}


def changed(job: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The job with its mappings extended, and all else replaced."""
    merged = {name: {**job[name], **v} if isinstance(v, dict) and name in job else v for name, v in change.items()}
    return {**job, **merged}


@pytest.mark.parametrize("what", OTHER_RUN)
def test_another_run_is_not_resumed(tmp_path: Path, what: str):
    job = base_job(tmp_path)
    assert key(changed(job, OTHER_RUN[what])) != key(job)


@pytest.mark.parametrize("what", SAME_RUN)
def test_the_same_run_is_resumed(tmp_path: Path, what: str):
    job = base_job(tmp_path)
    assert key(changed(job, SAME_RUN[what])) == key(job)


def test_a_retry_is_a_run_of_its_own(tmp_path: Path):
    job = base_job(tmp_path)
    assert len({key(job), key(job, Retry(None)), key(job, Retry("decode")), key(job, Retry("read"))}) == 4
    assert key(job, Retry("decode")) == key(job, Retry("decode"))


def test_the_place_of_a_lake_is_no_part_of_the_key(tmp_path: Path):
    """The lake is where the manifest was found, and may be written in several ways."""
    job = base_job(tmp_path)
    assert key(changed(job, {"table": {"uri": f"file://{tmp_path}/lake"}})) == key(job)


# resuming


TEXTS = {f"{n}.txt": f"the text number {n}" for n in range(8)}


def sharded(tmp_path: Path, **sections: Any) -> dict[str, Any]:
    return make_job(tmp_path, write_texts(tmp_path / "in", TEXTS), shard={"max_objects": 3}, **sections)


def test_a_run_that_was_cut_short_is_resumed(tmp_path: Path):
    job = sharded(tmp_path)
    plan = cut_short(job, 2)
    write_texts(tmp_path / "in", {"later.txt": "not in the listing that holds"})
    report = run_job(job)
    assert (report["run_id"], report["shards"], report["shards_taken_over"]) == (plan.run_id, 3, 2)
    assert (report["counts"]["listed"], report["counts"]["embedded"], report["rows_written"]) == (8, 8, 8)
    assert list(unfinished_runs(lake_of(job), "t")) == []
    assert run_job(job)["counts"] == {
        "listed": 9, "embedded": 1, "reused": 0, "unchanged": 8, "filtered": 0, "rejected": 0, "removed": 0, "left_out": 0,
        "forgotten": 0,
    }  # fmt: skip


def test_a_run_that_died_after_its_last_shard_only_commits(tmp_path: Path):
    job = sharded(tmp_path)
    cut_short(job)
    report = run_job(job)
    assert (report["shards_taken_over"], report["state"], report["version"]) == (3, "published", 1)
    assert report["rows_per_s"] is None  # nothing was embedded by this attempt


def test_shards_whose_files_are_gone_are_done_again(tmp_path: Path):
    job = sharded(tmp_path)
    cut_short(job, 2)
    data = lake_of(job).child("t.lance", "data")
    data.remove(data.list_names()[0])
    report = run_job(job)
    assert (report["shards_taken_over"], report["rows_written"]) == (1, 8)


@pytest.mark.parametrize("damage", DAMAGE)
def test_shards_whose_record_cannot_be_read_are_done_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    job = sharded(tmp_path)
    plan = cut_short(job, 2)
    shards = plan.place.child(SHARDS_FOLDER)
    record = shards.fs.cat_file(shards.path("000000001.json"))
    assert json.loads(record)["format"] == 1
    shards.fs.pipe_file(shards.path("000000001.json"), DAMAGE[damage](record))
    report = run_job(job)
    assert (report["run_id"], report["shards_taken_over"], report["rows_written"]) == (plan.run_id, 1, 8)
    assert "shard 1: the record of the shard" in caplog.text and "The shard is done again" in caplog.text


def test_a_record_of_another_shard_is_not_taken(tmp_path: Path):
    job = sharded(tmp_path)
    shards = cut_short(job, 1).place.child(SHARDS_FOLDER)
    shards.put("000000001.json", shards.fs.cat_file(shards.path("000000000.json")))
    assert (run_job(job)["shards_taken_over"], len(rows_of(job))) == (1, 8)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_new_column_whose_record_cannot_be_read_is_merged_again(tmp_path: Path, damage: str):
    job = sharded(tmp_path)
    run_job(job)
    both = {**job, "embed": [HASHING, {**HASHING, "column": "g", "dim": 8}]}
    plan = cut_short(both)
    with tally_of(plan) as tally, InlineRunner(no_successor) as runner:
        runner.merge_columns(plan, open_lance(job).version, tally.patches)
    merged = plan.place.child(MERGED_FOLDER)
    for name in merged.list_names()[1:]:
        merged.fs.pipe_file(merged.path(name), DAMAGE[damage](merged.fs.cat_file(merged.path(name))))
    report = run_job(both)
    assert (report["run_id"], report["shards_taken_over"]) == (plan.run_id, 3)
    assert all(row["g"] is not None for row in rows_of(both).values())


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_note_that_cannot_be_read_says_nothing(tmp_path: Path, damage: str):
    job = sharded(tmp_path)
    plan = cut_short(job, 1)
    with Journal(plan.place, "000000001-read"):
        notes = plan.place.child(ATTEMPTS_FOLDER)
        note = notes.fs.cat_file(notes.path("000000001-read.json"))
    notes.put("000000001-read.json", DAMAGE[damage](note))
    assert (run_job(job)["shards_taken_over"], len(rows_of(job))) == (1, 8)


def test_a_fresh_run_discards_the_one_that_was_cut_short(tmp_path: Path):
    job = sharded(tmp_path)
    plan = cut_short(job, 2)
    report = run_job(job, fresh=True)
    assert report["run_id"] != plan.run_id and report["shards_taken_over"] == 0
    states = {run["run_id"]: run["state"] for run in described_runs(lake_of(job), "t", False)}
    assert states == {plan.run_id: "discarded", report["run_id"]: "published"}
    assert not plan.place.fs.exists(plan.place.root)


def test_a_run_whose_table_changed_since_is_discarded(tmp_path: Path):
    job = sharded(tmp_path)
    run_job(job)
    write_texts(tmp_path / "in", {"1.txt": "changed", "a.txt": "new", "b.txt": "new too"})
    killed = cut_short(job, 1)
    other = {**job, "embed": [HASHING, {**HASHING, "column": "g", "dim": 32}]}
    run_job(other)  # another job commits
    report = run_job(job)
    assert report["run_id"] != killed.run_id
    states = {run["run_id"]: run["state"] for run in described_runs(lake_of(job), "t", False)}
    assert states[killed.run_id] == "discarded"


def test_a_commit_that_readers_were_taken_back_from_is_not_published_by_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job = sharded(tmp_path)
    first = run_job(job)["version"]
    write_texts(tmp_path / "in", {"bad.txt": "found bad later"})
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.run.Run._tag", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # it ends after its commit, before the tag
            run_job(job)
    both = {**job, "embed": [HASHING, {**HASHING, "column": "g", "dim": 32}]}
    published = run_job(both)["version"]  # another job publishes what it left
    assert open_table(job).version == published
    roll_back(lake_of(job), "t")
    (tmp_path / "in" / "bad.txt").unlink()
    report = run_job(job)
    assert open_table(job).version == report["version"] == first
    assert "bad.txt" not in rows_of(job)


def test_a_run_that_a_gate_refused_is_not_resumed(tmp_path: Path):
    texts = {**TEXTS, "bad.txt": " "}
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts))
    with pytest.raises(GateRefused):
        run_job(job)
    assert list(unfinished_runs(lake_of(job), "t")) == []
    write_texts(tmp_path / "in", {"bad.txt": "repaired"})
    assert run_job(job)["counts"]["embedded"] == 9


def test_a_run_that_died_as_it_cleared_its_folder(tmp_path: Path):
    job = sharded(tmp_path)
    report = run_job(job)
    lake = lake_of(job)
    write_manifest(lake, replace(manifest_of(report["run_id"]), resume_key=key(job), version=1))
    assert run_job(job)["state"] == "unchanged"
    assert list(unfinished_runs(lake, "t")) == []
    assert work_folder(job).child(report["run_id"], "listing").list_names()  # the version's listing stays


# for people


def test_runs_are_described(tmp_path: Path):
    job = sharded(tmp_path)
    lake = lake_of(job)
    assert described_runs(lake, "t", False) == []
    report = run_job(job)
    write_texts(tmp_path / "in", {f"new{n}.txt": f"new {n}" for n in range(7)})
    plan = cut_short(job, 1)

    def described(running: bool = False) -> dict[str, dict[str, Any]]:
        return {run["run_id"]: without_time(run) for run in described_runs(lake, "t", running)}

    def without_time(run: dict[str, Any]) -> dict[str, Any]:
        assert datetime.fromisoformat(run["started_at"]).tzinfo is not None
        return {name: value for name, value in run.items() if name != "started_at"}

    assert described()[plan.run_id] == {
        "run_id": plan.run_id, "job": "job", "state": "killed, resumable", "listed": 15, "embedded": None, "rejected": None,
        "shards": "1/3", "base_version": 1, "version": None,
    }  # fmt: skip
    assert described()[report["run_id"]] == {
        "run_id": report["run_id"], "job": "job", "state": "published", "listed": 8, "embedded": 8, "rejected": 0,
        "shards": "3/3", "base_version": None, "version": 1,
    }  # fmt: skip
    assert described(running=True)[plan.run_id]["state"] == "running"
    record_run(
        lake,
        {
            "run_id": plan.run_id, "table": "t", "job": "job", "state": "interrupted", "started_at": datetime.now(UTC),
            "base_version": 1, "version": 1, "listing": None, "state_key": "s", "report": {},
        },
    )  # fmt: skip
    assert described()[plan.run_id]["state"] == "interrupted, resumable"
    discard(lake, plan.manifest(1, 0.0), "the table has changed since")
    assert {run["state"] for run in described().values()} == {"discarded", "published"}


def test_a_finished_run_leaves_its_listing_alone(tmp_path: Path):
    plan = cut_short(sharded(tmp_path))
    assert set(plan.place.list_names()) >= {MANIFEST, SHARDS_FOLDER, "work", "listing"}
    clear_folder(plan.place)
    assert plan.place.list_names() == ["listing"]
    clear_folder(plan.place)


def test_a_plan_alone_leaves_no_manifest(tmp_path: Path):
    plan_of(sharded(tmp_path))
    assert list(unfinished_runs(open_storage(str(tmp_path / "lake")), "t")) == []
