"""Upkeep: few files, one index, no rubbish; and nothing that anyone still needs is gone. Real Lance; no Ray."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import lance
import numpy as np
import pytest
from job_maker import HASHING, make_job, open_table, rows_of, write_texts
from job_maker import run as run_job
from lance import LanceDataset
from run_maker import Here, cut_short, held, lake_of, work_folder

from latentlake.bridges.store import folder_of
from latentlake.indexes import describe_indexes
from operators.errors import AccountingError, NotFound, WriterConflict
from pipelines.resume import can_resume
from pipelines.state.ledger import open_dataset, read_runs
from pipelines.state.manifest import described_runs, settle_maintenance, unfinished_runs, write_manifest
from pipelines.upkeep import maintain as module
from pipelines.upkeep.maintain import maintain_table

NOW = timedelta(0)
SMALL = {"shard": {"max_objects": 3}}


def newest(job: dict[str, Any]) -> LanceDataset:
    table = open_dataset(lake_of(job), "t")
    assert table is not None
    return table


def maintain(job: dict[str, Any], **how: Any) -> dict[str, Any]:
    return maintain_table(lake_of(job), "t", **how)


def add_texts(folder: Path, number: int, count: int = 5) -> None:
    write_texts(folder / "in", {f"{number:02}-{k}.txt": f"text {k} of commit {number}" for k in range(count)})


def commit_many(tmp_path: Path, commits: int = 6, **sections: Any) -> dict[str, Any]:
    """A job whose table was made in many small commits."""
    job = make_job(tmp_path, {"kind": "files", "uri": str(tmp_path / "in")}, **sections)
    for number in range(commits):
        add_texts(tmp_path, number)
        run_job(job)
    return job


def indexed(tmp_path: Path, commits: int = 3, **sections: Any) -> dict[str, Any]:
    """A table with an index of several segments."""
    rng = np.random.default_rng(0)
    words = [f"w{k}" for k in range(200)]
    folder = tmp_path / "in"
    job = make_job(
        tmp_path,
        write_texts(folder, {f"a{n:03}.txt": " ".join(rng.choice(words, 20)) for n in range(300)}),
        index=[{"column": "h", "type": "ivf_flat"}],
        **sections,
    )
    run_job(job)
    for number in range(commits):
        write_texts(folder, {f"{number}-{k}.txt": " ".join(rng.choice(words, 20)) for k in range(5)})
        run_job(job)
    return job


def test_many_small_commits_become_one_fragment_and_readers_follow(tmp_path: Path):
    job = commit_many(tmp_path)
    before, version = rows_of(job), open_table(job).version
    assert len(newest(job).get_fragments()) == 6
    report = maintain(job)
    table = newest(job)
    assert len(table.get_fragments()) == 1
    assert rows_of(job) == before and len(before) == 30
    assert open_table(job).version == table.version > version
    assert {name: report[name] for name in ("version_before", "version", "fragments_before", "fragments", "rows")} == {
        "version_before": version, "version": table.version, "fragments_before": 6, "fragments": 1, "rows": 30
    }  # fmt: skip
    assert report["tags_moved"] == ["prod"]


class Unused(Here):
    def __enter__(self) -> Self:
        raise AssertionError("the run had something to do")


def test_the_next_run_has_nothing_to_do(tmp_path: Path):
    job = commit_many(tmp_path, 3)
    version = maintain(job)["version"]
    report = run_job(job, runner=Unused())
    assert (report["state"], report["objects_read"], report["counts"]["unchanged"]) == ("unchanged", 0, 15)
    assert (report["version"], newest(job).version) == (version, version)


def test_upkeep_of_what_is_in_order_changes_nothing(tmp_path: Path):
    job = commit_many(tmp_path, 3)
    maintain(job)
    version, runs = newest(job).version, len(read_runs(lake_of(job), "t"))
    report = maintain(job)
    assert (report["version"], report["version_before"], report["tags_moved"]) == (version, version, [])
    assert len(read_runs(lake_of(job), "t")) == runs


def test_segments_of_an_index_become_one(tmp_path: Path):
    job = indexed(tmp_path)
    (info,) = [i for i in describe_indexes(newest(job)) if i.metric]
    segments = info.segments
    assert segments > 1
    before, name = rows_of(job), "a007.txt"
    report = maintain(job)
    (info,) = [i for i in describe_indexes(newest(job)) if i.metric]
    assert (info.segments, info.rows_indexed, info.rows_unindexed) == (1, 315, 0)
    assert (report["index_segments_before"], report["index_segments"]) == (segments, 1)
    assert 0.5 < report["recall"]["h"] <= 1
    assert rows_of(job) == before
    assert newest(job).to_table(nearest={"column": "h", "q": before[name]["h"], "k": 1})["id"].to_pylist() == [name]


def test_the_line_of_the_ledger_carries_on_what_is_known(tmp_path: Path):
    job = commit_many(tmp_path, 2)
    before = read_runs(lake_of(job), "t")[0]
    report = maintain(job)
    line = read_runs(lake_of(job), "t")[0]
    assert (line["state"], line["head"], line["version"], line["tag"]) == (
        "maintained", report["version"], report["version"], "prod"
    )  # fmt: skip
    assert {n: line[n] for n in ("listing", "state_key", "spec", "job")} == {
        n: before[n] for n in ("listing", "state_key", "spec", "job")
    }


def test_a_head_that_no_run_made_is_kept_up_all_the_same(tmp_path: Path):
    job = commit_many(tmp_path, 2)
    newest(job).delete("id = '00-0.txt'")
    newest(job).tags.create("mine", 2)
    report = maintain(job)
    assert (report["rows"], report["tags_moved"]) == (9, [])
    assert read_runs(lake_of(job), "t")[0]["tag"] is None
    assert open_table(job).version == 2
    run = run_job(job)  # nothing is known of that version's listing: all is read, and the deleted row comes back
    assert (run["counts"]["embedded"], run["counts"]["unchanged"]) == (1, 9)


# versions


def test_tagged_versions_stay_and_others_go(tmp_path: Path):
    job = commit_many(tmp_path, 4)
    newest(job).tags.create("paper", 2)
    old = newest(job).checkout_version(2).to_table()
    report = maintain(job, keep=NOW)
    found = {version["version"] for version in newest(job).versions()}
    assert 2 in found and report["version"] in found and not found & {1, 3}
    assert report["versions_removed"] >= 2
    assert open_table(job).checkout(2).to_arrow().num_rows == 10
    assert newest(job).checkout_version(2).to_table().equals(old)
    assert len(rows_of(job)) == 20


def test_versions_that_are_young_stay(tmp_path: Path):
    job = commit_many(tmp_path, 3)
    maintain(job)
    assert {1, 2, 3} <= {version["version"] for version in newest(job).versions()}
    assert newest(job).checkout_version(1).to_table().num_rows == 5


def test_a_reader_of_an_old_version_goes_on_reading(tmp_path: Path):
    job = commit_many(tmp_path, 4)
    table = open_table(job)
    batches = table.to_arrow(["id", "h"])
    scanner = lance.dataset(newest(job).uri).scanner(columns=["id", "h"], batch_size=2).to_batches()
    first = next(scanner)
    maintain(job)
    assert first.num_rows + sum(batch.num_rows for batch in scanner) == 20
    assert table.to_arrow(["id", "h"]).equals(batches)


def test_after_a_roll_back_upkeep_leaves_the_tag_where_it_is(tmp_path: Path):
    job = commit_many(tmp_path, 3)
    newest(job).tags.update("prod", 1)
    report = maintain(job)
    assert report["tags_moved"] == []
    assert open_table(job).version == 1
    assert read_runs(lake_of(job), "t")[0]["tag"] == "prod"  # it was published, and found bad since
    run = run_job(job)  # builds on what readers have
    assert (run["counts"]["embedded"], run["counts"]["unchanged"]) == (10, 5)


# orphans and runs that can go on


def data_files(job: dict[str, Any]) -> set[str]:
    return set(lake_of(job).child("t.lance", "data").list_names())


def test_orphans_go_once_they_are_old(tmp_path: Path):
    job = commit_many(tmp_path, 2)
    before = data_files(job)
    lance.fragment.write_fragments(newest(job).to_table(), newest(job).uri, schema=newest(job).schema)
    orphans = data_files(job) - before
    assert len(orphans) == 1
    assert maintain(job)["orphans_removed"] == 0
    assert orphans <= data_files(job)
    report = maintain(job, orphans=NOW)
    assert report["orphans_removed"] >= 1
    assert not orphans & data_files(job)
    assert newest(job).checkout_version(1).to_table().num_rows == 5  # its files are named by a version that is there
    assert len(rows_of(job)) == 10


def cut_short_job(tmp_path: Path, shards: int | None = 2) -> tuple[dict[str, Any], Any]:
    job = commit_many(tmp_path, 2, **SMALL)
    add_texts(tmp_path, 50, 6)
    write_texts(tmp_path / "in", {"00-0.txt": "changed"})
    return job, cut_short(job, shards)


def finish(job: dict[str, Any], plan: Any, taken_over: int = 2) -> None:
    """The run continues where it was, and the table is what it would have been."""
    report = run_job(job)
    assert (report["run_id"], report["shards_taken_over"]) == (plan.run_id, taken_over)
    rows = rows_of(job)
    assert len(rows) == 16 and rows["00-0.txt"]["text"] == "changed"
    assert sorted(row["text"] for row in rows.values()) == sorted(
        path.read_text() for path in Path(job["source"]["uri"]).iterdir()
    )
    assert run_job(job)["state"] == "unchanged"


def test_a_run_that_was_cut_short_resumes_after_upkeep(tmp_path: Path):
    job, plan = cut_short_job(tmp_path)
    files = data_files(job)
    report = maintain(job, keep=NOW, orphans=NOW)
    assert report["fragments"] < report["fragments_before"]
    (manifest,) = unfinished_runs(lake_of(job), "t")
    assert (manifest.version, manifest.maintained) == (report["version"], False)
    assert can_resume(manifest, newest(job))
    assert len(data_files(job) & files) == 2  # the two shards' own, nothing else of before
    finish(job, plan)


def test_a_run_that_died_before_its_table_was_there_has_nothing_to_lose(tmp_path: Path):
    job = make_job(tmp_path, {"kind": "files", "uri": str(tmp_path / "in")}, **SMALL)
    add_texts(tmp_path, 0)
    plan = cut_short(job, 1)
    with pytest.raises(NotFound, match="no table 't'"):
        maintain(job)
    assert run_job(job)["run_id"] == plan.run_id


def test_upkeep_that_dies_before_its_bookkeeping_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job, plan = cut_short_job(tmp_path)

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "merge_index", die)
        patch.setattr(module, "settle_maintenance", lambda lake, table, newest: None if before() else die())
        before = iter([True, False]).__next__
        with pytest.raises(Killed):
            maintain(job)
    (manifest,) = unfinished_runs(lake_of(job), "t")
    assert manifest.maintained and manifest.version < newest(job).version
    assert not can_resume(manifest, newest(job))  # as it stands; whoever holds the table next settles it first
    finish(job, plan)


def test_upkeep_again_after_upkeep_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job, plan = cut_short_job(tmp_path)
    (manifest,) = unfinished_runs(lake_of(job), "t")
    write_manifest(lake_of(job), manifest.under_maintenance())
    newest(job).optimize.compact_files()
    maintain(job, keep=NOW, orphans=NOW)
    finish(job, plan)


def test_what_was_not_told_is_not_moved(tmp_path: Path):
    job, plan = cut_short_job(tmp_path)
    newest(job).optimize.compact_files()  # by someone who holds no lease
    settle_maintenance(lake_of(job), "t", newest(job).version)
    (manifest,) = unfinished_runs(lake_of(job), "t")
    assert not can_resume(manifest, newest(job))
    report = run_job(job)
    assert report["run_id"] != plan.run_id and len(rows_of(job)) == 16


def test_a_run_that_cannot_resume_is_discarded_with_its_files(tmp_path: Path):
    job, plan = cut_short_job(tmp_path)
    newest(job).delete("id = '01-1.txt'")
    report = maintain(job, orphans=NOW)
    assert report["orphans_removed"] >= 2
    assert list(unfinished_runs(lake_of(job), "t")) == []
    states = {run["run_id"]: run["state"] for run in described_runs(lake_of(job), "t", False)}
    assert states[plan.run_id] == "discarded"
    run_job(job)
    assert len(rows_of(job)) == 16


@pytest.mark.parametrize("how", [{}, {"keep": NOW}], ids=["versions stay", "versions go"])
def test_a_run_that_committed_and_died_before_the_tag_resumes_after_upkeep(tmp_path: Path, how: dict[str, Any]):
    from run_maker import SUMMARY, tally_of

    from pipelines.publish.commit import commit

    job, plan = cut_short_job(tmp_path, None)
    with held(job) as lease, tally_of(plan) as tally:
        commit(plan, 2, tally, SUMMARY, lease)
    assert open_table(job).version == 2
    assert maintain(job, orphans=NOW, **how)["versions_removed"] == 0  # its commit is found by its version
    assert open_table(job).version == 2  # the new head has not passed its gates
    finish(job, plan, taken_over=3)


def test_versions_stay_while_a_very_old_run_can_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Lance would take its files for orphans, whatever we tell it to keep."""
    job, plan = cut_short_job(tmp_path)
    (manifest,) = unfinished_runs(lake_of(job), "t")
    write_manifest(lake_of(job), replace(manifest, started_at=time.time() - 8 * 86400))
    assert maintain(job, keep=NOW)["versions_removed"] == 0
    assert f"run {plan.run_id} can be resumed" in caplog.text
    finish(job, plan)


