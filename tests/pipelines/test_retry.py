"""Doing again what was rejected, and taking readers back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from job_maker import HASHING, check_accounting, make_job, open_table, rows_of, write_jsonl, write_texts
from job_maker import run as run_job
from job_maker import run_job as run_with
from run_maker import Here, held, lake_of, resolved

from latentlake.storage import open_storage
from operators.errors import NotFound, SpecError, WriterConflict
from pipelines.job.jobfile import parse_job
from pipelines.state.ledger import open_dataset, record_run
from pipelines.state.manifest import Retry
from pipelines.upkeep.rollback import roll_back
from pipelines.upkeep.stored_jobs import at_lake, stored_job

TEXTS = {f"{n}.txt": f"the text number {n}" for n in range(8)}


def make(tmp_path: Path, texts: dict[str, str] | None = None, **sections: Any) -> dict[str, Any]:
    gates = {"max_reject_rate": 0.9, "max_objects_removed": 1.0}
    return make_job(tmp_path, write_texts(tmp_path / "in", {**TEXTS, **(texts or {})}), **{"gates": gates, **sections})


def retry(job: dict[str, Any], stage: str | None = None, **how: Any) -> dict[str, Any]:
    """As the command does it: with the job that the lake remembers."""
    return run_with(stored_job(lake_of(job), "t"), retry=Retry(stage), **how)


def rejects_of(job: dict[str, Any]) -> dict[str, tuple[str | None, str]]:
    return {row["object_id"]: (row["column"], row["stage"]) for row in open_table(job).rejects().to_pylist()}


# the job that a lake remembers


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"preprocess": [{"op": "clean_text"}, {"op": "chunk_text", "column": "h", "max_tokens": 8, "overlap": 2}]},
        {
            "embed": [
                {**HASHING, "dtype": "float16", "batch_cost": 9, "normalize": True},
                {**HASHING, "column": "g", "dim": 32, "pool": {"min": 1, "max": 2, "num_cpus": 0.5}},
            ],
            "index": [{"column": "g", "metric": "l2", "type": "ivf_flat"}],
            "gates": {"max_reject_rate": 0.5, "min_recall": 0.9},
            "publish": {"tag": "next"},
            "shard": {"max_objects": 3},
            "table": {"prune": True},
        },
    ],
)
def test_the_stored_job_is_the_job(tmp_path: Path, sections: dict[str, Any]):
    job = make(tmp_path, **sections)
    run_job(job)
    assert stored_job(lake_of(job), "t") == resolved(job)


def test_the_stored_job_of_a_table_source(tmp_path: Path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "text": "x", "n": 1}], ["n"])
    job = make_job(tmp_path, source)
    run_job(job)
    assert stored_job(lake_of(job), "t") == resolved(job)


def test_paths_are_stored_so_that_they_hold_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = make(tmp_path)
    monkeypatch.chdir(tmp_path)
    relative = {**job, "source": {**job["source"], "uri": "in"}, "table": {**job["table"], "uri": "lake"}}
    run_job(relative)
    monkeypatch.chdir("/")
    stored = stored_job(lake_of(job), "t")
    assert (stored.source.uri, stored.table.uri) == (str(tmp_path / "in"), str(tmp_path / "lake"))
    assert run_with(stored, retry=Retry(None))["state"] == "unchanged"


def test_a_lake_that_moved_is_written_where_it_is_now(tmp_path: Path):
    job = make(tmp_path)
    run_job(job)
    (tmp_path / "lake").rename(tmp_path / "moved")
    assert stored_job(open_storage(str(tmp_path / "moved")), "t").table.uri == str(tmp_path / "moved")


def test_a_lake_that_remembers_nothing(tmp_path: Path):
    with pytest.raises(NotFound, match=r"remembers no run of table 't'.\n  Give the job: --job FILE"):
        stored_job(open_storage(str(tmp_path)), "t")


def remember(job: dict[str, Any], change: Any) -> None:
    """Change the stored job, as whoever can write to the lake could."""
    line = open_dataset(lake_of(job), "_runs").to_table().to_pylist()[0]  # type: ignore[union-attr]
    data = json.loads(line["spec"])
    change(data)
    record_run(lake_of(job), {**line, "spec": json.dumps(data), "report": json.loads(line["report"])})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d["source"]["storage_options"].update(aws_endpoint="http://elsewhere"), "source.storage_options.aws_endpoint"),
        (lambda d: d["source"]["storage_options"].update(aws_secret_access_key="env:KEY"), "source.storage_options.aws_secret"),
        (lambda d: d["source"]["storage_options"].update(aws_access_key_id="file:/etc/passwd"), "aws_access_key_id"),
        (lambda d: d["embed"][0].update(trust_remote_code=True), "embed[0].trust_remote_code"),
        (lambda d: d["embed"][0].update(base_url="http://elsewhere"), "embed[0].base_url"),
        (lambda d: d["embed"][0].update(weights="s3://theirs/w.pth"), "embed[0].weights"),
    ],
)  # fmt: skip
def test_what_only_the_reader_can_vouch_for_is_refused(tmp_path: Path, change: Any, named: str):
    job = make(tmp_path)
    run_job(job)
    remember(job, change)
    with pytest.raises(SpecError) as refused:
        stored_job(lake_of(job), "t")
    assert named in str(refused.value) and "--job FILE" in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_region_reaches_nothing(tmp_path: Path):
    job = make(tmp_path)
    run_job(job)
    remember(job, lambda data: data["source"]["storage_options"].update(aws_region="eu-west-1"))
    assert stored_job(lake_of(job), "t").source.storage_options == {"aws_region": "eu-west-1"}


def test_options_of_the_table_are_those_of_the_caller(tmp_path: Path):
    job = make(tmp_path)
    run_job(job)
    remember(job, lambda data: data["table"]["storage_options"].update(aws_endpoint="http://elsewhere"))
    assert stored_job(lake_of(job), "t").table.storage_options == {}
    lake = open_storage("s3://lake/x", {"aws_region": "here"})
    found = at_lake(parse_job(job), lake, "u").table
    assert (found.uri, found.name, found.storage_options) == ("s3://lake/x", "u", {"aws_region": "here"})


# doing again


BAD = {"empty.txt": " ", "zero.txt": "!!!"}


def test_what_was_repaired_is_embedded_and_nothing_else_is_read(tmp_path: Path):
    job = make(tmp_path, BAD)
    run_job(job)
    assert rejects_of(job) == {"empty.txt": (None, "decode"), "zero.txt": ("h", "embed")}
    write_texts(tmp_path / "in", {"empty.txt": "repaired", "1.txt": "changed too", "new.txt": "new"})
    report = retry(job, "decode")
    check_accounting(report)
    assert (report["objects_read"], report["counts"]["listed"], report["counts"]["embedded"]) == (1, 10, 1)
    assert (report["counts"]["unchanged"], report["counts"]["rejected"], report["state"]) == (8, 1, "published")
    rows = rows_of(job)
    assert rows["empty.txt"]["text"] == "repaired" and rows["1.txt"]["text"] == TEXTS["1.txt"] and "new.txt" not in rows
    assert rejects_of(job) == {"zero.txt": ("h", "embed")}
    later = run_job(job)  # finds what changed meanwhile
    check_accounting(later)
    assert (later["counts"]["embedded"], later["counts"]["unchanged"], later["counts"]["listed"]) == (2, 8, 11)
    assert run_job(job)["objects_read"] == 0


def test_what_is_as_bad_as_before_stays_rejected(tmp_path: Path):
    job = make(tmp_path, BAD)
    version = run_job(job)["version"]
    report = retry(job)
    check_accounting(report)
    assert (report["objects_read"], report["counts"]["rejected"], report["state"]) == (2, 2, "unchanged")
    assert rejects_of(job) == {"empty.txt": (None, "decode"), "zero.txt": ("h", "embed")}
    assert open_table(job).version == version
    assert run_job(job)["objects_read"] == 0


def test_without_rejects_nothing_is_done(tmp_path: Path):
    job = make(tmp_path)
    version = run_job(job)["version"]
    write_texts(tmp_path / "in", {"1.txt": "changed"})
    report = retry(job)
    assert (report["state"], report["objects_read"], report["version"]) == ("unchanged", 0, version)
    assert run_job(job)["counts"]["embedded"] == 1


def test_what_was_filtered_is_tried_again_where_its_stage_is_named(tmp_path: Path):
    job = make(tmp_path, {"tiny.txt": "hm"}, preprocess=[{"op": "drop_short_text", "min_chars": 5}])
    run_job(job)
    write_texts(tmp_path / "in", {"tiny.txt": "long enough by now"})
    assert retry(job)["objects_read"] == 0  # a filtered object was not rejected
    report = retry(job, "drop_short_text")
    check_accounting(report)
    assert (report["objects_read"], report["counts"]["embedded"], report["counts"]["filtered"]) == (1, 1, 0)
    assert rejects_of(job) == {}


def test_a_reject_of_one_column_is_embedded_in_that_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from operators.embedders.hashing import HashingEmbedder

    embed, broken = HashingEmbedder.embed, [True]

    def moody(self: HashingEmbedder, prepared: Any) -> Any:
        if broken and self.config.dim == 32 and any("number 3" in words for words in prepared["words"]):
            raise RuntimeError("a driver that was broken then")
        return embed(self, prepared)

    monkeypatch.setattr(HashingEmbedder, "embed", moody)
    job = make(tmp_path, embed=[HASHING, {**HASHING, "column": "g", "dim": 32}])
    run_job(job, runner=Here())
    before = rows_of(job)["3.txt"]
    assert (before["g"], rejects_of(job)) == (None, {"3.txt": ("g", "embed")})
    broken.clear()
    report = retry(job, runner=Here())
    check_accounting(report)
    assert (report["columns"]["h"]["unchanged"], report["columns"]["g"]["embedded"], report["objects_read"]) == (
        8,
        1,
        1,
    )
    after = rows_of(job)["3.txt"]
    assert after["h"] == before["h"] and after["g"] is not None
    assert rejects_of(job) == {}


def test_nothing_is_pruned_by_a_retry(tmp_path: Path):
    job = make(tmp_path, BAD, table={"prune": True})
    run_job(job)
    for name in ("1.txt", "2.txt"):
        (tmp_path / "in" / name).unlink()
    write_texts(tmp_path / "in", {"zero.txt": "repaired"})
    report = retry(job)
    check_accounting(report)
    assert {"1.txt", "2.txt", "zero.txt"} <= rows_of(job).keys()
    assert run_job(job)["counts"]["removed"] == 2


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_a_retry_with_ray(tmp_path: Path):
    job = make(tmp_path, BAD)
    run_job(job)
    write_texts(tmp_path / "in", {"empty.txt": "repaired"})
    report = retry(job, "decode", runner="ray")
    check_accounting(report)
    assert (report["objects_read"], report["counts"]["embedded"], report["counts"]["rejected"]) == (1, 1, 1)
    assert rejects_of(job) == {"zero.txt": ("h", "embed")}
    assert rows_of(job)["empty.txt"]["h"] is not None


# taking readers back


def published_three(tmp_path: Path) -> dict[str, Any]:
    job = make(tmp_path)
    for number in range(3):
        write_texts(tmp_path / "in", {f"new{number}.txt": f"new text {number}"})
        assert run_job(job)["version"] == number + 1
    return job


def test_readers_go_back_to_the_version_before(tmp_path: Path):
    job = published_three(tmp_path)
    assert roll_back(lake_of(job), "t") == (3, 2)
    assert (open_table(job).version, len(rows_of(job))) == (2, 10)
    assert roll_back(lake_of(job), "t") == (2, 1)
    with pytest.raises(
        NotFound, match=r"no version of 't' before 1 that 'prod' marked.\n  Name one of `latentlake versions"
    ):
        roll_back(lake_of(job), "t")
    assert roll_back(lake_of(job), "t", version=3) == (1, 3)  # and forth


def test_a_run_after_a_roll_back_builds_on_the_tag(tmp_path: Path):
    job = published_three(tmp_path)
    roll_back(lake_of(job), "t", version=1)
    for name in ("new1.txt", "new2.txt"):
        (tmp_path / "in" / name).unlink()
    assert run_job(job)["state"] == "unchanged"
    assert (open_table(job).version, sorted(rows_of(job))) == (1, sorted([*TEXTS, "new0.txt"]))
    write_texts(tmp_path / "in", {"later.txt": "later"})
    report = run_job(job)
    check_accounting(report)
    assert (report["counts"]["embedded"], report["counts"]["unchanged"]) == (1, 9)
    assert sorted(rows_of(job)) == sorted([*TEXTS, "new0.txt", "later.txt"])
    assert open_table(job).version > 3


def test_a_version_that_readers_were_taken_back_from_is_not_gone_back_to(tmp_path: Path):
    job = published_three(tmp_path)
    assert roll_back(lake_of(job), "t") == (3, 2)
    write_texts(tmp_path / "in", {"later.txt": "later"})
    version = run_job(job)["version"]
    assert version > 3
    assert roll_back(lake_of(job), "t") == (version, 2)


def test_versions_that_a_run_did_not_publish_are_passed_over(tmp_path: Path):
    job = published_three(tmp_path)
    write_texts(tmp_path / "in", {"new4.txt": "new text 4"})
    run_job({**job, "publish": {"tag": "next"}})
    run_job(job)
    assert open_table(job).version == 4
    assert roll_back(lake_of(job), "t") == (4, 3)
    with pytest.raises(NotFound):
        roll_back(lake_of(job), "t", "next")


def test_where_nobody_can_go_back_to(tmp_path: Path):
    job = published_three(tmp_path)
    with pytest.raises(NotFound):
        roll_back(lake_of(job), "t", version=17)
    with pytest.raises(NotFound):
        roll_back(lake_of(job), "t", "no-such-tag")
    with pytest.raises(NotFound, match="no table 'u'"):
        roll_back(lake_of(job), "u")
    with held(job), pytest.raises(WriterConflict):
        roll_back(lake_of(job), "t")
    assert open_table(job).version == 3
