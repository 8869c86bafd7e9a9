"""Queries that tune an index: of a file, of a log, of moved rows; and what is kept of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lake_maker import LakeMaker

import latentlake
from latentlake.provenance import read_provenance
from latentlake.query_log import logged_queries, older
from latentlake.storage import open_storage
from latentlake.tuning.gather import Place, bring_queries, gather_queries
from latentlake.tuning.queries import (
    MAX_QUERIES,
    QUERIES_FOLDER,
    move_rows,
    read_queries,
    split,
    turn_bits,
)
from operators.chain import Chain
from operators.embedders.hashing import Config
from operators.errors import SpecError, Unreadable

DIM = 256


def unused(contents: Any, modality: str | None) -> np.ndarray:
    raise AssertionError("nothing is embedded")


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def vectors(rows: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype("f4")


def place_in(folder: Path, log: Path) -> Place:
    return Place(open_storage(str(folder)), "here", log)


def test_texts_files_and_vectors_are_read_from_json_lines_and_parquet(tmp_path: Path):
    texts = [f"what is {n}" for n in range(30)]
    found = read_queries(write_lines(tmp_path / "q.jsonl", [{"_id": n, "text": text} for n, text in enumerate(texts)]))
    assert (found.kind, found.values) == ("text", texts)
    pq.write_table(pa.table({"vector": vectors(30).tolist(), "text": texts}), tmp_path / "q.parquet")
    read = read_queries(tmp_path / "q.parquet")
    assert read.kind == "vector" and np.allclose(read.values, vectors(30))
    files = read_queries(write_lines(tmp_path / "f.jsonl", [{"file": f"/no/{n}"} for n in range(30)]))
    assert files.kind == "file"
    many = read_queries(write_lines(tmp_path / "m.jsonl", [{"text": str(n)} for n in range(3 * MAX_QUERIES)]))
    assert len(many.values) == MAX_QUERIES == len(set(many.values))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{}\n" * 30, "have no column `text`"),
        ('{"text": "a"}\n' * 3, "holds 3 queries; an index is tuned with 20 or more"),
        ("no json", "neither Parquet nor JSON lines"),
        ("[1, 2]\n", "a line is no object"),
    ],
)
def test_a_file_that_holds_no_queries_is_refused(tmp_path: Path, content: str, told: str):
    (tmp_path / "q.jsonl").write_text(content)
    with pytest.raises(SpecError, match=r"q\.jsonl") as failure:
        read_queries(tmp_path / "q.jsonl")
    assert told in str(failure.value)
    with pytest.raises(SpecError, match="cannot be read"):
        read_queries(tmp_path / "missing.jsonl")


def test_halves_are_apart_and_whole():
    halves = split(np.arange(101)[:, None], "file")
    assert sorted([*halves.tune[:, 0], *halves.measure[:, 0]]) == list(range(101))
    assert (len(halves.tune), len(halves.measure)) == (50, 51)


def test_queries_of_a_file_are_embedded_once_and_kept(maker: LakeMaker, tmp_path: Path):
    dataset = maker.write_texts()
    stored = read_provenance(dataset.schema, "words")
    file = write_lines(tmp_path / "q.jsonl", [{"text": f"read file {n}"} for n in range(40)])
    place = place_in(tmp_path / "work", tmp_path / "none.jsonl")
    asked: list[Any] = []

    def embed(contents: Any, modality: str | None) -> np.ndarray:
        asked.append((list(contents), modality))
        return maker.embed(stored.config, Chain("text"), contents)

    first = bring_queries(place, "words", stored, str(file), embed)
    assert first is not None and first.source == "file" and len(first.tune) == len(first.measure) == 20
    assert asked == [([f"read file {n}" for n in range(40)], "text")]
    again = bring_queries(place, "words", stored, str(file), unused)
    later = bring_queries(place, "words", stored, None, unused)  # a run that names no file any more
    for found in (again, later):
        assert found is not None and np.array_equal(found.measure, first.measure)
    file.write_text(file.read_text() + '\n{"text": "one more"}')
    bring_queries(place, "words", stored, str(file), embed)
    assert len(asked) == 2
    (tmp_path / "work" / QUERIES_FOLDER / "words.arrow").write_bytes(b"cut")
    with pytest.raises(Unreadable, match="Remove the file"):
        bring_queries(place, "words", stored, None, unused)


def test_search_logs_queries_where_the_reader_wants_it_and_they_tune(maker: LakeMaker, tmp_path: Path):
    dataset = maker.write_texts()
    stored = read_provenance(dataset.schema, "words")
    log = tmp_path / "log" / "queries.jsonl"
    quiet = latentlake.connect(maker.uri).open("notes")
    quiet.search("open a file")
    assert not log.parent.exists()
    table = latentlake.connect(maker.uri, log_queries=log).open("notes")
    for n in range(30):
        table.search(f"open a file {n}")
    table.search(vectors(1)[0])
    table.search(id="doc1")  # a row is no query
    text = log.read_text()
    assert "open a file" not in text and text.count("\n") == 31
    log.write_text(text + '{"cut')
    address = open_storage(maker.uri).child("notes.lance").lance_uri
    found = logged_queries(log, address, "words", stored.fingerprint)
    assert found is not None and found.shape == (31, DIM) and np.allclose(found[-1], vectors(1)[0], atol=1e-6)
    assert logged_queries(log, address, "words", "other") is None
    place = Place(open_storage(str(tmp_path / "work")), address, log)
    queries = gather_queries(dataset, place, "words", stored)
    assert (queries.source, len(queries.tune) + len(queries.measure)) == ("log", 31)
    log.unlink()
    assert gather_queries(dataset, place, "words", stored).source == "log"  # those that were kept
    elsewhere = Place(open_storage(str(tmp_path / "other")), address, log)
    assert gather_queries(dataset, elsewhere, "words", stored).source == "rows"


def test_a_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from latentlake import query_log

    monkeypatch.setattr(query_log, "MAX_BYTES", 400)
    log = query_log.QueryLog(tmp_path / "q.jsonl")
    for n in range(50):
        log.add("t", "c", "f", [np.full(4, n, "f4")])
    assert log.path.stat().st_size + older(log.path).stat().st_size < 1200
    found = logged_queries(log.path, "t", "c", "f")
    assert found is not None and found[-1, 0] == 49


def test_rows_are_moved_off_their_places_the_way_the_data_varies(maker: LakeMaker):
    flat = np.zeros((500, DIM), "f4")
    flat[:, :2] = vectors(500, dim=2)  # the data varies in two dimensions alone
    field = maker.vector_field("words", Config(dim=DIM), Chain("text"), "float32", "l2")
    dataset = maker.write("flat", {"id": [str(n) for n in range(500)]}, {"words": (field, flat)})
    moved = move_rows(dataset, "words", "l2", 100)
    assert moved.shape == (100, DIM) and not moved[:, 2:].any()
    off = np.sqrt(((moved[:, None] - flat[None]) ** 2).sum(axis=2)).min(axis=1)
    assert (off > 0).mean() > 0.95
    assert np.array_equal(moved, move_rows(dataset, "words", "l2", 100))


def test_bits_are_turned_where_others_differ():
    rng = np.random.default_rng(0)
    rows, differing = (rng.integers(0, 256, (50, 4), dtype=np.uint8) for _ in range(2))
    turned = turn_bits(rows, differing, np.full(50, 3), rng) ^ rows
    assert not (turned & ~differing).any()
    counts = np.bitwise_count(turned).sum(axis=1)
    assert np.array_equal(counts, np.minimum(3, np.bitwise_count(differing).sum(axis=1)))
