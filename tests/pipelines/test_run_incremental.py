"""Runs that build on earlier ones: what is skipped, replaced, reused, removed, refused. Real Lance."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import lance
import numpy as np
import pytest
import yaml
from hashed_texts import ONCE, TEXTS, TWICE, expected_vector
from job_maker import HASHING, check_accounting, make_job, open_table, rows_of, run, write_jsonl, write_texts

from operators.errors import GateRefused, SourceError

pytestmark = pytest.mark.slow


def test_a_second_run_does_nothing_and_does_not_import_ray(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))
    first = run(job)
    check_accounting(first)
    assert (first["counts"]["embedded"], first["state"], first["rows_written"]) == (40, "published", 40)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    program = (
        "import sys, json\n"
        "from pipelines.job.jobfile import load_job\nfrom pipelines.run import run_job\n"
        "report = run_job(load_job(sys.argv[1]))\n"
        "assert 'ray' not in sys.modules and 'torch' not in sys.modules\n"
        "assert report['counts']['unchanged'] == 40 and report['counts']['embedded'] == 0, report\n"
        "assert report['state'] == 'unchanged' and report['rows_per_s'] is None\n"
        "print(report['version'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "job.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == first["version"] == open_table(job).version


def test_one_per_cent_changed_embeds_exactly_these(tmp_path: Path) -> None:
    texts = {f"{n:03}.txt": f"unique words {n} {n * n}" for n in range(200)}
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts))
    run(job)
    before = rows_of(job)
    write_texts(tmp_path / "in", {"007.txt": "seven is new", "133.txt": "so is this one"})
    report = run(job)
    check_accounting(report)
    assert report["counts"]["embedded"] == 2
    assert report["counts"]["unchanged"] == 198
    assert report["objects_read"] == 2
    after = rows_of(job)
    assert {name for name in after if after[name] != before[name]} == {"007.txt", "133.txt"}
    assert after["007.txt"]["h"] == pytest.approx(expected_vector("seven is new"))
    assert len(after) == 200


def test_a_touched_file_is_read_but_not_embedded_and_then_known(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))
    version = run(job)["version"]
    later = time.time() + 10
    os.utime(tmp_path / "in" / "doc03.txt", (later, later))
    second = run(job)
    assert (second["objects_read"], second["counts"]["embedded"], second["counts"]["unchanged"]) == (1, 0, 40)
    assert second["version"] == version
    assert run(job)["objects_read"] == 0


def test_new_moved_and_removed_objects(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))
    run(job)
    (tmp_path / "in" / "doc00.txt").rename(tmp_path / "in" / "moved.txt")
    write_texts(tmp_path / "in", {"new.txt": "something that was not there before"})
    report = run(job)
    check_accounting(report)
    assert report["counts"] == {
        "listed": 41, "embedded": 1, "reused": 1, "unchanged": 39, "filtered": 0, "rejected": 0, "removed": 1, "left_out": 0, "forgotten": 0
    }  # fmt: skip
    rows = rows_of(job)
    assert rows["moved.txt"]["h"] == rows["doc00.txt"]["h"]  # without prune the vanished object's row stays
    pruned = run({**job, "table": {**job["table"], "prune": True}})
    assert pruned["counts"]["removed"] == 1
    assert "doc00.txt" not in rows_of(job)
    assert run(job)["counts"]["removed"] == 0


def test_pruning_more_than_the_gate_allows_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS), table={"prune": True})
    version = run(job)["version"]
    for n in range(5):
        (tmp_path / "in" / f"doc{n:02}.txt").unlink()
    with pytest.raises(GateRefused, match=r"5 of the table's 40 objects .*max_objects_removed"):
        run(job)
    assert (open_table(job).version, len(rows_of(job))) == (version, 40)
    assert run({**job, "gates": {"max_objects_removed": 0.2}})["counts"]["removed"] == 5
    assert len(rows_of(job)) == 35


def test_an_empty_listing_is_an_error_and_removes_nothing(tmp_path: Path) -> None:
    job = make_job(
        tmp_path, write_texts(tmp_path / "in", TEXTS), table={"prune": True}, gates={"max_objects_removed": 1}
    )
    run(job)
    with pytest.raises(SourceError, match="holds no objects"):
        run({**job, "source": {**job["source"], "include": ["*.nothing"]}})
    assert len(rows_of(job)) == 40


def test_chunks_of_a_document_that_shrinks_do_not_stay(tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(100)]
    rows = [{"id": "long", "text": " ".join(words)}, {"id": "short", "text": "just a few words"}]
    embed = [{**HASHING, "max_words": 10}]
    chunk = [{"op": "chunk_text", "column": "h", "max_tokens": 10}]
    job = make_job(tmp_path, write_jsonl(tmp_path / "in.jsonl", rows), embed, preprocess=chunk)
    report = run(job)
    check_accounting(report)
    assert (report["counts"]["embedded"], report["rows_written"]) == (2, 11)
    rows[0]["text"] = " ".join(words[:70])
    write_jsonl(tmp_path / "in.jsonl", rows)
    report = run(job)
    check_accounting(report)
    # Seven chunks whose text is what earlier chunks held: the document changed, none of its vectors has to be made.
    assert (report["counts"]["unchanged"], report["counts"]["embedded"], report["rows_written"]) == (2, 0, 7)
    found = rows_of(job)
    assert sorted(found) == [*(f"long#{n}" for n in range(7)), "short#0"]
    for row in found.values():
        text = rows[0]["text"] if row["object_id"] == "long" else rows[1]["text"]
        assert row["text"] == text[row["start"] : row["end"]]
        assert row["h"] == pytest.approx(expected_vector(row["text"]))


def test_changed_and_new_metadata_are_written_without_embedding(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"product {n}", "price": n, "colour": "red"} for n in range(20)]
    job = make_job(tmp_path, write_jsonl(tmp_path / "in.jsonl", rows, ["price"]))
    run(job)
    rows[4]["price"] = 99
    write_jsonl(tmp_path / "in.jsonl", rows, ["price"])
    report = run(job)
    assert (report["counts"]["embedded"], report["counts"]["unchanged"], report["rows_written"]) == (0, 20, 1)
    assert rows_of(job)["4"]["price"] == 99
    job["source"] = {**job["source"], "metadata": ["price", "colour"]}
    report = run(job)
    assert (report["counts"]["embedded"], report["rows_written"]) == (0, 20)
    assert {row["colour"] for row in rows_of(job).values()} == {"red"}
    rows[4]["price"] = "dear"
    write_jsonl(tmp_path / "in.jsonl", [{**row, "price": str(row["price"])} for row in rows])
    report = run({**job, "gates": {"max_reject_rate": 0.5}})
    assert (report["counts"]["embedded"], report["counts"]["rejected"]) == (0, 1)
    assert {name: row["price"] for name, row in rows_of(job).items()} == {str(n): n for n in range(20) if n != 4}


def test_vectors_of_equal_content_are_made_once(tmp_path: Path) -> None:
    texts = {f"a{n}.txt": f"text {n % 5}" for n in range(20)}
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts))
    report = run(job)
    check_accounting(report)
    assert (report["counts"]["embedded"], report["counts"]["reused"]) == (5, 15)
    assert all(row["h"] == pytest.approx(expected_vector(texts[name])) for name, row in rows_of(job).items())


def test_rejects_are_known_of_and_leave_when_repaired(tmp_path: Path) -> None:
    texts = {**TEXTS, "empty.txt": "  \n", "zero.txt": "!!!"}
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts), gates={"max_reject_rate": 0.2})
    report = run(job)
    check_accounting(report)
    assert report["counts"]["rejected"] == 2
    rejects = {row["object_id"]: row for row in open_table(job).rejects().to_pylist()}
    assert (rejects["empty.txt"]["stage"], rejects["empty.txt"]["error"], rejects["empty.txt"]["column"]) == (
        "decode", "empty", None
    )  # fmt: skip
    assert (rejects["zero.txt"]["stage"], rejects["zero.txt"]["column"]) == ("embed", "h")
    assert "zero" in rejects["zero.txt"]["error"]
    again = run(job)
    check_accounting(again)
    assert (again["counts"]["rejected"], again["objects_read"] <= 1) == (2, True)
    write_texts(tmp_path / "in", {"empty.txt": "now it holds text", "zero.txt": "and so does this"})
    repaired = run(job)
    check_accounting(repaired)
    assert (repaired["counts"]["embedded"], repaired["counts"]["rejected"]) == (2, 0)
    assert open_table(job).rejects().num_rows == 0
    write_texts(tmp_path / "in", {"other.txt": ""})
    assert run(job)["counts"]["rejected"] == 1
    (tmp_path / "in" / "other.txt").unlink()
    assert run(job)["counts"]["rejected"] == 0
    assert open_table(job).rejects().num_rows == 0  # what leaves the source leaves the rejects


def test_a_reject_of_one_column_stays_when_its_file_is_only_touched(tmp_path: Path) -> None:
    many = "word " * 70_000  # a count that float16 cannot hold, and float32 can
    embed = [HASHING, {**HASHING, "column": "g", "dtype": "float16"}]
    job = make_job(tmp_path, write_texts(tmp_path / "in", {**TEXTS, "many.txt": many}), embed)
    first = run(job)
    assert (first["columns"]["h"]["rejected"], first["columns"]["g"]["rejected"]) == (0, 1)
    later = time.time() + 10
    os.utime(tmp_path / "in" / "many.txt", (later, later))
    for objects_read in (1, 0):
        report = run(job)
        check_accounting(report)
        assert report["objects_read"] == objects_read
        assert (report["columns"]["h"]["unchanged"], report["columns"]["h"]["rejected"]) == (41, 0)
        assert (report["columns"]["g"]["unchanged"], report["columns"]["g"]["rejected"]) == (40, 1)
        (row,) = open_table(job).rejects().to_pylist()
        assert (row["object_id"], row["column"], row["stage"]) == ("many.txt", "g", "embed")
        assert rows_of(job)["many.txt"]["g"] is None and rows_of(job)["many.txt"]["h"] is not None
    write_texts(tmp_path / "in", {"many.txt": "fewer words"})
    report = run(job)
    assert (report["columns"]["h"]["embedded"], report["columns"]["g"]["embedded"]) == (1, 1)
    assert open_table(job).rejects().num_rows == 0
    assert rows_of(job)["many.txt"]["g"] is not None


def test_filtered_objects_are_counted_with_their_reason(tmp_path: Path) -> None:
    texts = {**TEXTS, "tiny.txt": "hm"}
    steps = [{"op": "drop_short_text", "min_chars": 5}]
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts), preprocess=steps)
    for objects_read in (41, 0):
        report = run(job)
        check_accounting(report)
        assert (report["counts"]["filtered"], report["objects_read"]) == (1, objects_read)
    (row,) = open_table(job).rejects().to_pylist()
    assert (row["object_id"], row["outcome"], row["stage"]) == ("tiny.txt", "filtered", "drop_short_text")


def test_duplicate_ids_are_rejected_and_the_first_stays(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"text {n}"} for n in range(30)] + [{"id": "3", "text": "another three"}]
    job = make_job(tmp_path, write_jsonl(tmp_path / "in.jsonl", rows))
    for _ in range(2):
        report = run(job)
        check_accounting(report)
        assert (report["counts"]["listed"], report["counts"]["rejected"]) == (31, 1)
    (row,) = open_table(job).rejects().to_pylist()
    assert row["stage"] == "list"
    assert "duplicate id '3'" in row["error"]
    assert rows_of(job)["3"]["text"] == "text 3"


def test_long_texts_say_that_they_were_cut(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in", {"long.txt": "word " * 50, "short.txt": "word"})
    job = make_job(tmp_path, source, [{**HASHING, "max_words": 20}])
    report = run(job)
    assert report["truncated"] == 1
    rows = rows_of(job)
    assert (rows["long.txt"]["h_tokens"], rows["long.txt"]["h_truncated"]) == (50, True)
    assert (rows["short.txt"]["h_tokens"], rows["short.txt"]["h_truncated"]) == (1, False)


def test_after_a_roll_back_the_next_run_builds_on_the_tag(tmp_path: Path) -> None:

    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))
    first = run(job)["version"]
    write_texts(tmp_path / "in", {"bad.txt": ONCE, "doc01.txt": ONCE})
    second = run(job)["version"]
    lance.dataset(str(tmp_path / "lake" / "t.lance")).tags.update("prod", first)
    (tmp_path / "in" / "bad.txt").unlink()
    write_texts(tmp_path / "in", {"doc01.txt": TWICE})
    report = run(job)
    check_accounting(report)
    assert (report["counts"]["embedded"], report["counts"]["unchanged"], report["counts"]["removed"]) == (1, 39, 0)
    assert report["version"] > second
    rows = rows_of(job)
    assert "bad.txt" not in rows  # it was in the version that readers were taken back from
    assert rows["doc01.txt"]["text"] == TWICE
    assert run(job)["state"] == "unchanged"


def test_a_tag_that_was_taken_back_stays_where_nothing_has_changed_since(tmp_path: Path) -> None:

    job = make_job(tmp_path, write_texts(tmp_path / "in", TEXTS))
    first = run(job)["version"]
    write_texts(tmp_path / "in", {"bad.txt": ONCE})
    second = run(job)["version"]
    table = lance.dataset(str(tmp_path / "lake" / "t.lance"))
    table.tags.update("prod", first)
    (tmp_path / "in" / "bad.txt").unlink()
    assert run(job)["state"] == "unchanged"
    assert (open_table(job).version, lance.dataset(table.uri).version) == (first, second)


def test_a_head_that_a_gate_left_unpublished_is_gated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentlake.indexes.REFINE_FACTOR", 1)  # searches that miss
    rng = np.random.default_rng(0)
    texts = {f"{n:03}.txt": " ".join(f"word{k}" for k in rng.integers(0, 500, 30)) for n in range(300)}
    index = [{"column": "h", "type": "ivf_pq"}]
    job = make_job(tmp_path, write_texts(tmp_path / "in", texts), index=index)
    with pytest.raises(GateRefused, match=r"min_recall asks for 1\.000\. Version \d is not published"):
        run({**job, "gates": {"min_recall": 1.0}})
    assert open_table(job).tags() == {}
    with pytest.raises(GateRefused, match="min_recall"):
        run({**job, "gates": {"min_recall": 1.0}})
    report = run({**job, "gates": {"min_recall": 0.0}})
    assert (report["counts"]["embedded"], report["counts"]["unchanged"], report["state"]) == (0, 300, "unchanged")
    assert open_table(job).tags() == {"prod": report["version"]}