def test_folders_of_runs_that_nobody_looks_into_go(tmp_path: Path):
    job = commit_many(tmp_path, 3)
    work_folder(job).child("20200101T000000-dead00", "listing").put_if_absent("part-000000.parquet", b"x")
    folder_of(lake_of(job), "t").put("kept.npz", b"a bridge to another model")
    last = read_runs(lake_of(job), "t")[0]["run_id"]
    maintain(job)
    assert (
        len(work_folder(job).list_names()) == 3 + 4
    )  # each version's listing, bridges, the lease, the notes on tags, the reports
    maintain(job, keep=NOW)
    assert work_folder(job).list_names() == [last, "bridges", "lease", "reports", "tags"]
    assert run_job(job)["objects_read"] == 0


# gates and leases


def test_recall_is_carried_from_run_to_run_and_measured_where_segments_are_merged(tmp_path: Path):
    job = indexed(tmp_path, 0, gates={"min_recall": 0.1})
    first = newest(job).version
    for number in range(2):
        write_texts(tmp_path / "in", {f"{number}-new.txt": f"new {number}", "a000.txt": f"changed {number}"})
        report = run_job(job)
        (index,) = report["indexes"]
        assert (index["measured_at"], index["added"], index["rows"]) == (first, 2 * number + 2, 301 + number)
        assert [g["measured_at"] for g in report["gates"] if g["name"] == "min_recall"] == [first]
    upkeep = maintain(job)
    assert (upkeep["indexes"][0]["rows"], upkeep["indexes"][0]["recall"]) == (302, upkeep["recall"]["h"])
    write_texts(tmp_path / "in", {"last.txt": "the last"})
    (index,) = run_job(job)["indexes"]
    assert (index["measured_at"], index["added"], index["rows"]) == (upkeep["version"], 1, 303)


