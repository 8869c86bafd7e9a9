"""A run is refused for what it rejected: of all objects, and of those that it decided on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from job_maker import HASHING, make_job, open_table, rows_of, write_jsonl, write_texts
from job_maker import run as run_job
from job_maker import run_job as run_with
from run_maker import Here, cut_short, lake_of

from operators.errors import GateRefused
from pipelines.cli.main import app
from pipelines.job.jobfile import parse_job
from pipelines.publish.run_gates import RUN_REJECTS
from pipelines.state.ledger import read_report, read_runs
from pipelines.state.manifest import Retry
from pipelines.upkeep.maintain import maintain_table
from pipelines.upkeep.rollback import roll_back

GOOD = 1000


def rows(good: int, bad: int = 0, what: str = "") -> list[dict[str, Any]]:
    """Rows of a JSON lines file: the bad ones have no text."""
    texts = [f"text {n} {what}" for n in range(good)] + ["  "] * bad
    return [{"id": f"{what}{n}", "text": text} for n, text in enumerate(texts)]


def job_with(
    tmp_path: Path, old: list[dict[str, Any]], new: Sequence[dict[str, Any]] = (), **sections: Any
) -> dict[str, Any]:
    """A job that reads two files."""
    write_jsonl(tmp_path / "in" / "old.jsonl", old)
    source = write_jsonl(tmp_path / "in" / "new.jsonl", new)
    return make_job(tmp_path, {**source, "uri": str(tmp_path / "in")}, **sections)


def gates_of(report: Mapping[str, Any]) -> dict[str, tuple[int, int, bool]]:
    """Rejected objects, of how many, and whether that may be published, by what was asked."""
    found = {}
    for gate in report["gates"]:
        if gate["name"] == "max_reject_rate":
            rejected, objects = (int(part) for part in gate["why"].split()[:3:2])
            assert gate["value"] == round(rejected / objects if objects else 0, 6)
            assert (gate["moment"], gate["measured_at"]) == ("commit", None)
            found[gate["of"]] = rejected, objects, gate["held"]
    return found


def test_new_objects_that_are_all_broken_are_not_published(tmp_path: Path):
    first = run_job(job_with(tmp_path, rows(GOOD)))
    assert gates_of(first) == {"listed": (0, GOOD, True), "run": (0, GOOD, True)}
    job = job_with(tmp_path, rows(GOOD), rows(0, RUN_REJECTS, "new"))
    with pytest.raises(
        GateRefused, match=r"20 of 20 objects that this run decided on \(100.0%\) were rejected"
    ) as refused:
        run_job(job)
    assert "20 of 1020 objects (2.0%) were rejected for 'h'" in str(refused.value)
    assert refused.value.report is not None
    assert gates_of(refused.value.report) == {"listed": (20, 1020, True), "run": (20, 20, False)}
    (line, *_) = read_runs(lake_of(job), "t")
    assert (line["state"], gates_of(read_report(line["report"]))["run"]) == ("refused", (20, 20, False))
    assert len(rows_of(job)) == GOOD
    with pytest.raises(GateRefused):  # the night after
        run_job(job)
    report = run_job({**job, "gates": {"max_reject_rate": 1}})
    assert report["counts"]["rejected"] == 20
    assert run_job(job)["state"] == "unchanged"  # they are known now


@pytest.mark.parametrize(("bad", "good"), [(1, 0), (RUN_REJECTS - 1, 0), (RUN_REJECTS, 400)])
def test_few_of_the_new_ones_do_not_hold_up_a_run(tmp_path: Path, bad: int, good: int):
    run_job(job_with(tmp_path, rows(GOOD)))
    report = run_job(job_with(tmp_path, rows(GOOD), rows(good, bad, "new")))
    assert report["counts"]["rejected"] == bad
    assert gates_of(report)["run"] == (bad, good + bad, True)


@pytest.mark.parametrize("bad", [50, 51])
def test_a_first_run_is_judged_by_all_objects(tmp_path: Path, bad: int):
    job = job_with(tmp_path, rows(GOOD - bad, bad))
    if bad == 50:
        assert gates_of(run_job(job)) == {"listed": (50, GOOD, True), "run": (50, GOOD, True)}
        return
    with pytest.raises(GateRefused, match=r"51 of 1000 objects \(5.1%\)"):
        run_job(job)
    with pytest.raises(GateRefused, match=r"1 of 2 objects \(50.0%\)"):  # however few there are
        run_job(job_with(tmp_path, rows(1, 1)))


def test_what_is_read_and_found_unchanged_says_nothing_of_the_new_objects(tmp_path: Path):
    """As where the source has moved, or each file got a new time."""
    run_job(job_with(tmp_path, rows(GOOD)))
    job = job_with(tmp_path, rows(GOOD), rows(0, 30, "new"))
    (tmp_path / "in").rename(tmp_path / "moved")
    moved = {**job, "source": job["source"] | {"uri": str(tmp_path / "moved")}}
    with pytest.raises(GateRefused, match="30 of 30 objects that this run decided on"):
        run_job(moved)


def test_objects_that_a_version_lacks_already_are_tried_again_every_night(tmp_path: Path):
    source = write_texts(tmp_path / "in", {f"{n}.txt": f"text {n}" for n in range(700)})
    for number in range(30):
        (tmp_path / "in" / f"gone{number}").symlink_to(tmp_path / "nowhere")  # read, and not there, each time
    job = make_job(tmp_path, source)
    report = run_job(job)
    assert (report["state"], report["counts"]["rejected"]) == ("published", 30)
    write_texts(tmp_path / "in", {"late.txt": "late"})
    report = run_job(job)
    assert (report["state"], report["counts"]["rejected"], report["counts"]["embedded"]) == ("published", 30, 1)
    report = run_with(parse_job(job), retry=Retry(None))
    assert (report["state"], gates_of(report)["run"][2]) == ("unchanged", True)


def test_each_column_is_judged_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A column that is new, and refuses what the other took."""
    source = write_texts(tmp_path / "in", {f"{n}.txt": f"text {n}" for n in range(100)})
    job = make_job(tmp_path, source, gates={"max_reject_rate": 0.3})
    run_job(job)
    write_texts(tmp_path / "in", {f"new{n}.txt": f"text {n} {'x' * 30}" for n in range(20)})
    from operators.batch import RowError
    from operators.embedders.hashing import Config

    prepare = Config.prepare

    def picky(self: Config, batch: Any, role: Any) -> Any:
        if self.dim == 8 and any("x" * 30 in text for text in batch["text"]):
            raise RowError("too long")
        return prepare(self, batch, role)

    monkeypatch.setattr(Config, "prepare", picky)
    both = {**job, "embed": [HASHING, {**HASHING, "column": "g", "dim": 8}]}
    report = run_job(both, runner=Here())
    assert [g["column"] for g in report["gates"] if g["of"] == "run"] == ["g"]
    assert gates_of(report)["run"] == (20, 120, True)
    with pytest.raises(
        GateRefused, match=r"21 of 21 objects that this run decided on \(100.0%\) were rejected for 'g'"
    ):
        write_texts(tmp_path / "in", {f"newer{n}.txt": f"text {n} {'x' * 31}" for n in range(21)})
        run_job({**both, "gates": {"max_reject_rate": 0.4}}, runner=Here())


