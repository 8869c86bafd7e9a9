"""Full-text and scalar indexes that a job declares: built, extended, rebuilt, kept by upkeep; and jobs without them as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from job_maker import make_job, open_table, run, write_jsonl

from latentlake.storage import open_storage
from operators.errors import InvalidSpec, SpecError
from pipelines.job.jobfile import parse_job
from pipelines.upkeep.maintain import maintain_table

WORDS = ("foxes", "runs", "bears", "owls", "hares")
DECLARED: dict[str, Any] = {
    "text_index": [{"column": "text"}],
    "scalar_index": [{"column": "kind", "type": "bitmap"}, {"column": "tags", "type": "label_list"}, {"column": "n"}],
}


def make(folder: Path, rows: int = 10, **sections: Any) -> dict[str, Any]:
    data = [
        {"id": f"r{n:03}", "text": f"{WORDS[n % 5]} and word{n}", "kind": f"k{n % 2}", "n": n, "tags": [f"t{n % 3}"]}
        for n in range(rows)
    ]
    return make_job(folder, write_jsonl(folder / "in.jsonl", data, ["kind", "n", "tags"]), **sections)


def indexes(job: dict[str, Any]) -> dict[str, Any]:
    return {info.name: info for info in open_table(job).indexes()}


def plan_of(job: dict[str, Any], where: str) -> str:
    return open_table(job).to_lance().scanner(columns=["id"], filter=where).explain_plan()


def test_declared_indexes_are_built_extended_and_kept(tmp_path: Path) -> None:
    job = make(tmp_path)
    run(job)
    before = open_table(job).version
    assert not indexes(job)
    report = run({**job, **DECLARED})  # nothing else has changed
    assert report["counts"]["unchanged"] == 10
    assert report["version"] == open_table(job).version > before
    assert open_table(job).tag == "prod"
    there = {info.name: (info.column, info.type) for info in indexes(job).values()}
    assert there == {
        "text_text_idx": ("text", "inverted"),
        "kind_bitmap_idx": ("kind", "bitmap"),
        "tags_label_list_idx": ("tags", "labellist"),
        "n_btree_idx": ("n", "btree"),
    }
    assert {hit["id"] for hit in open_table(job).search("fox", mode="text")} == {"r000", "r005"}  # stemmed
    for where in ("kind = 'k1'", "n > 3", "array_has(tags, 't1')"):
        assert "ScalarIndexQuery" in plan_of(job, where), where
        assert open_table(job).count(where) > 0
    version = report["version"]
    assert run({**job, **DECLARED})["version"] == version  # and now there is nothing to do
    make(tmp_path, 15)
    run({**job, **DECLARED})
    assert all(info.rows_unindexed == 0 and info.rows_indexed == 15 for info in indexes(job).values())
    assert {hit["id"] for hit in open_table(job).search("fox", mode="text")} == {"r000", "r005", "r010"}
    maintain_table(open_storage(job["table"]["uri"], {}), "t")
    assert all((info.segments, info.rows_unindexed) == (1, 0) for info in indexes(job).values())
    assert {hit["id"] for hit in open_table(job).search("fox", mode="text")} == {"r000", "r005", "r010"}
    assert open_table(job).count("array_has(tags, 't1')") == 5


def test_an_index_declared_otherwise_is_built_again(tmp_path: Path) -> None:
    job = make(tmp_path, **DECLARED)
    run(job)
    with pytest.raises(SpecError, match="phrase: true"):
        open_table(job).search("foxes and", mode="text", match="phrase")
    run({**job, "text_index": [{"column": "text", "phrase": True, "stemming": False}]})
    table = open_table(job)
    assert {hit["id"] for hit in table.search("word5", mode="text", match="phrase")} == {"r005"}
    assert not len(table.search("fox", mode="text"))
    details = {d.name: d.details for d in table.to_lance().describe_indices()}["text_text_idx"]
    assert (details["stem"], details["with_position"], details["language"]) == (False, True, "English")
    run({**job, "text_index": [{"column": "text", "language": "German"}]})
    details = {d.name: d.details for d in open_table(job).to_lance().describe_indices()}["text_text_idx"]
    assert details["language"] == "German"


def test_a_rebuilt_table_has_its_indexes(tmp_path: Path) -> None:
    job = make(tmp_path, **DECLARED)
    run(job)
    run({**job, "table": {**job["table"], "mode": "rebuild"}})
    assert len(indexes(job)) == 4


def test_a_job_without_them_is_as_it_was(tmp_path: Path) -> None:
    spec = parse_job(make(tmp_path))
    assert not {"text_index", "scalar_index"} & set(spec.to_json())
    declared = parse_job(make(tmp_path, **DECLARED))
    assert parse_job(json.loads(json.dumps(declared.to_json()))).to_json() == declared.to_json()
    assert declared.to_json()["text_index"] == [
        {"column": "text", "language": "English", "stemming": True, "phrase": False}
    ]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"text_index": [{"column": "h"}]}, "'h' holds vectors; its index is declared under `index`"),
        ({"text_index": [{"column": "text"}, {"column": "text"}]}, "has an index already"),
        ({"text_index": [{"column": "text", "language": "Klingon"}]}, "text_index"),
        ({"text_index": [{"column": "text", "stem": True}]}, "stem"),
        ({"scalar_index": [{"column": "object_id"}]}, "has an index by itself"),
        ({"scalar_index": [{"column": "n", "type": "ivf_rq"}]}, "scalar_index"),
    ],
)
def test_what_is_declared_wrongly_is_told(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        parse_job(make(tmp_path, **sections))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"text_index": [{"column": "txt"}]}, "no column 'txt' to index. Did you mean 'text'"),
        ({"text_index": [{"column": "n"}]}, "'n' holds int64; an index of type inverted is for texts"),
        ({"scalar_index": [{"column": "n", "type": "label_list"}]}, "is for lists"),
        ({"scalar_index": [{"column": "tags"}]}, "is for single values"),
    ],
)
def test_a_column_that_cannot_have_an_index_is_told_before_work(
    tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        run(make(tmp_path, **sections))
    assert not (tmp_path / "lake" / "t.lance").exists()


def test_columns_that_are_fused_early_are_searched_like_any_other(tmp_path: Path) -> None:
    parts = [{"family": "hashing", "dim": 64}, {"family": "hashing", "dim": 16}]
    embed = [{"column": f"h{n}", **part} for n, part in enumerate(parts)] + [
        {"column": "both", "family": "concat", "parts": parts, "weights": [3, 1]}
    ]
    job = make(tmp_path, embed=embed)
    run(job)
    table = open_table(job)
    assert table.provenance("both").dimension == 80
    assert run(job)["counts"]["unchanged"] == 10
    query = "bears and word7"
    distances = [{h["id"]: h["_distance"] for h in table.search(query, column=f"h{n}", k=10)} for n in (0, 1)]
    for hit in table.search(query, column="both", k=10):
        assert hit["_distance"] == pytest.approx(
            0.75 * distances[0][hit["id"]] + 0.25 * distances[1][hit["id"]], abs=1e-5
        )
    with pytest.raises(InvalidSpec, match="two models or more"):
        parse_job({**job, "embed": [{"column": "both", "family": "concat", "parts": parts[:1]}]})
