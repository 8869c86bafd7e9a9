"""Publishing, promoting, rolling back: what readers see, who moved it and why, and what a run builds on then."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from command_line import latentlake_here
from job_maker import make_job, open_table, rows_of, run, write_texts
from run_maker import cut_short, lake_of, work_folder
from suite_maker import measured_job, write_suite

import latentlake
from operators.errors import GateRefused, LatentLakeError, NotFound, SpecError
from pipelines.publish.tags import set_tag
from pipelines.state.ledger import read_report, read_runs
from pipelines.upkeep.conditions import Clause, parse_condition
from pipelines.upkeep.maintain import maintain_table
from pipelines.upkeep.promote import promote
from pipelines.upkeep.publish import publish_version
from pipelines.upkeep.rollback import roll_back

TEXTS = {f"{n}.txt": f"the text number {n}" for n in range(4)}


def make(tmp_path: Path, **sections: Any) -> dict[str, Any]:
    return make_job(tmp_path, write_texts(tmp_path / "in", TEXTS), **sections)


def add(tmp_path: Path, job: dict[str, Any], name: str, tag: str | None = "prod") -> int:
    """Run the job with one text more; the version."""
    write_texts(tmp_path / "in", {f"{name}.txt": name})
    return int(run({**job, "publish": {"tag": tag}})["version"])


def tags_of(job: dict[str, Any]) -> dict[str, int]:
    return open_table(job).tags()


def logged(job: dict[str, Any]) -> list[tuple[str, int | None, int | None, str, str]]:
    moves = open_table(job).tag_log()
    assert [move.number for move in moves] == sorted({move.number for move in moves})
    return [(move.tag, move.before, move.version, move.by, move.why) for move in moves]


# of a version that is gone, after versions 1 to 3
GONE = b'{"number": 999999999990, "tag": "a", "before": 1, "version": 0, "moved_at": 9e9, "who": "a", "by": "b", "why": ""}'


# the log


def test_every_move_of_a_tag_is_logged(tmp_path: Path):
    job = make(tmp_path)
    report = run(job)
    runs = [report["run_id"]]
    second = add(tmp_path, job, "more")
    runs.append(read_runs(lake_of(job), "t")[0]["run_id"])
    add(tmp_path, job, "candidate", "candidate")
    runs.append(read_runs(lake_of(job), "t")[0]["run_id"])
    promote(lake_of(job), "t", "candidate", "prod", why="looks fine")
    roll_back(lake_of(job), "t", why="it does not")
    publish_version(lake_of(job), "t", 1, "old")
    maintained = maintain_table(lake_of(job), "t")["version"]
    set_tag(open_table(job).to_lance(), "old", 2)  # by hand
    run({**job, "publish": {"tag": None}})
    assert logged(job) == [
        ("prod", None, 1, "job 'job'", f"run {runs[0]}"),
        ("prod", 1, second, "job 'job'", f"run {runs[1]}"),
        ("candidate", None, 3, "job 'job'", f"run {runs[2]}"),
        ("prod", 2, 3, "promote", "promoted from 'candidate'; looks fine"),
        ("prod", 3, 2, "rollback", "it does not"),
        ("old", None, 1, "publish", "published"),
        ("candidate", 3, maintained, "maintain", "the same rows in fewer files"),
        ("old", 1, 2, "unknown", "found so: no writer that held the table moved it"),
    ]
    moves = open_table(job).tag_log()
    assert {move.who.partition("@")[2] for move in moves if move.by != "unknown"} == {socket.gethostname()}
    assert [move.time for move in moves] == sorted(move.time for move in moves)


def test_readers_of_the_log_need_no_lease_and_write_nothing(tmp_path: Path):
    from pipelines.state.lease import hold_table

    job = make(tmp_path)
    run(job)
    with hold_table(work_folder(job), "somebody"):
        before = sorted(path for path in (tmp_path / "lake").rglob("*"))
        assert len(latentlake.connect(job["table"]["uri"]).open("t").tag_log()) == 1
        assert sorted(path for path in (tmp_path / "lake").rglob("*")) == before


def test_what_a_writer_could_not_log_is_logged_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It died right after it had moved the tag."""
    job = make(tmp_path)
    run(job)
    write_texts(tmp_path / "in", {"more.txt": "more"})
    with monkeypatch.context() as patches, pytest.raises(SystemExit):
        patches.setattr("pipelines.publish.tags.write_move", lambda *_: (_ for _ in ()).throw(SystemExit))
        run(job)
    assert (tags_of(job), len(logged(job))) == ({"prod": 2}, 1)
    run(job)
    assert logged(job)[1][:4] == ("prod", 1, 2, "job 'job'")
    roll_back(lake_of(job), "t")
    assert len(logged(job)) == 3