def test_an_index_that_finds_too_little_keeps_the_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    job = indexed(tmp_path, 2, gates={"min_recall": 0.1})
    version = open_table(job).version
    with monkeypatch.context() as patch:
        patch.setattr(module, "measure_recalls", lambda _: {"h": 0.05})
        report = maintain(job)
    assert (report["tags_moved"], report["recall"], open_table(job).version) == ([], {"h": 0.05}, version)
    assert "no tag is moved" in caplog.text
    run = run_job(job)  # it gates the head again, and publishes
    assert (run["state"], open_table(job).version, run["objects_read"]) == ("unchanged", newest(job).version, 0)


def test_rows_that_vanish_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = commit_many(tmp_path, 2)

    def lossy(lake: Any, table: str) -> LanceDataset:
        if len(newest(job).get_fragments()) == 1 and newest(job).count_rows() == 10:  # it was compacted
            newest(job).delete("id = '00-0.txt'")
        return newest(job)

    monkeypatch.setattr(module, "open_newest", lossy)
    with pytest.raises(AccountingError, match=r"had 10 rows and has 9. No tag was moved"):
        maintain(job)
    assert open_table(job).version == 2


def test_a_table_that_is_held_is_left_alone(tmp_path: Path):
    job = commit_many(tmp_path, 2)
    version = newest(job).version
    with held(job), pytest.raises(WriterConflict, match=r"job 'test' \(process"):
        maintain(job)
    assert newest(job).version == version


