"""The gates before the tag: of exactly the version that is tagged next, by what it holds and by what its search finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from job_maker import open_table, run
from run_maker import lake_of
from suite_maker import DOCUMENTS, measured_job, write_documents, write_suite

from operators.errors import GateRefused, InvalidSpec
from pipelines.cli.main import app
from pipelines.job.jobfile import load_job, parse_job
from pipelines.job.spec import GateSpec
from pipelines.state.ledger import read_report, read_runs


def gates_named(report: Any, name: str) -> list[dict[str, Any]]:
    return [gate for gate in report["gates"] if gate["name"] == name]


def refused(job: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a run is refused with, and its report."""
    with pytest.raises(GateRefused) as failure:
        run(job)
    assert failure.value.exit_code == 3 and failure.value.report is not None
    assert read_report(read_runs(lake_of(job), "t")[0]["report"])["gates"] == failure.value.report["gates"]
    return str(failure.value), failure.value.report


def test_a_version_with_too_few_rows_is_not_published(tmp_path: Path):
    job = measured_job(tmp_path, gates={"min_rows": 40})
    (gate,) = gates_named(run(job), "min_rows")
    assert (gate["value"], gate["limit"], gate["held"], gate["measured_at"], gate["moment"]) == (40, 40, True, 1, "tag")
    told, report = refused(
        {**measured_job(tmp_path, numbers=range(33), gates={"min_rows": 40, "max_objects_removed": 1})}
    )
    assert "the table has 33 rows, 7 too few; gates.min_rows asks for 40. Version 2 is not published." in told
    assert open_table(job).version == 1
    assert [gate["held"] for gate in gates_named(report, "min_rows")] == [False]


def test_a_suite_measures_the_version_and_compares_it_with_the_tagged_one(tmp_path: Path):
    gates = {"suite": write_suite(tmp_path), "min_ndcg": 0.9, "min": {"mrr": 0.8}, "max_drop": 0.05}
    first = run(measured_job(tmp_path, gates=gates))
    found = open_table(measured_job(tmp_path)).evaluate(gates["suite"])
    ndcg = found.find("nDCG@10").value
    assert 0.9 < ndcg <= 1
    (floor,), (other,), (drop,) = (gates_named(first, name) for name in ("min_ndcg", "min", "max_drop"))
    assert (floor["value"], floor["held"], floor["measure"]) == (round(ndcg, 6), True, "nDCG@10")
    assert (floor["suite_hash"], floor["measured_at"]) == (found.suite_hash, first["version"])
    assert (other["measure"], other["value"]) == ("RR", round(found.find("RR").value, 6))
    assert (drop["value"], drop["held"]) == (None, True)
    assert drop["why"] == "every measure is compared with nothing: tag 'prod' marks no version yet"

    told, report = refused(measured_job(tmp_path, dim=3, gates=gates))
    assert open_table(measured_job(tmp_path)).version == first["version"]  # readers never saw it
    worse = open_table(measured_job(tmp_path)).checkout(2).evaluate(gates["suite"])
    low = worse.find("nDCG@10").value
    (floor,) = gates_named(report, "min_ndcg")
    assert (floor["value"], floor["held"], floor["measured_at"]) == (round(low, 6), False, 2)
    assert f"{0.9 - low:.4f} too low; gates.min_ndcg asks for 0.9000." in told
    values = worse.values(worse.find("nDCG@10")).to_pydict()
    assert [entry["nDCG@10"] for entry in floor["worst"]] == sorted(values["value"])[:5]
    drops = {gate["measure"]: gate for gate in gates_named(report, "max_drop")}
    assert set(drops) == {"nDCG@10", "RR"} and not drops["nDCG@10"]["held"]
    assert drops["nDCG@10"]["value"] == pytest.approx(ndcg - low, abs=1e-6)
    before = dict(zip(*found.values(found.find("nDCG@10")).to_pydict().values(), strict=True))
    after = dict(zip(values["id"], values["value"], strict=True))
    lost = [entry["after"] - entry["before"] for entry in drops["nDCG@10"]["worst"]]
    assert lost == sorted(after[name] - before[name] for name in before)[:5]
    name = drops["nDCG@10"]["worst"][0]["query"]
    assert f"max_drop, worst: query '{name}', before {before[name]:.4f}, after {after[name]:.4f}" in told
    assert f"next to version 1: from {ndcg:.4f} to {low:.4f}" in told