# publish


def test_a_version_is_published_if_the_gates_of_its_job_hold(tmp_path: Path):
    job = make(tmp_path, gates={"min_rows": 5})
    with pytest.raises(GateRefused):
        run(job)
    with pytest.raises(GateRefused, match=r"4 rows, 1 too few.*There is still no such tag.") as refused:
        publish_version(lake_of(job), "t")
    assert refused.value.report is not None and [gate["held"] for gate in refused.value.report["gates"]] == [False]
    assert add(tmp_path, job, "more", "candidate") == 2
    done = publish_version(lake_of(job), "t")
    assert (done["version_before"], done["version"], done["forced"]) == (None, 2, False)
    assert [(gate["name"], gate["held"], gate["measured_at"]) for gate in done["gates"]] == [("min_rows", True, 2)]
    assert publish_version(lake_of(job), "t")["version_before"] == 2  # it is there already
    assert len([move for move in logged(job) if move[0] == "prod"]) == 1
    (line, *_) = read_runs(lake_of(job), "t")
    assert (line["state"], line["version"], line["tag"], line["head"]) == ("tagged", 2, "prod", None)
    assert run(job)["state"] == "unchanged"


def test_a_version_is_published_by_force_with_a_reason(tmp_path: Path):
    job = make(tmp_path, gates={"min_rows": 5})
    with pytest.raises(GateRefused):
        run(job)
    with pytest.raises(SpecError, match="--force needs --why"):
        publish_version(lake_of(job), "t", force=True)
    done = publish_version(lake_of(job), "t", force=True, why="we have no more")
    assert (done["forced"], tags_of(job)) == (True, {"prod": 1})
    assert logged(job) == [("prod", None, 1, "publish", "we have no more")]
    report = read_report(read_runs(lake_of(job), "t")[0]["report"])
    assert (report["forced"], report["why"], [gate["held"] for gate in report["gates"]]) == (
        True,
        "we have no more",
        [False],
    )


def test_the_gates_of_another_job_may_be_asked(tmp_path: Path):
    from pipelines.job.jobfile import parse_job

    job = make(tmp_path)
    run({**job, "publish": {"tag": None}})
    with pytest.raises(GateRefused):
        publish_version(lake_of(job), "t", job=parse_job({**job, "gates": {"min_rows": 9}}))
    assert publish_version(lake_of(job), "t")["version"] == 1


def test_a_suite_that_is_gone_is_told_with_the_remedy(tmp_path: Path):
    suite = write_suite(tmp_path)
    job = measured_job(tmp_path, gates={"suite": suite, "min_ndcg": 0.5}, publish={"tag": "candidate"})
    run(job)
    lake = lake_of(job)
    Path(suite).unlink()
    with pytest.raises(GateRefused, match="cannot be measured by the suite") as refused:
        publish_version(lake, "t")
    assert "gates.min_ndcg cannot be asked" in str(refused.value) and "prod" not in tags_of(job)
    assert publish_version(lake, "t", force=True, why="measured by hand")["forced"]


# what was taken back


def test_a_version_that_readers_were_taken_back_from_is_not_published_again_unless_by_force(tmp_path: Path):
    job = make(tmp_path)
    run(job)
    add(tmp_path, job, "bad")
    roll_back(lake_of(job), "t")
    for tag in ("prod", "other"):
        with pytest.raises(GateRefused, match="readers of 'prod' were taken back from version 2"):
            publish_version(lake_of(job), "t", tag=tag)
    publish_version(lake_of(job), "t", force=True, why="it was good")
    assert tags_of(job) == {"prod": 2}
    assert add(tmp_path, job, "next") == 3  # and is built on


