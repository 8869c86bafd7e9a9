"""A deliberately worse model, on Cranfield with its judgements: the gate keeps it from readers; forced, it is taken back whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_maker import HASHING, make_job, open_table, run
from run_maker import lake_of

from operators.errors import GateRefused
from pipelines.upkeep.publish import publish_version
from pipelines.upkeep.rollback import roll_back

QUESTIONS = ("heat transfer in a hypersonic boundary layer", "buckling of thin cylindrical shells", "wing flutter")


def answers(job: dict[str, Any]) -> list[list[tuple[str, float]]]:
    """What readers of `prod` find, with distances to the bit."""
    table = open_table(job)
    return [[(hit["id"], hit["_distance"]) for hit in table.search(question, k=20)] for question in QUESTIONS]


@pytest.mark.parametrize("next_run", ["good model", "worse model again"])
def test_a_worse_model_is_blocked_and_taken_back(data: Path, tmp_path: Path, next_run: str):
    folder = data / "cranfield"
    rows = [row for row in pq.read_table(folder / "corpus.parquet").to_pylist() if row["text"].strip()]
    source = {"kind": "parquet", "uri": str(tmp_path / "in.parquet"), "id": "id", "content": "text"}
    pq.write_table(pa.Table.from_pylist(rows), source["uri"])
    suite = tmp_path / "cranfield.yaml"
    files = f"queries: {folder / 'queries.parquet'}, qrels: {folder / 'qrels.parquet'}"
    suite.write_text(f"name: cranfield\ntasks:\n  - {{kind: retrieval, {files}, measures: [nDCG@10]}}\n")
    gates = {"suite": str(suite), "min_ndcg": 0.15, "max_drop": 0.02}
    index = [{"column": "h", "type": "ivf_flat"}]
    good = make_job(tmp_path, source, [{**HASHING, "dim": 512}], index=index, gates=gates)
    worse = {**good, "embed": [{**HASHING, "dim": 16}], "table": {**good["table"], "mode": "rebuild"}}

    report = run(good)
    published, before = report["version"], answers(good)
    ndcg = next(gate["value"] for gate in report["gates"] if gate["name"] == "min_ndcg")
    assert ndcg > 0.15 and all(gate["held"] for gate in report["gates"])

    with pytest.raises(GateRefused) as refused:
        run(worse)
    assert refused.value.exit_code == 3 and refused.value.report is not None
    floor, drop = (gate for gate in refused.value.report["gates"] if gate["of"] == "suite")
    assert (floor["held"], drop["held"]) == (False, False)
    assert floor["value"] < 0.15 and drop["value"] == pytest.approx(ndcg - floor["value"], abs=2e-6)
    assert len(drop["worst"]) == 5 and drop["worst"][0]["after"] < drop["worst"][0]["before"]
    head = floor["measured_at"]
    assert open_table(good).tags() == {"prod": published} and answers(good) == before  # readers never see it

    with pytest.raises(GateRefused, match=f"Tag 'prod' stays at version {published}"):
        publish_version(lake_of(good), "t", head)
    assert publish_version(lake_of(good), "t", head, force=True, why="to see what happens")["forced"]
    assert open_table(good).version == head and answers(good) != before
    assert roll_back(lake_of(good), "t") == (head, published)
    assert answers(good) == before and [info.type for info in open_table(good).indexes()]  # its index too

    if next_run == "good model":
        assert run(good)["state"] == "unchanged"  # and does not republish the bad head
        assert open_table(good).version == published
        pq.write_table(
            pa.Table.from_pylist([*rows, {"id": "new", "title": "new", "text": "an abstract that is new"}]),
            source["uri"],
        )
        report = run(good)
        assert (report["counts"]["embedded"], report["counts"]["unchanged"]) == (1, len(rows))
        assert open_table(good).schema.field("h").type.list_size == 512
    else:
        with pytest.raises(GateRefused):
            run(worse)
        assert open_table(good).tags() == {"prod": published} and answers(good) == before