def test_a_drop_is_allowed_by_measure(tmp_path: Path):
    suite = write_suite(tmp_path)
    run(measured_job(tmp_path))
    report = run(
        measured_job(tmp_path, dim=24, gates={"suite": suite, "max_drop": {"ndcg@10": 0.9, "h/vector/mrr": 0.9}})
    )
    found = gates_named(report, "max_drop")
    assert [(gate["measure"], gate["held"]) for gate in found] == [("nDCG@10", True), ("RR", True)]
    assert all(gate["value"] > 0 for gate in found)
    told, _ = refused(measured_job(tmp_path, dim=3, gates={"suite": suite, "max_drop": {"rr": 0.01}}))
    assert "RR of 'h' (retrieval) dropped by" in told and "gates.max_drop allows 0.0100." in told


@pytest.mark.parametrize("old", [False, True], ids=["alone", "beside the old one"])
def test_a_new_column_is_compared_with_nothing(tmp_path: Path, old: bool):
    suite, first = write_suite(tmp_path), measured_job(tmp_path)
    run(first)
    embed = [*(first["embed"] if old else ()), {**first["embed"][0], "column": "g", "dim": 100}]
    report = run({**first, "embed": embed, "gates": {"suite": suite, "max_drop": {"rr": 0.1}, "max_drift": 0.1}})
    found = {(gate["name"], gate["column"]): gate["why"] for gate in report["gates"] if gate["moment"] == "tag"}
    if old:
        assert found["max_drop", "g"] == "column 'g' is new: its RR is compared with nothing"
        assert "RR of 'h' (retrieval) dropped by 0.0000" in found["max_drop", "h"]
    else:
        assert found["max_drop", None] == "rr is compared with nothing: all columns are new"
    assert found["max_drift", "g"] == "the vectors of 'g' are compared with nothing: the column is new"


def test_the_run_after_gates_what_was_left_unpublished_again(tmp_path: Path):
    suite = write_suite(tmp_path)
    run(measured_job(tmp_path))
    job = measured_job(tmp_path, table={"mode": "incremental"}, gates={"suite": suite, "min_ndcg": 1.0})
    write_documents(tmp_path, range(DOCUMENTS), noise=" ".join(f"subject{n} topic{n} matter{n}" for n in range(12)))
    refused({**job, "gates": {"suite": suite, "min": {"rr": 1.1}}})
    told, _ = refused({**job, "gates": {"suite": suite, "min": {"rr": 1.1}}})  # nothing has changed since
    assert "gates.min asks for 1.1000" in told
    report = run({**job, "gates": {"suite": suite, "min": {"rr": 0.5}}})
    assert (report["state"], report["version"], open_table(job).version) == ("unchanged", 2, 2)


def test_a_version_is_measured_once_and_the_lake_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from pipelines.publish import evaluations

    evaluate, measured = evaluations.evaluate, []
    monkeypatch.setattr(
        evaluations,
        "evaluate",
        lambda table, *rest, **how: (measured.append(table.version), evaluate(table, *rest, **how))[1],
    )
    gates = {"suite": write_suite(tmp_path), "min_ndcg": 0.2, "max_drop": 0.9}
    run(measured_job(tmp_path, gates=gates))
    report = run(measured_job(tmp_path, dim=200, gates=gates))
    assert measured == [1, 2]  # version 1 is taken from `_evals`, with the values of its queries
    (drop, *_) = gates_named(report, "max_drop")
    found = [open_table(measured_job(tmp_path)).checkout(n).evaluate(gates["suite"]).find("nDCG@10") for n in (1, 2)]
    assert drop["value"] == pytest.approx(found[0].value - found[1].value, abs=1e-6)
    assert "(" in drop["why"].partition("dropped")[2] or drop["value"] <= 0  # an interval, of pairs
    write_suite(tmp_path, range(20))  # another suite
    run(measured_job(tmp_path, dim=180, gates=gates))
    assert measured == [1, 2, 3, 2]


