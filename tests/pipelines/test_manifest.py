"""What a crash leaves to go on by."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from damage_maker import DAMAGE
from hypothesis import given
from hypothesis import strategies as st
from job_maker import HASHING, make_job, open_table, rows_of, write_jsonl, write_texts
from job_maker import run as run_job
from run_maker import cut_short, lake_of, no_successor, open_lance, plan_of, resolved, tally_of, work_folder

from latentlake.storage import Storage, open_storage
from operators.errors import GateRefused, Unreadable
from pipelines.flow.columns import MERGED_FOLDER
from pipelines.flow.runners.inline import InlineRunner
from pipelines.planning.plan import resume_key
from pipelines.resume import clear_folder, discard, plan_run
from pipelines.state.journal import ATTEMPTS_FOLDER, Journal
from pipelines.state.ledger import record_run
from pipelines.state.manifest import (
    MANIFEST,
    SHARDS_FOLDER,
    Carried,
    Changes,
    Manifest,
    Retry,
    described_runs,
    finished_shards,
    read_manifest,
    settle_maintenance,
    unfinished_runs,
    unreadable_runs,
    write_manifest,
)
from pipelines.upkeep.rollback import roll_back
from pipelines.values.hashing import HASH_SCHEME


def manifest_of(run_id: str, **changes: Any) -> Manifest:
    vectors = pa.field("v", pa.list_(pa.float16(), 4), metadata={b"provenance": b'{"x": "\xc3\xbc"}'})
    values: dict[str, Any] = {
        "run_id": run_id, "table": "t", "job": "j", "resume_key": "k", "state_key": "s", "started_at": 12.5,
        "base_version": 3, "version": 4, "listing": f"{run_id}/listing", "retry": Retry(None), "shards": (2, 1),
        "changes": Changes(3, 2, 20, {"v": Carried(unchanged=1)}, gone=0, in_table=1, left=0),
        "fields": pa.schema([pa.field("n", pa.int64())]),
        "new_fields": pa.schema([]),
        "schema": pa.schema([pa.field("id", pa.string(), nullable=False), vectors]),
        "spec": {"name": "j"}, "hash_scheme": HASH_SCHEME,
    }  # fmt: skip
    return Manifest(**values | changes)


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "lake"))


def test_it_survives_json():
    manifest = manifest_of("r1")
    found = Manifest.from_json(manifest.to_json().encode())
    assert found == manifest
    assert found.schema.equals(manifest.schema, check_metadata=True)
    assert not found.schema.field("id").nullable
    assert found.shards == (2, 1)
    json.loads(manifest.to_json())
    nothing = replace(manifest, base_version=None, version=None, retry=None, shards=(), maintained=True)
    assert Manifest.from_json(nothing.to_json()) == nothing


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)
kinds = st.sampled_from([pa.int64(), pa.string(), pa.list_(pa.float32(), 3), pa.timestamp("us", "UTC"), pa.bool_()])


@given(
    st.lists(st.builds(pa.field, names, kinds, st.booleans()), max_size=4, unique_by=lambda f: f.name),
    st.lists(st.integers(1, 2**40), max_size=5),
    st.none() | st.integers(1, 2**60),
)
def test_any_schema_survives_json(columns: list[pa.Field], shards: list[int], version: int | None):
    manifest = manifest_of("r1", schema=pa.schema(columns), shards=tuple(shards), version=version)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_manifest_of_a_plan_holds_all_that_the_plan_does(tmp_path: Path):
    job = make_job(tmp_path, write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "text": "x", "n": 1}], ["n"]))
    plan = cut_short(job, 0)
    (found,) = unfinished_runs(lake_of(job), "t")
    assert found.schema.equals(plan.schema, check_metadata=True)
    assert plan_run(resolved(job), plan.profile).changes == plan.changes
    again = plan_run(resolved(job), plan.profile)
    same = {f.name for f in fields(plan)} - {"resumed", "unpublished", "base_run", "pools"}
    assert {name: getattr(again, name) for name in same} == {name: getattr(plan, name) for name in same}
    assert again.resumed == found


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_manifest_that_cannot_be_read_is_told_of(lake: Storage, damage: str):
    manifest = manifest_of("r1")
    write_manifest(lake, manifest)
    place = manifest.place(lake)
    assert read_manifest(place) == manifest
    place.fs.pipe_file(place.path(MANIFEST), DAMAGE[damage](manifest.to_json().encode()))
    with pytest.raises(Unreadable, match="the manifest of the run"):
        read_manifest(place)
    assert list(unfinished_runs(lake, "t")) == []
    assert list(unreadable_runs(lake, "t")) == ["r1"]
    (line,) = described_runs(lake, "t", False)
    assert (line["run_id"], line["state"]) == ("r1", "killed, not resumable")


def test_a_folder_without_a_manifest_is_no_run(lake: Storage):
    assert read_manifest(lake.child("nowhere")) is None


@pytest.mark.parametrize("field", [f.name for f in fields(Manifest)])
def test_a_manifest_with_a_field_that_is_not_right_is_told_of(field: str):
    values = json.loads(manifest_of("r1").to_json())
    for wrong in ([{}], {"a": []}, 1.5):
        if (field, wrong) not in [("started_at", 1.5), ("spec", {"a": []})]:
            with pytest.raises(Unreadable):
                Manifest.from_json(json.dumps({**values, field: wrong}))
    with pytest.raises(Unreadable, match="unknown"):
        Manifest.from_json(json.dumps({**values, "unknown": 1}))


def test_a_manifest_is_of_the_run_in_whose_folder_it_lies(lake: Storage):
    for other in (manifest_of("r2"), manifest_of("r1", table="other")):
        place = manifest_of("r1").place(lake)
        place.put(MANIFEST, other.to_json().encode())
        with pytest.raises(Unreadable, match=r"is that of run 'r\d' of table"):
            read_manifest(place)


def test_a_manifest_of_an_earlier_release_has_no_number():
    values = json.loads(manifest_of("r1").to_json())
    assert values.pop("format") == 2 and values.pop("hash_scheme") == HASH_SCHEME
    assert Manifest.from_json(json.dumps(values)) == manifest_of("r1", hash_scheme=1)


def test_unfinished_runs_newest_first(lake: Storage):
    assert list(unfinished_runs(lake, "t")) == []
    # All of one second: their names do not say which is newest.
    for began, name in (
        (2.0, "20260101T000000-aaaaaa"),
        (1.0, "20260101T000000-cccccc"),
        (3.0, "20260101T000000-bbbbbb"),
    ):
        write_manifest(lake, replace(manifest_of(name), started_at=began))
    write_manifest(lake, manifest_of("20260104T000000-dddddd", table="other"))
    lake.child("_latentlake", "t", "lease").put_if_absent("000000000001.json", b"{}")
    lake.child("_latentlake", "t", "20260105T000000-eeeeee", "listing").put_if_absent("part-000000.parquet", b"x")
    found = [manifest.run_id for manifest in unfinished_runs(lake, "t")]
    assert found == ["20260101T000000-bbbbbb", "20260101T000000-aaaaaa", "20260101T000000-cccccc"]


def test_finished_shards(lake: Storage):
    place = manifest_of("r1").place(lake)
    assert finished_shards(place) == []
    for number in (10, 2, 0):
        place.child(SHARDS_FOLDER).put_if_absent(f"{number:09}.json", b"{}")
    place.child(SHARDS_FOLDER).put_if_absent(".000000003.json.0a1b", b"")  # a draft that a crash left
    assert finished_shards(place) == [0, 2, 10]


def test_upkeep_moves_the_runs_that_it_told(lake: Storage):
    write_manifest(lake, manifest_of("r1"))
    write_manifest(lake, manifest_of("r2").under_maintenance())
    settle_maintenance(lake, "t", 9)
    found = {m.run_id: (m.version, m.maintained) for m in unfinished_runs(lake, "t")}
    assert found == {"r1": (4, False), "r2": (9, False)}


# which run goes on


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
def test_another_run_is_not_gone_on_with(tmp_path: Path, what: str):
    job = base_job(tmp_path)
    assert key(changed(job, OTHER_RUN[what])) != key(job)


@pytest.mark.parametrize("what", SAME_RUN)
def test_the_same_run_is_gone_on_with(tmp_path: Path, what: str):
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


# going on


TEXTS = {f"{n}.txt": f"the text number {n}" for n in range(8)}


def sharded(tmp_path: Path, **sections: Any) -> dict[str, Any]:
    return make_job(tmp_path, write_texts(tmp_path / "in", TEXTS), shard={"max_objects": 3}, **sections)


def test_a_run_that_was_cut_short_is_gone_on_with(tmp_path: Path):
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


def test_a_commit_that_readers_were_taken_back_from_is_not_published_by_going_on(
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


def test_a_run_that_a_gate_refused_is_not_gone_on_with(tmp_path: Path):
    texts = {**TEXTS, "bad.txt": " "}
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts))
    with pytest.raises(GateRefused):
        run_job(job)
    assert list(unfinished_runs(lake_of(job), "t")) == []
    write_texts(tmp_path / "in", {"bad.txt": "mended"})
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
