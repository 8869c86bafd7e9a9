"""Columns that come and change from run to run: filled, kept, null, refused. Real Lance; one through Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance
import pytest
from hashed_texts import ONCE, TEXTS, TWICE, expected_vector
from job_maker import HASHING, check_accounting, make_job, open_table, rows_of, run, write_texts

from operators.errors import FingerprintMismatch, GateRefused, SchemaMismatch

pytestmark = pytest.mark.slow


def test_a_changed_object_has_every_column_recomputed_or_null(tmp_path: Path) -> None:
    both = [HASHING, {**HASHING, "column": "g", "dim": 32}]
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS), both)
    run(job)
    write_texts(tmp_path / "in", {"doc05.txt": ONCE})
    run(job)
    row = rows_of(job)["doc05.txt"]
    assert row["h"] == pytest.approx(expected_vector(ONCE))
    assert row["g"] == pytest.approx(expected_vector(ONCE, 32))
    write_texts(tmp_path / "in", {"doc05.txt": TWICE})
    run({**job, "embed": [HASHING]})  # a job that fills one of the table's two columns
    row = rows_of(job)["doc05.txt"]
    assert row["h"] == pytest.approx(expected_vector(TWICE))
    assert row["g"] is None
    assert rows_of(job)["doc06.txt"]["g"] is not None


def test_a_new_column_is_filled_and_the_others_are_kept(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))
    run(job)
    before = rows_of(job)
    report = run({**job, "embed": [HASHING, {**HASHING, "column": "g", "dim": 32}]})
    check_accounting(report)
    assert report["columns"]["h"]["unchanged"] == 40
    assert report["columns"]["g"]["embedded"] == 40
    after = rows_of(job)
    assert all(after[name]["h"] == before[name]["h"] for name in before)
    assert after["doc01.txt"]["g"] == pytest.approx(expected_vector(TEXTS["doc01.txt"], 32))


def data_files(job: dict[str, Any]) -> set[str]:
    """Data files of the newest version of a job's table."""
    fragments = lance.dataset(f"{job['table']['uri']}/t.lance").get_fragments()
    return {file.path for fragment in fragments for file in fragment.metadata.files}


@pytest.mark.usefixtures("ray_session")
def test_a_new_column_alone_leaves_rows_other_columns_and_indexes_as_they_are(tmp_path: Path) -> None:
    texts = {f"{n:03}.txt": f"unique words {n} {n * n}" for n in range(300)}
    index = [{"column": "h", "type": "ivf_flat"}]
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts), index=index, shard={"max_objects": 64})
    run(job)
    files = data_files(job)
    write_texts(tmp_path / "in", {"007.txt": ONCE, "new.txt": TWICE, "bad.txt": "!!!"})
    (tmp_path / "in" / "100.txt").unlink()
    added = {**job, "embed": [{**HASHING, "column": "g", "dim": 32}], "index": []}
    pruned = {**added, "table": {**job["table"], "prune": True}, "gates": {"max_reject_rate": 0.1}}
    report = run(pruned, runner="ray")
    check_accounting(report)
    assert report["columns"]["g"]["embedded"] == 300
    assert report["columns"]["g"]["rejected"] == 1
    assert files < data_files(job)
    rows = rows_of(job)
    assert len(rows) == 300
    for name, row in rows.items():
        assert row["g"] == pytest.approx(expected_vector(row["text"], 32)), name
        assert row["g_tokens"] == len(row["text"].split())
        if name in ("007.txt", "new.txt"):
            assert row["h"] is None  # of a content that this job did not embed for that column
        else:
            assert row["h"] == pytest.approx(expected_vector(texts[name])), name
    (found,) = open_table(job).indexes()
    assert (found.column, found.rows_unindexed) == ("h", 2)
    both = run({**job, "embed": [HASHING, *added["embed"]], "gates": {"max_reject_rate": 0.1}})
    check_accounting(both)
    assert (both["columns"]["h"]["embedded"], both["columns"]["g"]["embedded"]) == (2, 0)