def test_a_run_that_is_resumed_is_judged_as_a_whole(tmp_path: Path):
    run_job(job_with(tmp_path, rows(GOOD), shard={"max_objects": 10}))
    job = job_with(tmp_path, rows(GOOD), rows(0, 30, "new"), shard={"max_objects": 10})
    cut_short(job, 2)
    with pytest.raises(GateRefused, match="30 of 30 objects that this run decided on"):
        run_job(job)


# the three moments, and upkeep


def moments(gates: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, bool, int | None]]:
    return [(gate["moment"], gate["of"], gate["held"], gate["measured_at"]) for gate in gates]


def indexed_job(tmp_path: Path, **gates: float) -> dict[str, Any]:
    """A job of texts with an index that is made of few words, so that a search of it may miss."""
    rng = np.random.default_rng(0)
    texts = {f"{n:03}.txt": " ".join(f"word{k}" for k in rng.integers(0, 500, 30)) for n in range(300)}
    source = write_texts(tmp_path / "in", texts)
    return make_job(tmp_path, source, table={"prune": True}, index=[{"column": "h", "type": "ivf_pq"}], gates=gates)


def test_a_run_reports_every_gate_in_the_order_asked(tmp_path: Path):
    job = indexed_job(tmp_path, min_recall=0.1)
    first = run_job(job)
    (tmp_path / "in" / "000.txt").unlink()
    write_texts(tmp_path / "in", {"new.txt": "word1 word2"})
    report = run_job(job)
    assert moments(first["gates"]) == [
        ("commit", "listed", True, None), ("commit", "run", True, None), ("tag", "index", True, first["version"])
    ]  # fmt: skip
    assert moments(report["gates"]) == [
        ("plan", "table", True, first["version"]),
        *(("commit", of, True, None) for of in ("listed", "run")),
        ("tag", "index", True, first["version"]),  # the recall of an index that was only extended is carried over
    ]
    removal, *_, recall = report["gates"]
    assert (removal["value"], removal["limit"]) == (round(1 / 300, 6), 0.1)
    assert removal["why"] == "1 of the table's 300 objects (0.3%) are gone from the source"
    assert (recall["name"], recall["column"], recall["limit"]) == ("min_recall", "h", 0.1)
    assert recall["value"] == round(report["indexes"][0]["recall"], 6)
    assert read_report(read_runs(lake_of(job), "t")[0]["report"])["gates"] == report["gates"]