@pytest.mark.parametrize(
    ("gates", "told"),
    [
        (
            {"min": {"texts/RR": 0.5}},
            "the suite 'questions' has no 'texts/RR'; it has RR, nDCG@10; gates.min cannot be asked.",
        ),
        ({"max_drop": {"hybrid/ndcg@10": 0.1}}, "has no 'hybrid/ndcg@10'"),
    ],
)
def test_a_gate_that_cannot_be_asked_does_not_hold(tmp_path: Path, gates: dict[str, Any], told: str):
    run(measured_job(tmp_path))
    found, report = refused(measured_job(tmp_path, gates={"suite": write_suite(tmp_path), **gates}))
    assert told in found and open_table(measured_job(tmp_path)).version == 1
    (gate,) = (gate for gate in report["gates"] if gate["moment"] == "tag")
    assert (gate["value"], gate["held"]) == (None, False)


@pytest.mark.parametrize(
    ("gates", "told"),
    [
        (
            {"min": {"nDGC@10": 0.5}},
            "gates.min.nDGC@10: the suite 'questions' has no 'nDGC@10'. Did you mean 'nDCG@10'?",
        ),
        (
            {"max_drop": {"vector/P@3": 0.1}},
            "gates.max_drop.vector/P@3: the suite 'questions' has no 'P@3'. It has RR, nD",
        ),
    ],
)
def test_a_measure_that_no_task_gives_is_refused_before_the_run(tmp_path: Path, gates: dict[str, Any], told: str):
    with pytest.raises(InvalidSpec) as refused:
        parse_job(measured_job(tmp_path, gates={"suite": write_suite(tmp_path), **gates}))
    assert told in str(refused.value)


def test_a_model_that_cannot_embed_the_queries_does_not_let_a_version_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from operators.errors import ModelNotFound

    def load(*_: Any) -> Any:
        raise ModelNotFound("no model here.\n  Give it.")

    monkeypatch.setattr("latentlake.query.load_embedder", load)
    told, _ = refused(measured_job(tmp_path, gates={"suite": write_suite(tmp_path), "min_ndcg": 0.0, "max_drop": 1}))
    assert "cannot be measured by the suite" in told and "no model here." in told and "Give it." in told
    assert open_table(measured_job(tmp_path)).tags() == {}


def test_a_sample_of_the_source_is_not_measured(tmp_path: Path):
    job = measured_job(
        tmp_path, table={"mode": "incremental"}, gates={"suite": write_suite(tmp_path), "min_ndcg": 1.0, "min_rows": 40}
    )
    assert [gate["moment"] for gate in run(job, limit=3)["gates"]] == ["commit", "commit"]


def test_drift_is_measured_next_to_the_tagged_version(tmp_path: Path):
    gates = {"max_drift": 0.1}
    job = measured_job(tmp_path, table={"mode": "incremental"}, gates=gates)
    first = run(job)
    (gate,) = gates_named(first, "max_drift")
    assert (gate["value"], gate["held"]) == (None, True)
    assert gate["why"] == "the vectors of 'h' are compared with nothing: tag 'prod' marks no version yet"
    write_documents(tmp_path, range(DOCUMENTS), late="one more word", later="and another one")
    (gate,) = gates_named(run(job), "max_drift")
    assert gate["held"] and 0 <= gate["value"] < 0.1 and gate["column"] == "h"
    noise = {f"noise{n}": f"price offer buy now {n % 7}" for n in range(60)}
    write_documents(tmp_path, range(DOCUMENTS), late="one more word", later="and another one", **noise)
    told, report = refused(job)
    (gate,) = gates_named(report, "max_drift")
    from latentlake.comparison.drift import drift

    table = open_table(job)
    old, new = (np.stack(table.checkout(v).to_arrow(["h"])["h"].to_pylist()) for v in (table.version, 3))
    # Of another order of rows other pairs give the kernel's width.
    assert gate["value"] == pytest.approx(drift(old, new).mmd, abs=1e-3) and gate["value"] > 0.1
    assert {entry["row"][:5] for entry in gate["worst"]} == {"noise"}
    assert "gates.max_drift allows 0.1000. Version 3 is not published." in told
    assert table.version == 2


