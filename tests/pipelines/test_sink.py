"""The commit: it lands once, on top of what is there, or not at all. Real Lance; the flow runs without Ray."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from job_maker import HASHING, make_job, write_jsonl, write_texts
from job_maker import run as run_job
from lance import LanceDataset
from lance.commit import CommitConflictError
from run_maker import SUMMARY, Here, cut_short, embed_shards, held, lake_of, plan_of, resolved, stages_of, tally_of

from clusters import this_machine
from latentlake.indexes import describe_indexes
from operators.errors import AccountingError, LatentLakeError, WriterConflict
from pipelines.flow.shard import Origin, Status, pack, read_record
from pipelines.planning.plan import Plan, make_plan
from pipelines.publish.commit import commit, find_commit, prepare_table
from pipelines.state.lease import LEASE_FOLDER, entry_name, read_last
from pipelines.state.ledger import WORK_FOLDER, open_dataset, read_runs
from pipelines.state.manifest import finished_shards
from pipelines.upkeep.maintain import maintain_table

TEXTS = {f"{n}.txt": f"the text number {n}" for n in range(8)}
CHANGED = {"1.txt": "changed", "new.txt": "new"}


def make(tmp_path: Path, **table: Any) -> dict[str, Any]:
    """A job whose table does not exist yet; three objects a shard."""
    source = write_texts(tmp_path / "in", TEXTS)
    return make_job(tmp_path, source, table=table, shard={"max_objects": 3})


def made(tmp_path: Path, **table: Any) -> dict[str, Any]:
    """The same, with the table, and objects that changed since: one is another, one is new, one is gone."""
    job = make(tmp_path, **table)
    assert run_job(job)["version"] == 1
    write_texts(tmp_path / "in", CHANGED)
    (tmp_path / "in" / "7.txt").unlink()
    return job


def commit_run(plan: Plan, job: dict[str, Any], version: int | None) -> int | None:
    with held(job) as lease, tally_of(plan) as tally:
        return commit(plan, version, tally, SUMMARY | {"run_id": plan.run_id}, lease)


def newest(job: dict[str, Any]) -> LanceDataset:
    table = open_dataset(lake_of(job), "t")
    assert table is not None
    return table


def texts_of(job: dict[str, Any]) -> dict[str, str]:
    rows = newest(job).to_table(columns=["id", "text"]).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["text"] for row in rows}


def append_foreign(job: dict[str, Any], *names: str, mode: str = "append") -> None:
    """What a writer that knows nothing of leases does."""
    table = newest(job)
    rows = table.to_table(limit=len(names)).to_pylist()
    for row, name in zip(rows, names, strict=True):
        row |= {"id": name, "object_id": name, "text": f"foreign {name}"}
    lance.write_dataset(pa.Table.from_pylist(rows, schema=table.schema), table.uri, mode=mode)


def race_first_commit(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[bool]:
    """`act` comes between the first commit's look at the table and the commit; what is returned is filled then."""
    real, raced = LanceDataset.commit, []

    def race(*args: Any, **kwargs: Any) -> LanceDataset:
        if not raced:
            raced.append(True)
            act()
        return real(*args, **kwargs)

    monkeypatch.setattr(LanceDataset, "commit", race)
    return raced


def operation(job: dict[str, Any], version: int) -> str:
    transaction = newest(job).read_transaction(version)
    return type(transaction.operation).__name__


@pytest.mark.parametrize("dropped", ["h", "h_tokens", "h_truncated"])
def test_a_column_that_someone_dropped_is_computed_again(tmp_path: Path, dropped: str):
    job = make(tmp_path)
    run_job(job)
    before = newest(job).to_table()
    newest(job).drop_columns([dropped])
    report = run_job(job)
    assert report["counts"]["embedded"] == len(TEXTS)
    assert newest(job).to_table(columns=before.column_names).sort_by("id").equals(before.sort_by("id"))


def test_a_table_gets_indexes_of_its_keys_and_runs_use_and_extend_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = made(tmp_path)  # as an earlier release leaves it: without them
    monkeypatch.setattr("latentlake.keys.KEY_INDEX_MIN_ROWS", 1)
    counts = run_job(job)["counts"]
    assert (counts["embedded"], counts["unchanged"]) == (2, 6)
    expected = TEXTS | CHANGED
    assert texts_of(job) == expected
    assert segments_of(job) == {"content_hash": 1, "object_id": 1}
    again = {"2.txt": "changed again", "copy.txt": TEXTS["0.txt"]}
    write_texts(tmp_path / "in", again)
    counts = run_job(job)["counts"]
    assert (counts["embedded"], counts["reused"], counts["unchanged"]) == (1, 1, 7)
    expected |= again
    assert texts_of(job) == expected
    assert segments_of(job) == {"content_hash": 2, "object_id": 2}
    maintain_table(lake_of(job), "t")
    assert (texts_of(job), segments_of(job)) == (expected, {"content_hash": 1, "object_id": 1})
    assert len(newest(job).get_fragments()) == 1  # differing segments would have kept them apart