def test_a_refusal_at_plan_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    job = indexed_job(tmp_path)
    run_job(job)
    for n in range(150):
        (tmp_path / "in" / f"{n:03}.txt").unlink()
    with pytest.raises(GateRefused, match=r"150 of the table's 300 objects \(50.0%\)") as refused:
        run_job(job)
    assert str(refused.value).splitlines()[1].startswith("  Check the source; if it is right, raise the gate")
    assert refused.value.report is not None
    assert moments(refused.value.report["gates"]) == [("plan", "table", False, 2)]
    (line, *_) = read_runs(lake_of(job), "t")
    assert (line["state"], read_report(line["report"])["gates"][0]["value"]) == ("refused", 0.5)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    app(["plan", str(tmp_path / "job.yaml"), "--json"], standalone_mode=False)
    assert moments(json.loads(capsys.readouterr().out)["gates"]) == [("plan", "table", False, 2)]


def test_without_prune_nothing_is_deleted_and_the_gate_holds(tmp_path: Path):
    job = indexed_job(tmp_path)
    run_job(job)
    for n in range(150):
        (tmp_path / "in" / f"{n:03}.txt").unlink()
    (removal, *_) = run_job({**job, "table": {**job["table"], "prune": False}})["gates"]
    assert (removal["of"], removal["value"], removal["held"]) == ("table", 0.5, True)


def test_upkeep_asks_the_gates_of_the_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A version that was refused is no place to go back to, and maintenance does not publish it either."""
    job = indexed_job(tmp_path, min_recall=0.1)
    published = run_job(job)["version"]
    # So many that recall is measured again.
    write_texts(tmp_path / "in", {f"new{n}.txt": f"word{n} word{n + 1}" for n in range(100)})
    monkeypatch.setattr("latentlake.indexes.REFINE_FACTOR", 1)  # searches that miss
    with pytest.raises(
        GateRefused, match=r"finds 0\.\d{3} of the 10 nearest; gates.min_recall asks for 1.000. Version 4"
    ):
        run_job({**job, "gates": {"min_recall": 1.0}})
    lake = lake_of(job)
    with pytest.raises(GateRefused, match=rf"asks for 1.000. Tag 'prod' stays at version {published}") as refused:
        roll_back(lake, "t", version=4)
    assert "Choose another index type" in str(refused.value)
    report = maintain_table(lake, "t")
    ((moment, of, held, measured_at),) = moments(report["gates"])
    assert (moment, of, held, measured_at) == ("tag", "index", False, report["version"])
    assert read_report(read_runs(lake, "t", "state = 'maintained'")[0]["report"])["gates"] == report["gates"]
    assert open_table(job).version == published
    monkeypatch.undo()
    run_job(job)  # a job that asks for less publishes the head
    head = open_table(job).version
    roll_back(lake, "t", version=published)
    roll_back(lake, "t", version=head)  # it was published, so it is not measured again
    (forth, back, *_) = read_runs(lake, "t", "state = 'rolled back'")
    assert [read_report(line["report"])["gates"] for line in (forth, back)] == [[], []]