def test_vectors_of_another_model_have_no_drift(tmp_path: Path):
    run(measured_job(tmp_path))
    told, _ = refused(measured_job(tmp_path, dim=128, gates={"max_drift": 9}))
    assert "are of another model, or made in another way, than those of version 1" in told
    assert "leave this gate out for this version: --set gates.max_drift=null" in told


# the job


@pytest.mark.parametrize(
    ("gates", "told"),
    [
        ({"min_ndcg": 0.4}, "min_ndcg measure by a suite: give gates.suite: FILE"),
        ({"suite": "suite.json"}, "a suite is given, and no gate asks for a measure of it"),
        ({"suite": "none.yaml", "min_ndcg": 0.4}, "gates.suite: none.yaml: cannot read the file"),
        ({"min_rows": 0}, "gates.min_rows: Input should be greater than or equal to 1"),
        ({"suite": "suite.json", "max_drop": {"ndcg@10": -1}}, "greater than or equal to 0"),
        ({"max_drift": -1}, "gates.max_drift: Input should be greater than or equal to 0"),
    ],
)
def test_what_is_wrong_with_the_gates_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gates: dict[str, Any], told: str
):
    monkeypatch.chdir(tmp_path)
    write_suite(tmp_path)
    with pytest.raises(InvalidSpec) as failure:
        parse_job(measured_job(tmp_path, gates=gates))
    assert told in str(failure.value)


def test_a_suite_with_mistakes_is_found_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Its path is relative to where the command runs, as other paths of a job are."""
    monkeypatch.chdir(tmp_path)
    write_suite(tmp_path, measure=["nDCG@10"])
    job = measured_job(tmp_path, gates={"suite": "suite.json", "min_ndcg": 0.5})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    for command in ("validate", "plan"):
        with pytest.raises(InvalidSpec, match=r"suite.json: tasks\[0\].measure: unknown key. Did you mean 'measures'"):
            app([command, "job.yaml"], standalone_mode=False)
    write_suite(tmp_path)
    app(["validate", "job.yaml"], standalone_mode=False)
    stored = load_job("job.yaml").to_json()["gates"]
    assert stored["suite"] == str(tmp_path / "suite.json")
    (tmp_path / "qrels.txt").unlink()
    with pytest.raises(InvalidSpec, match=r"gates.suite.*: cannot read '.*qrels.txt' of the suite"):
        app(["validate", "job.yaml"], standalone_mode=False)
    spec = load_job("job.yaml", ["gates.suite=null", "gates.min_ndcg=null"])
    with pytest.raises(InvalidSpec):
        run({**job, "gates": {"suite": "gone.json", "min_ndcg": 0.5}})
    assert spec.gates.to_json() == {"max_reject_rate": 0.05, "max_objects_removed": 0.1, "min_recall": None}
    capsys.readouterr()


def test_gates_that_are_not_asked_for_are_not_stored():
    """So a release that does not know them reads the job as before."""
    assert GateSpec().to_json() == {"max_reject_rate": 0.05, "max_objects_removed": 0.1, "min_recall": None}
    asked = GateSpec(suite="/s.yaml", min_ndcg=0.3, min={"RR": 0.2}, max_drop={"AP": 0.1}, max_drift=0.2, min_rows=5)
    assert GateSpec.model_validate(asked.to_json()) == asked