def segments_of(job: dict[str, Any]) -> dict[str, int]:
    return {index.column: index.segments for index in describe_indexes(newest(job))}


# once


def test_the_first_commit_makes_the_table(tmp_path: Path):
    job = make(tmp_path)
    plan = cut_short(job)
    assert commit_run(plan, job, None) == 1
    assert texts_of(job) == TEXTS
    transaction = newest(job).read_transaction(1)
    properties = transaction.transaction_properties
    assert type(transaction.operation).__name__ == "Overwrite"
    assert (properties["run_id"], int(properties["fence"])) == (plan.run_id, 1)
    assert json.loads(properties["summary"])["run_id"] == plan.run_id


def test_a_second_commit_of_the_same_run_finds_the_first(tmp_path: Path):
    job = make(tmp_path)
    plan = cut_short(job)
    assert [commit_run(plan, job, None) for _ in range(2)] == [1, 1]
    assert len(newest(job).versions()) == 1


def test_it_is_found_below_an_index_and_below_other_commits(tmp_path: Path):
    job = make(tmp_path)
    plan = cut_short(job)
    commit_run(plan, job, None)
    newest(job).create_scalar_index("id", "BTREE")
    append_foreign(job, "x")
    newest(job).optimize.compact_files()
    assert newest(job).version > 2
    assert commit_run(plan, job, None) == 1
    assert find_commit(newest(job), "another run", 0) is None
    assert find_commit(newest(job), plan.run_id, 1) is None  # looked for above version 1 only


def test_one_that_was_taken_back_is_not_found(tmp_path: Path):
    job = made(tmp_path)
    plan = cut_short(job)
    assert commit_run(plan, job, 1) == 2
    newest(job).checkout_version(1).restore()
    assert find_commit(newest(job), plan.run_id, 1) is None
    assert commit_run(plan, job, 1) == 4
    assert texts_of(job) == TEXTS | CHANGED
    assert find_commit(newest(job), plan.run_id, 1) == 4


def test_no_table_no_commit():
    assert find_commit(None, "r", 0) is None


# what a commit does


def test_new_objects_alone_are_appended(tmp_path: Path):
    job = make(tmp_path)
    run_job(job)
    write_texts(tmp_path / "in", {"new.txt": "new"})
    assert commit_run(cut_short(job), job, 1) == 2
    assert operation(job, 2) == "Append"
    assert texts_of(job) == TEXTS | {"new.txt": "new"}


def test_changed_objects_replace_their_rows(tmp_path: Path):
    job = made(tmp_path)
    assert commit_run(cut_short(job), job, 1) == 2
    assert operation(job, 2) == "Update"
    assert texts_of(job) == TEXTS | CHANGED  # what is gone from the source stays


def test_pruning_deletes_what_is_gone(tmp_path: Path):
    job = made(tmp_path, prune=True)
    assert commit_run(cut_short(job), job, 1) == 2
    assert texts_of(job) == {k: v for k, v in (TEXTS | CHANGED).items() if k != "7.txt"}


def test_pruning_alone(tmp_path: Path):
    job = make(tmp_path, prune=True)
    run_job(job)
    (tmp_path / "in" / "7.txt").unlink()
    assert commit_run(cut_short(job), job, 1) == 2
    assert texts_of(job) == {k: v for k, v in TEXTS.items() if k != "7.txt"}


def test_a_rebuild_overwrites(tmp_path: Path):
    job = made(tmp_path, mode="rebuild")
    plan = cut_short(job)
    assert commit_run(plan, job, 1) == 2
    assert operation(job, 2) == "Overwrite"
    assert texts_of(job) == {k: v for k, v in (TEXTS | CHANGED).items() if k != "7.txt"}
    append_foreign(job, "x")
    plan.place.remove()  # as a run that ended would
    assert commit_run(cut_short(job), job, 3) == 4  # whatever it holds
    assert "x" not in texts_of(job)


def test_nothing_to_change_is_no_commit(tmp_path: Path):
    job = make(tmp_path)
    run_job(job)
    write_texts(tmp_path / "in", {"0.txt": TEXTS["0.txt"]})
    plan = cut_short(job)  # one object to read, which turns out to be the same
    assert commit_run(plan, job, 1) is None
    assert newest(job).version == 1