def test_a_version_taken_back_from_any_tag_is_not_built_on(tmp_path: Path):
    """Promoted, found bad, taken back: the candidate's own job, whose tag is still there, does not build on it either."""
    job = make(tmp_path)
    run(job)
    candidate = {**job, "publish": {"tag": "candidate"}}
    assert add(tmp_path, job, "bad", "candidate") == 2
    promote(lake_of(job), "t", "candidate", "prod")
    assert roll_back(lake_of(job), "t") == (2, 1)
    assert tags_of(job) == {"candidate": 2, "prod": 1}
    (tmp_path / "in" / "bad.txt").unlink()
    report = run(candidate)  # nothing has changed since version 1: it is what the candidate is now
    assert (report["version"], report["tag"], tags_of(job)["prod"]) == (3, "candidate", 1)
    assert tags_of(job)["candidate"] == 3
    assert sorted(open_table(job).checkout("candidate").to_arrow(["id"])["id"].to_pylist()) == sorted(TEXTS)
    assert add(tmp_path, job, "good", "candidate") == 4
    assert sorted(open_table(job).checkout(4).to_arrow(["id"])["id"].to_pylist()) == sorted([*TEXTS, "good.txt"])
    write_texts(tmp_path / "in", {"another.txt": "another"})
    assert run({**job, "publish": {"tag": None}})["counts"]["embedded"] == 1


@pytest.mark.parametrize("tag", ["prod", "candidate", None])
def test_the_run_after_a_roll_back_does_not_republish_the_bad_head(tmp_path: Path, tag: str | None):
    """Also not under another tag, and not what upkeep made of it meanwhile."""
    job = make(tmp_path)
    run(job)
    add(tmp_path, job, "bad")
    set_tag(open_table(job).to_lance(), "pinned", 2)
    roll_back(lake_of(job), "t")
    assert maintain_table(lake_of(job), "t")["tags_moved"] == ["pinned"]
    (tmp_path / "in" / "bad.txt").unlink()
    run({**job, "publish": {"tag": tag}})
    assert "bad.txt" not in rows_of(job)
    if tag == "candidate":
        assert open_table(job).checkout("candidate").count() == len(TEXTS)
    version = add(tmp_path, job, "good", tag)
    assert sorted(open_table(job).checkout(version).to_arrow(["id"])["id"].to_pylist()) == sorted([*TEXTS, "good.txt"])


def test_a_run_that_began_on_a_bad_version_is_not_resumed(tmp_path: Path):
    job = make(tmp_path, shard={"max_objects": 1})
    run(job)
    add(tmp_path, job, "bad")
    write_texts(tmp_path / "in", {"a.txt": "a", "b.txt": "b"})
    killed = cut_short(job, 1)
    roll_back(lake_of(job), "t")
    (tmp_path / "in" / "bad.txt").unlink()
    report = run(job)
    assert report["run_id"] != killed.run_id and sorted(rows_of(job)) == sorted([*TEXTS, "a.txt", "b.txt"])


def test_where_every_version_was_taken_back_there_is_nothing_to_build_on(tmp_path: Path):
    """One tag was taken back from the second version, another from the first, to one that is gone."""
    job = make(tmp_path)
    run({**job, "publish": {"tag": "a"}})
    add(tmp_path, job, "more", "b")
    add(tmp_path, job, "evenmore", "c")
    lake, table = lake_of(job), open_table(job).to_lance()
    for tag, version in (("a", 3), ("b", 3), ("a", 1), ("b", 2)):
        publish_version(lake, "t", version, tag, force=True, why="test")
    assert sorted(tags_of(job).items()) == [("a", 1), ("b", 2), ("c", 3)]
    publish_version(lake, "t", 2, "d")
    publish_version(lake, "t", 1, "d")
    publish_version(lake, "t", 1, "e")
    for tag in ("a", "b", "c", "d", "e"):
        table.tags.delete(tag)
    work_folder(job).child("tags").child("log").put("999999999990.json", GONE)
    with pytest.raises(SpecError, match="readers were taken back from every version of table 't'"):
        run(job)


# promote


def test_conditions():
    assert parse_condition("ndcg@10 >= prod - 0.01 and rows>1000 AND h/map <= 0.5") == [
        Clause("ndcg@10 >= prod - 0.01", "ndcg@10", ">=", "prod", -0.01),
        Clause("rows>1000", "rows", ">", None, 1000.0),
        Clause("h/map <= 0.5", "h/map", "<=", None, 0.5),
    ]
    assert parse_condition("R@100 > last-good + 1e-3")[0] == Clause(
        "R@100 > last-good + 1e-3", "R@100", ">", "last-good", 0.001
    )
    assert parse_condition("x >= prod")[0].limit(0.5) == 0.5


@pytest.mark.parametrize(
    "text",
    ["", "ndcg@10", "ndcg@10 >= ", ">= 3", "a == 3", "a >= 1 or b >= 2", "a >= prod * 2", "a >= __import__('os')"],
)
def test_what_is_no_condition(text: str):
    with pytest.raises(SpecError, match="as a condition: write MEASURE"):
        parse_condition(text or " ")


