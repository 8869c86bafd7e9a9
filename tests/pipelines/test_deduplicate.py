"""Deduplication in whole jobs: what is dropped is accounted for, stays dropped, and is looked at again when it should be."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from job_maker import HASHING, check_accounting, make_job, open_table, rows_of, run, write_texts
from run_maker import Here, cut_short, lake_of, open_lance, tally_of

from operators.batch import Batch
from operators.embedders.hashing import HashingEmbedder
from operators.errors import LatentLakeError
from pipelines.job.jobfile import parse_job
from pipelines.planning.plan import resume_key, state_key
from pipelines.publish import commit as commit_module
from pipelines.publish import deduplicate
from pipelines.state.manifest import Retry
from pipelines.upkeep.delete import delete_objects
from pipelines.upkeep.maintain import maintain_table

BOAT = "the old boat sails over the grey sea while gulls cry above the harbour and nobody answers"
SHIP = BOAT.replace("old", "worn")  # one word of seventeen is another
TRAIN = "a train of nine red wagons climbs slowly to the pass where snow has fallen since morning"
BOOK = "this book tells how bread was baked in villages long before mills came down along their river"
THRESHOLD = 0.1


def make(folder: Path, texts: Mapping[str, str], **sections: Any) -> dict[str, Any]:
    """A job that deduplicates texts in files; `sections` may replace any of it."""
    wanted = {"deduplicate": {"column": "h", "threshold": THRESHOLD}, "gates": {"max_objects_removed": 1}} | sections
    return make_job(folder, write_texts(folder / "in", texts), **wanted)


def go(job: Mapping[str, Any], **how: Any) -> dict[str, Any]:
    """Run a job in this process; its report, whose counts add up."""
    report = run(job, runner=Here(), **how)
    check_accounting(report)
    return report


def dropped(job: Mapping[str, Any]) -> dict[str, str]:
    """The row that each dropped row duplicates, by the rejects; each is a row of the table, near enough."""
    rows = rows_of(job)
    found = {}
    for line in open_table(job).rejects().to_pylist():
        if line["outcome"] == "filtered":
            assert (line["stage"], line["column"]) == ("deduplicate", None)
            assert rows[line["duplicate_of"]]["object_id"] == line["duplicate_of_object"]
            assert f"duplicates '{line['duplicate_of']}', at a cosine distance of 0.0" in line["error"]
            found[line["error"].split("'")[1]] = line["duplicate_of"]
    assert not set(found) & set(rows)
    return found


def counts_of(report: Mapping[str, Any]) -> tuple[int, int, int]:
    counts = report["counts"]
    return counts["embedded"] + counts["reused"], counts["unchanged"], counts["filtered"]


def test_duplicates_are_filtered_and_the_next_run_is_empty_work(tmp_path: Path):
    job = make(tmp_path, {"a": BOAT, "b": SHIP, "c": TRAIN, "d": BOAT, "e": BOOK}, shard={"max_objects": 2})
    report = run(job)  # through a process of its own
    check_accounting(report)
    assert counts_of(report) == (3, 0, 2) and report["rows_written"] == 3
    told = {
        name: report["deduplicated"][name]
        for name in ("column", "rows", "rows_dropped", "objects_filtered", "clusters")
    }
    assert told == {"column": "h", "rows": 5, "rows_dropped": 2, "objects_filtered": 2, "clusters": 1}
    assert "deduplicating" in report["phases"]
    found = dropped(job)
    assert len(found) == 2 and len(set(found.values())) == 1 and {*found, *found.values()} == {"a", "b", "d"}
    vectors = np.array(open_lance(job).to_table(["h"])["h"].to_pylist())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (1 - vectors @ vectors.T + 2 * np.eye(3) > THRESHOLD).all()
    again = go(job)
    assert (again["state"], again["objects_read"], counts_of(again)) == ("unchanged", 0, (0, 3, 2))
    assert "deduplicated" not in again and dropped(job) == found
    retried = go(job, retry=Retry("deduplicate"))
    assert (retried["objects_read"], counts_of(retried)) == (2, (0, 3, 2)) and dropped(job) == found


def test_a_night_brings_no_duplicate_back_and_takes_no_row_away(tmp_path: Path):
    job = make(tmp_path, {"a": BOAT, "b": TRAIN})
    go(job)
    write_texts(tmp_path / "in", {"c": SHIP, "d": BOOK, "e": BOOK + " again"})
    report = go(job)
    assert counts_of(report) == (1, 2, 2) and report["version"] == 2
    found = dropped(job)
    assert found["c"] == "a" and len(found) == 2 and set(rows_of(job)) - {"d", "e"} == {"a", "b"}
    write_texts(tmp_path / "in", {"f": BOAT})
    last = go(job)  # nothing to commit, and yet decided
    assert (last["state"], counts_of(last), last["version"]) == ("unchanged", (0, 3, 3), 2)
    assert dropped(job) == found | {"f": "a"} and go(job)["objects_read"] == 0


def test_what_was_dropped_is_looked_at_again_when_the_row_that_stayed_changes_or_leaves(tmp_path: Path):
    job = make(tmp_path, {"a": BOAT, "b": TRAIN})
    go(job)
    write_texts(tmp_path / "in", {"c": SHIP, "d": SHIP})
    go(job)
    assert dropped(job) == {"c": "a", "d": "a"}
    write_texts(tmp_path / "in", {"a": BOOK})
    changed = go(job)
    assert counts_of(changed) == (2, 1, 1) and changed["objects_read"] == 3
    (other,) = dropped(job)
    kept = {"c": "d", "d": "c"}[other]
    assert set(rows_of(job)) == {"a", "b", kept} and dropped(job) == {other: kept}
    (tmp_path / "in" / kept).unlink()
    stays = go(job)  # gone from the source, but nothing is pruned: its row still stands for the other
    assert (stays["objects_read"], stays["counts"]["removed"]) == (0, 1)
    pruning = {**job, "table": {**job["table"], "prune": True}}
    assert counts_of(go(pruning)) == (1, 2, 0)
    assert set(rows_of(job)) == {"a", "b", other} and not dropped(job)
    assert go(pruning)["objects_read"] == 0


def test_an_object_that_becomes_a_duplicate_leaves_the_table(tmp_path: Path):
    job = make(tmp_path, {"a": BOAT, "b": TRAIN, "c": BOOK})
    go(job)
    write_texts(tmp_path / "in", {"b": SHIP})
    report = go(job)
    assert (report["state"], counts_of(report), report["rows_written"]) == ("published", (0, 2, 1), 0)
    assert set(rows_of(job)) == {"a", "c"} and dropped(job) == {"b": "a"}


def test_rows_of_chunks_are_dropped_and_come_back(tmp_path: Path):
    chunks = [{"op": "chunk_text", "column": "h", "max_tokens": 17, "overlap": 0}]
    job = make(tmp_path, {"a": f"{BOAT} {TRAIN}"}, preprocess=chunks)
    go(job)
    assert set(rows_of(job)) == {"a#0", "a#1"}
    write_texts(tmp_path / "in", {"b": f"{BOOK} {TRAIN}", "c": BOAT})
    report = go(job)
    assert counts_of(report) == (1, 1, 1) and report["deduplicated"]["rows_dropped"] == 2
    assert dropped(job) == {"b#1": "a#1", "c#0": "a#0"} and set(rows_of(job)) == {"a#0", "a#1", "b#0"}
    assert go(job)["objects_read"] == 0
    (tmp_path / "in" / "a").unlink()
    pruning = {**job, "table": {**job["table"], "prune": True}}
    after = go(pruning)
    assert counts_of(after) == (2, 0, 0) and after["objects_read"] == 2
    assert set(rows_of(job)) == {"b#0", "b#1", "c#0"} and not dropped(job)


def test_another_threshold_or_none_looks_at_all_that_was_dropped(tmp_path: Path):
    job = make(tmp_path, {"a": BOAT, "b": SHIP, "c": TRAIN})
    go(job)
    assert len(dropped(job)) == 1
    strict = {**job, "deduplicate": {"column": "h", "threshold": 0.0}}
    assert counts_of(go(strict)) == (1, 2, 0) and set(rows_of(job)) == {"a", "b", "c"}
    loose = go(job)  # a row of the table stays, whatever the job says now
    assert (loose["state"], counts_of(loose)) == ("unchanged", (0, 3, 0))
    rebuilt = go({**job, "table": {**job["table"], "mode": "rebuild"}})
    assert rebuilt["counts"]["filtered"] == 1 and len(rows_of(job)) == 2
    plain = {name: value for name, value in job.items() if name != "deduplicate"}
    assert counts_of(go(plain)) == (1, 2, 0) and not dropped(job)
    assert go(plain)["objects_read"] == 0


@pytest.mark.parametrize("asked", ["h", "more"])
def test_a_new_column_beside_deduplication(tmp_path: Path, asked: str):
    job = make(tmp_path, {"a": BOAT, "b": TRAIN}, deduplicate={"column": "h", "threshold": THRESHOLD})
    go(job)
    write_texts(tmp_path / "in", {"c": SHIP, "d": BOOK})
    more = {**HASHING, "column": "more", "dim": 128}
    both = {**job, "embed": [HASHING, more], "deduplicate": {"column": asked, "threshold": THRESHOLD}}
    report = go(both)
    assert {column: (found["embedded"], found["filtered"]) for column, found in report["columns"].items()} == {
        "h": (1, 1),
        "more": (3, 1),
    }
    assert dropped(job) == {"c": "a"} and set(rows_of(job)) == {"a", "b", "d"}
    assert open_table(job).count("more IS NULL") == 0


class Killed(BaseException):
    """The end of a process, where one in a test must not end."""


def test_a_run_that_was_cut_short_decides_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    texts = {"a": BOAT, "b": SHIP, "c": TRAIN, "d": BOOK, "e": BOAT}
    whole, job = (make(tmp_path / name, texts, shard={"max_objects": 2}) for name in ("whole", "cut"))
    go(whole)
    place = cut_short(job, 2).place

    def kill(*_: Any) -> None:
        raise Killed

    for module, moment in (
        (deduplicate, "describe"),
        (commit_module, "commit"),
    ):  # as it is written down, and after that
        assert not place.fs.exists(place.path("deduplicated.json"))
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(module, moment, kill)
            go(job)
    assert place.fs.exists(place.path("deduplicated.json"))
    with monkeypatch.context() as patch:
        patch.setattr(deduplicate, "decide", kill)  # what is decided is not decided again
        report = go(job)
    assert report["shards_taken_over"] == 3 and counts_of(report) == (3, 0, 2)
    assert dropped(job) == dropped(whole) and rows_of(job).keys() == rows_of(whole).keys()
    assert place.list_names() == ["listing"]


def test_upkeep_keeps_what_was_decided_and_what_is_gone_is_decided_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job = make(tmp_path, {"a": BOAT, "b": TRAIN})
    go(job)
    write_texts(tmp_path / "in", {"c": SHIP, "d": BOOK})

    def kill(*_: Any) -> None:
        raise Killed

    def cut() -> None:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(commit_module, "commit", kill)
            go(job)

    cut()
    maintain_table(lake_of(job), "t", orphans=timedelta(0))
    with monkeypatch.context() as patch:
        patch.setattr(deduplicate, "decide", kill)
        cut()  # the rows were not decided on again
    data = tmp_path / "lake" / "t.lance" / "data"
    there = {
        file.path for fragment in lance.dataset(str(data.parent)).get_fragments() for file in fragment.metadata.files
    }
    newest = max((path for path in data.iterdir() if path.name not in there), key=lambda path: path.stat().st_mtime_ns)
    newest.unlink()  # the fragment that was written without the duplicate
    assert counts_of(go(job)) == (1, 2, 1) and dropped(job) == {"c": "a"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_is_told(tmp_path: Path):
    plan = cut_short(make(tmp_path, {"a": BOAT}))
    with tally_of(plan) as tally, pytest.raises(LatentLakeError, match="Set TMPDIR to a place with more room"):
        deduplicate.copy_vectors(plan, "h", tally.fragments, Path("/dev/full"))


def test_deleting_the_row_that_stayed_names_it_nowhere(tmp_path: Path):
    chunks = [{"op": "chunk_text", "column": "h", "max_tokens": 17, "overlap": 0}]
    job = make(tmp_path, {"secret": BOAT}, preprocess=chunks)
    go(job)
    write_texts(tmp_path / "in", {"b": SHIP, "c": f"{BOOK} {SHIP}"})
    go(job)
    assert dropped(job) == {"b#0": "secret#0", "c#1": "secret#0"}
    delete_objects(lake_of(job), "t", ["secret"])
    assert "secret" not in str(open_table(job).rejects().to_pylist())
    assert go(job)["objects_read"] == 2
    assert set(rows_of(job)) | set(dropped(job)) == {"b#0", "c#0", "c#1"} and len(rows_of(job)) == 2


def test_a_column_that_rejects_a_row_keeps_it_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The objects `b` and `c` lose their rows; the second column has rejected that of `c`."""
    embed = HashingEmbedder.embed

    def without_ships(self: HashingEmbedder, prepared: Batch) -> np.ndarray:
        vectors = embed(self, prepared)
        return vectors * [[0.0] if "worn" in words and self.config.dim == 32 else [1.0] for words in prepared["words"]]

    monkeypatch.setattr(HashingEmbedder, "embed", without_ships)
    second = {**HASHING, "column": "k", "dim": 32, "max_words": 5}
    job = make(tmp_path, {"a": BOAT, "b": BOAT, "c": SHIP}, embed=[HASHING, second], gates={"max_reject_rate": 1})
    reports = [go(job), go(job)]  # decided, then carried over
    for report in reports:
        found = {name: (counts["filtered"], counts["rejected"]) for name, counts in report["columns"].items()}
        assert found == {"h": (2, 0), "k": (1, 1)}, report["state"]
    assert reports[0]["columns"]["k"]["truncated"] == 1 and reports[1]["objects_read"] == 0
    assert set(rows_of(job)) == {"a"} and set(dropped(job)) == {"b", "c"}


def test_a_job_without_it_is_what_it_was(tmp_path: Path):
    plain = parse_job(make(tmp_path, {"a": BOAT}, deduplicate=None)).resolved()
    asked = parse_job(make(tmp_path, {"a": BOAT})).resolved()
    assert "deduplicate" not in plain.to_json() and parse_job(asked.to_json()) == asked
    assert resume_key(plain) != resume_key(asked) and state_key(plain, ()) != state_key(asked, ())
    go(make(tmp_path, {"a": BOAT}, deduplicate=None))
    assert "duplicate_of" not in open_table(make(tmp_path, {})).rejects().schema.names