def test_rows_that_do_not_add_up(tmp_path: Path):
    job = made(tmp_path)
    plan = cut_short(job)
    with held(job) as lease, tally_of(plan) as tally:
        tally.rows += 1
        with pytest.raises(
            AccountingError, match=r"version 2 holds 9 rows, 10 are accounted for. The tag was not moved"
        ):
            commit(plan, 1, tally, SUMMARY, lease)


def test_a_writer_that_lost_its_lease_commits_nothing(tmp_path: Path):
    job = made(tmp_path)
    plan = cut_short(job)
    with held(job) as lease, tally_of(plan) as tally:
        lease._lost = True
        with pytest.raises(WriterConflict, match="took the table over"):
            commit(plan, 1, tally, SUMMARY, lease)
    assert newest(job).version == 1


def test_what_fails_because_the_lease_was_lost_says_so(tmp_path: Path):
    """Who took over has cleared the run's folder, of which this run's tasks know nothing."""
    job = make(tmp_path)
    run_job(job)
    write_texts(tmp_path / "in", CHANGED)
    place = lake_of(job).child(WORK_FOLDER, "t")

    class TakenOver(Here):
        def embed_shards(self, *_: Any) -> Any:
            entry = read_last(place.child(LEASE_FOLDER))
            assert entry is not None
            taken = replace(entry, number=entry.number + 1, token="another")
            place.child(LEASE_FOLDER).put_if_absent(entry_name(taken.number), json.dumps(asdict(taken)).encode())
            raise FileNotFoundError("a shard's work")

    before = read_runs(lake_of(job), "t")
    with pytest.raises(WriterConflict, match="took the table over"):
        run_job(job, runner=TakenOver())
    assert read_runs(lake_of(job), "t") == before  # its line is the other's


# writers that hold no lease


def test_a_foreign_append_between_plan_and_commit_is_kept(tmp_path: Path):
    job = made(tmp_path)
    plan = cut_short(job)
    append_foreign(job, "x", "new.txt")
    assert commit_run(plan, job, 1) == 3
    assert texts_of(job) == TEXTS | CHANGED | {"x": "foreign x"}  # of an object that both wrote, ours counts


def test_a_foreign_append_below_a_run_that_only_appends(tmp_path: Path):
    job = make(tmp_path)
    run_job(job)
    write_texts(tmp_path / "in", {"new.txt": "new"})
    plan = cut_short(job)
    append_foreign(job, "x", "new.txt")
    assert commit_run(plan, job, 1) == 3
    assert texts_of(job) == TEXTS | {"new.txt": "new", "x": "foreign x"}


def test_a_foreign_append_between_look_and_commit_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lance rebases some commits without a word, and others are refused: either way both writers' rows are there."""
    job = made(tmp_path)
    plan = cut_short(job)
    raced = race_first_commit(monkeypatch, lambda: append_foreign(job, "x", "new.txt"))
    version = commit_run(plan, job, 1)
    assert raced and version == newest(job).version
    assert texts_of(job) == TEXTS | CHANGED | {"x": "foreign x"}
    assert find_commit(newest(job), plan.run_id, 1) == version


def test_an_append_that_was_raced_by_the_same_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = make(tmp_path)
    run_job(job)
    write_texts(tmp_path / "in", {"new.txt": "new"})
    plan = cut_short(job)
    raced = race_first_commit(monkeypatch, lambda: append_foreign(job, "x", "new.txt"))
    version = commit_run(plan, job, 1)
    assert raced and version == newest(job).version
    assert texts_of(job) == TEXTS | {"new.txt": "new", "x": "foreign x"}


def test_a_table_that_is_changed_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = made(tmp_path)
    plan = cut_short(job)

    def refuse(*args: Any, **kwargs: Any) -> LanceDataset:
        raise CommitConflictError("someone was faster")

    monkeypatch.setattr(LanceDataset, "commit", refuse)
    with pytest.raises(WriterConflict, match=r"changed all the time \(5 attempts\)"):
        commit_run(plan, job, 1)


def test_a_foreign_overwrite_is_a_conflict(tmp_path: Path):
    job = made(tmp_path)
    plan = cut_short(job)
    rows = pa.table({"id": ["z"], "vector": pa.array([np.zeros(2)], pa.list_(pa.float64(), 2))})
    lance.write_dataset(rows, newest(job).uri, mode="overwrite")
    with pytest.raises(WriterConflict, match="has other columns at version 2"):
        commit_run(plan, job, 1)
    assert newest(job).to_table(columns=["id"]).to_pydict() == {"id": ["z"]}


