"""A run is refused for what it rejected: of all objects, and of those that it decided on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from job_maker import HASHING, make_job, rows_of, write_jsonl, write_texts
from job_maker import run as run_job
from run_maker import cut_short, lake_of

from operators.errors import GateRefused
from pipelines.job.jobfile import parse_job
from pipelines.publish.gates import RUN_REJECTS
from pipelines.run import run_job as run_with
from pipelines.state.ledger import read_report, read_runs
from pipelines.state.manifest import Retry

pytestmark = pytest.mark.usefixtures("here")

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
    return {gate["of"]: (gate["rejected"], gate["objects"], gate["held"]) for gate in report["gates"]}


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
    report = run_job(both)
    assert report["gates"][1]["column"] == "g" and gates_of(report)["run"] == (20, 120, True)
    with pytest.raises(
        GateRefused, match=r"21 of 21 objects that this run decided on \(100.0%\) were rejected for 'g'"
    ):
        write_texts(tmp_path / "in", {f"newer{n}.txt": f"text {n} {'x' * 31}" for n in range(21)})
        run_job({**both, "gates": {"max_reject_rate": 0.4}})


def test_a_run_that_goes_on_is_judged_as_a_whole(tmp_path: Path):
    run_job(job_with(tmp_path, rows(GOOD), shard={"max_rows": 10}))
    job = job_with(tmp_path, rows(GOOD), rows(0, 30, "new"), shard={"max_rows": 10})
    cut_short(job, 2)
    with pytest.raises(GateRefused, match="30 of 30 objects that this run decided on"):
        run_job(job)