def test_a_new_column_of_other_rows_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))
    run(job)
    chunked = {**job, "preprocess": [{"op": "clean_text"}], "embed": [{**HASHING, "column": "g"}]}
    with pytest.raises(SchemaMismatch, match="computed of other rows than 'h'"):
        run(chunked)


def test_another_model_is_refused_for_a_column_and_rebuild_replaces_it(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))
    version = run(job)["version"]
    other = {**job, "embed": [{**HASHING, "dim": 32}]}
    with pytest.raises(FingerprintMismatch, match=r"differ in: dim \(64 -> 32\)"):
        run(other)
    with pytest.raises(FingerprintMismatch, match="preprocess"):
        run({**job, "preprocess": [{"op": "clean_text"}]})
    assert open_table(job).version == version
    report = run({**other, "table": {**job["table"], "mode": "rebuild"}})
    check_accounting(report)
    assert report["counts"]["embedded"] == 40
    assert open_table(job).provenance("h").dimension == 32
    assert len(open_table(job).checkout(version).to_arrow(["h"])["h"][0]) == 64  # the old version can be read
    assert run(other)["counts"]["unchanged"] == 40


def test_vectors_that_another_job_left_null_are_filled(tmp_path: Path) -> None:
    both = [HASHING, {**HASHING, "column": "g", "dim": 32}]
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS), both)
    run(job)
    write_texts(tmp_path / "in", {"doc05.txt": ONCE})
    run({**job, "embed": [HASHING]})
    assert rows_of(job)["doc05.txt"]["g"] is None
    report = run(job)
    check_accounting(report)
    assert (report["columns"]["h"]["unchanged"], report["columns"]["g"]["embedded"]) == (40, 1)
    assert rows_of(job)["doc05.txt"]["g"] == pytest.approx(expected_vector(ONCE, 32))


def test_a_column_that_a_refused_run_added_is_filled_by_the_next(tmp_path: Path) -> None:
    texts = {**TEXTS, **{f"bad{n}.txt": " " for n in range(3)}}
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts), gates={"max_reject_rate": 0.5})
    first = run(job)
    both = {**job, "embed": [HASHING, {**HASHING, "column": "g", "dim": 32}]}
    with pytest.raises(GateRefused):
        run({**both, "gates": {"max_reject_rate": 0.01}})
    assert open_table(job).version == first["version"]
    assert open_table(job).vector_columns == ["h"]
    report = run(both)
    check_accounting(report)
    assert report["columns"]["g"]["embedded"] == 40
    assert all(row["g"] is not None for row in rows_of(job).values())


def test_the_metric_of_a_column_is_kept(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS), index=[{"column": "h", "metric": "l2"}])
    run(job)
    assert open_table(job).provenance("h").metric == "l2"
    with pytest.raises(SchemaMismatch, match="searched by l2, the job says cosine"):
        run({**job, "index": [{"column": "h", "metric": "cosine"}]})
    places = (tmp_path / "lake" / "_latentlake" / "t").iterdir()
    folders = [path for path in places if path.name not in ("lease", "tags", "reports")]
    assert all(list(path.rglob("*.parquet")) for path in folders)


def test_float16_vectors_are_stored_and_reused_as_they_are(tmp_path: Path) -> None:
    texts = {f"{n}.txt": f"text {n}" for n in range(10)}
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts), [{**HASHING, "dtype": "float16", "normalize": True}])
    run(job)
    before = rows_of(job)
    (tmp_path / "in" / "0.txt").rename(tmp_path / "in" / "x.txt")
    report = run(job)
    assert report["counts"]["reused"] == 1
    assert str(open_table(job).schema.field("h").type.value_type) == "halffloat"
    assert rows_of(job)["x.txt"]["h"] == before["0.txt"]["h"]