def test_a_run_does_not_start_while_upkeep_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = commit_many(tmp_path, 2)
    met: list[str] = []

    def look(dataset: Any) -> list[Any]:
        with pytest.raises(WriterConflict) as refused:
            run_job(job)
        met.append(str(refused.value))
        return []

    monkeypatch.setattr(module, "describe_indexes", look)
    maintain(job)
    assert met and "maintain (process" in met[0]


def test_no_table(tmp_path: Path):
    job = make_job(tmp_path, {"kind": "files", "uri": str(tmp_path)})
    with pytest.raises(NotFound, match="no table 't' in lake"):
        maintain(job)


def test_our_own_tables_are_kept_small(tmp_path: Path):
    job = commit_many(tmp_path)
    maintain(job, keep=NOW)
    for name in ("_runs", "t__rejects"):
        table = open_dataset(lake_of(job), name)
        assert table is not None and len(table.get_fragments()) <= 2 and len(table.versions()) <= 2


def test_columns_with_two_indexes(tmp_path: Path):
    both = [HASHING, {**HASHING, "column": "g", "dim": 32}]
    rng = np.random.default_rng(0)
    texts = {f"{n:03}.txt": " ".join(rng.choice([f"w{k}" for k in range(99)], 9)) for n in range(300)}
    index = [{"column": name, "type": "ivf_flat"} for name in ("h", "g")]
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts), both, index=index)
    run_job(job)
    write_texts(tmp_path / "in", {"new.txt": "w1 w2"})
    run_job(job)
    assert maintain(job)["index_segments"] == 2
    assert set(maintain(job)["recall"]) == {"h", "g"}