def test_a_candidate_is_promoted_where_the_condition_is_true(tmp_path: Path):
    suite, lake = write_suite(tmp_path), lake_of(measured_job(tmp_path))
    run(measured_job(tmp_path))
    worse = measured_job(tmp_path, dim=16, publish={"tag": "candidate"}, gates={"suite": suite, "min_ndcg": 0})
    run(worse)
    figures = [open_table(worse).checkout(tag).evaluate(suite).find("nDCG@10").value for tag in ("prod", "candidate")]
    lost = figures[0] - figures[1]
    assert lost > 0.02
    with pytest.raises(GateRefused) as refused:
        promote(lake, "t", "candidate", "prod", f"ndcg@10 >= prod - {lost / 2:.6f} and rows >= 40")
    told = str(refused.value)
    assert f"nDCG@10 of 'h' (retrieval) is {figures[1]:.4f}, at 'prod' (version 1) {figures[0]:.4f}" in told
    assert "Tag 'prod' stays at version 1." in told and "if, worst: query" in told
    assert tags_of(worse) == {"candidate": 2, "prod": 1}
    with pytest.raises(GateRefused, match="the table has 40 rows; --if asks for rows > prod"):
        promote(lake, "t", "candidate", "prod", "rows > prod")
    condition = f"ndcg@10 >= prod - {lost + 1e-6:.6f} and rows >= prod"
    done = promote(lake, "t", "candidate", "prod", condition)
    assert [gate["held"] for gate in done["gates"]] == [True, True, True]
    assert (done["version"], tags_of(worse)) == (2, {"candidate": 2, "prod": 2})
    assert logged(worse)[-1] == ("prod", 1, 2, "promote", f"promoted from 'candidate': {condition}")


def test_what_cannot_be_promoted(tmp_path: Path):
    job = make(tmp_path)
    lake = lake_of(job)
    run({**job, "publish": {"tag": "candidate"}})
    for wrong, error in (
        (("none", "prod", None), NotFound),
        (("candidate", "candidate", None), SpecError),
        (("candidate", "prod", "rows >= prod"), NotFound),
        (("candidate", "prod", "ndcg@10 >= 0.3"), SpecError),  # measured by what?
    ):
        with pytest.raises(error):
            promote(lake, "t", *wrong)
    with pytest.raises(LatentLakeError, match="no table"):
        promote(lake, "u", "candidate", "prod")
    promote(lake, "t", "candidate", "prod", "rows >= 4")
    assert tags_of(job) == {"candidate": 1, "prod": 1}


# the commands


def test_the_commands(tmp_path: Path):
    job = make(tmp_path, gates={"min_rows": 5})
    lake = job["table"]["uri"]
    with pytest.raises(GateRefused):
        run(job)

    def told(*arguments: str, code: int = 0) -> str:
        done = latentlake_here(*arguments, cwd=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        return done.stdout if code == 0 else done.stderr

    assert "gates.min_rows asks for 5." in told("publish", lake, "t", code=3)
    assert "--force needs --why" in told("publish", lake, "t", "--force", code=2)
    assert "min_rows: DOES NOT HOLD" in told("publish", lake, "t", "--force", "--why", "a test")
    add(tmp_path, job, "more", "candidate")
    done = json.loads(told("promote", lake, "t", "candidate", "prod", "--if", "rows >= prod + 1", "--json"))
    assert (done["version_before"], done["version"]) == (1, 2)
    refused = latentlake_here("promote", lake, "t", "candidate", "prod", "--if", "rows > 9", "--json", cwd=tmp_path)
    assert [gate["held"] for gate in json.loads(refused.stdout)["gates"]] == [False, True]
    assert "--if asks for rows > 9." in told("promote", lake, "t", "candidate", "prod", "--if", "rows > 9", code=3)
    assert "tag 'prod' is at version 1, it was at 2" in told("rollback", lake, "t", "--why", "worse")
    rows = json.loads(told("tags", lake, "t", "--log", "--json"))
    assert [(row["tag"], row["from"], row["to"]) for row in rows] == [
        ("prod", 2, 1), ("prod", 1, 2), ("candidate", None, 2), ("prod", None, 1)
    ]  # fmt: skip
    assert (rows[0]["by"], rows[0]["why"], "@" in rows[0]["who"]) == ("rollback", "worse", True)
    assert [(row["tag"], row["version"], row["by"]) for row in json.loads(told("tags", lake, "t", "--json"))] == [
        ("candidate", 2, "job 'job'"), ("prod", 1, "rollback")
    ]  # fmt: skip
    assert "worse" in told("tags", lake, "t", "--log")