def test_a_table_that_appeared_or_vanished_meanwhile(tmp_path: Path):
    job = make(tmp_path)
    plan = cut_short(job)
    lance.write_dataset(pa.table({"id": ["z"]}), f"{job['table']['uri']}/t.lance")
    with pytest.raises(WriterConflict, match="was made"):
        commit_run(plan, job, None)
    with pytest.raises(WriterConflict, match="'u' is gone"):
        plan = cut_short({**job, "table": {**job["table"], "name": "u"}})
        commit_run(plan, {**job, "table": {**job["table"], "name": "u"}}, 1)


def test_fragments_whose_file_is_gone_are_not_committed(tmp_path: Path):
    job = made(tmp_path)
    plan = cut_short(job)
    with tally_of(plan) as tally:
        (file, *_) = json.loads(tally.fragments[0])["files"]
    lake_of(job).remove("t.lance", "data", file["path"])
    with pytest.raises(LatentLakeError, match=rf"1 files that this run wrote are gone, the first is {file['path']}"):
        commit_run(plan, job, 1)
    assert newest(job).version == 1


# shards


def test_of_two_attempts_at_a_shard_the_first_record_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    job = make(tmp_path)
    plan = plan_of(job)
    embed_shards(plan, None, [0], "first")
    record = read_record(plan.place.child("shards"), 0)
    with caplog.at_level(logging.WARNING):
        (told,) = Here().embed_shards(plan, None, [0], "second")
    assert read_record(plan.place.child("shards"), 0) == record
    assert (record["attempt"], told["shard"], told["listed"]) == ("first", 0, 3)
    assert "finished by another attempt" in caplog.text
    assert len(lake_of(job).child("t.lance", "data").list_names()) == 2  # the second one's file is an orphan
    embed_shards(plan, None, range(1, len(plan.shards)), "second")
    assert commit_run(plan, job, None) == 1
    assert texts_of(job) == TEXTS


def test_a_shard_whose_rows_were_all_rejected_writes_no_fragment(tmp_path: Path):
    plan = plan_of(make(tmp_path))
    rows = pa.table(
        {
            "id": ["a"],
            "object_id": ["a"],
            "h": pa.nulls(1, pa.list_(pa.float32(), 64)),
            "h_truncated": pa.nulls(1, pa.bool_()),
            "origin.h": pa.array([Origin.REJECTED], pa.int8()),
        }
    )
    stages_of(plan, None, [0], "x").write(pack(Status(0, listed=1), rows))
    record = read_record(plan.place.child("shards"), 0)
    assert (record["rows"], record["fragments"], record["counts"]["h"]["rejected"]) == (0, [], 1)


# before the stream


def test_preparing_adds_columns_and_restores(tmp_path: Path):
    job = make(tmp_path)
    run_job(job)
    write_texts(tmp_path / "in", CHANGED)
    run_job(job)
    newest(job).tags.update("prod", 1)
    both = {**job, "embed": [HASHING, {**HASHING, "column": "g", "dim": 32}]}
    plan = plan_of(both)
    assert (plan.restores, plan.base_version) == (True, 1)
    version = prepare_table(plan)
    assert (version, newest(job).version) == (4, 4)
    assert texts_of(job) == TEXTS
    assert newest(job).schema.field("g").type == pa.list_(pa.float32(), 32)
    assert newest(job).to_table(columns=["g"])["g"].null_count == 8


def test_preparing_what_needs_nothing(tmp_path: Path):
    job = make(tmp_path)
    assert prepare_table(plan_of(job)) is None
    run_job(job)
    assert prepare_table(plan_of(job)) == 1
    assert newest(job).version == 1


def test_a_table_that_changed_since_the_plan(tmp_path: Path):
    job = made(tmp_path)
    plan = make_plan(resolved(job), this_machine())
    append_foreign(job, "x")
    with pytest.raises(WriterConflict, match="is at version 2; this run was planned on 1"):
        prepare_table(plan)


def test_metadata_and_nulls_reach_the_table(tmp_path: Path):
    rows = [{"id": "a", "text": "one", "n": 1}, {"id": "b", "text": "two"}]
    job = make_job(tmp_path, write_jsonl(tmp_path / "in.jsonl", rows, ["n"]))
    plan = cut_short(job)
    assert finished_shards(plan.place) == [0]
    assert commit_run(plan, job, None) == 1
    assert newest(job).to_table(columns=["id", "n", "uri"]).to_pydict() == {
        "id": ["a", "b"], "n": [1, None], "uri": [None, None]
    }  # fmt: skip
