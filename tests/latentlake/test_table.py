"""What a table tells about itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import lance
import pyarrow as pa
import pytest
from lake_maker import NO_VECTOR, TEXTS, LakeMaker

import latentlake
from operators.errors import NotFound, SpecError


@pytest.fixture
def notes(shared_lake: str) -> latentlake.Table:
    return latentlake.connect(shared_lake).open("notes")


def test_attributes(notes: latentlake.Table, shared_lake: str):
    assert (notes.name, notes.version, notes.tag) == ("notes", 1, None)
    assert notes.uri == f"{shared_lake}/notes.lance"
    assert notes.vector_columns == ["words"]
    assert notes.schema.field("words").type == pa.list_(pa.float32(), 256)
    assert repr(notes) == "Table('notes', version=1, vector_columns=['words'])"


def test_habits_of_data_frames(notes: latentlake.Table):
    assert notes.columns == ["id", "object_id", "uri", "content_hash", "object_hash", "text", "length", "words"]
    assert len(notes) == notes.count_rows() == len(TEXTS)
    assert notes.count_rows("text LIKE 'compare%'") == 2
    assert [row["id"] for row in notes.head(2)] == ["doc0", "doc1"]
    assert len(notes.head()) == 5 and len(notes.head(0)) == 0
    assert notes.head(1)[0].keys() == {"id", "object_id", "uri", "text", "length"}
    assert "parse the options" in str(notes.head()) and "<table>" in notes.head()._repr_html_()
    assert [row["text"] for row in notes] == list(TEXTS)
    frame = notes.to_pandas(columns=["id", "length"], where="length > 30", limit=2)
    assert (list(frame.columns), len(frame)) == (["id", "length"], 2)
    with pytest.raises(SpecError, match="limit"):
        notes.head(-1)


def test_a_table_without_rows_is_true(maker: LakeMaker):
    maker.write_texts().delete("true")
    table = latentlake.connect(maker.uri).open("notes")
    assert table and not len(table) and list(table) == []


def test_provenance(notes: latentlake.Table):
    provenance = notes.provenance("words")
    assert (provenance.dimension, provenance.modality, provenance.run_id) == (256, "text", "run-1")
    with pytest.raises(NotFound, match=r"no vector column 'word'. Did you mean 'words'\?\n  Vector columns: words"):
        notes.provenance("word")


def test_count_and_filter(notes: latentlake.Table):
    assert notes.count() == len(TEXTS)
    assert notes.count("text LIKE 'compare%'") == 2
    assert notes.count("words IS NULL") == 1


@pytest.mark.parametrize("where", ["nope = 1", "length ==== 2", "length", "nosuch(id) = 1", "CAST(text AS INT) = 1"])
def test_a_bad_filter_is_explained(notes: latentlake.Table, where: str):
    for call in (
        lambda: notes.count(where),
        lambda: notes.to_arrow(where=where),
        lambda: notes.search("compare", where=where),
    ):
        with pytest.raises(SpecError) as caught:
            call()
        assert str(caught.value).startswith(f"where = {where!r}: ")
        assert ".rs:" not in str(caught.value)


def test_to_arrow(notes: latentlake.Table):
    assert notes.to_arrow().num_rows == len(TEXTS)
    assert notes.to_arrow()["words"][NO_VECTOR].as_py() is None
    part = notes.to_arrow(columns=["text", "id", "text"], where="length > 30", limit=2)
    assert (part.column_names, part.num_rows) == (["text", "id"], 2)
    assert notes.to_arrow(limit=0).num_rows == 0
    with pytest.raises(NotFound, match=r"no column 'txt'. Did you mean 'text'\?"):
        notes.to_arrow(columns=["txt"])
    with pytest.raises(SpecError, match="limit"):
        notes.to_arrow(limit=-1)


def test_versions_tell_runs_and_tags(maker: LakeMaker):
    maker.write_texts().tags.create("prod", 1)
    maker.append_run("notes", "run-2", {"rows_written": 1})
    table = latentlake.connect(maker.uri).open("notes")
    assert table.version == 1
    first, second = table.versions()
    assert (first.version, first.tags, first.rows, first.run_id, first.summary) == (1, ("prod",), 6, None, None)
    assert (second.version, second.tags, second.rows, second.run_id) == (2, (), 7, "run-2")
    assert second.summary == {"rows_written": 1}
    assert first.timestamp.tzinfo == UTC
    assert abs(datetime.now(UTC) - second.timestamp) < timedelta(minutes=5)
    assert table.tags() == {"prod": 1}


def test_rows_of_a_version_leave_deleted_ones_out(maker: LakeMaker):
    maker.write_texts().delete("id = 'doc0'")
    assert [v.rows for v in latentlake.connect(maker.uri).open("notes").versions()] == [6, 5]


def test_a_reader_stays_pinned_until_it_checks_out(maker: LakeMaker):
    maker.write_texts()
    table = latentlake.connect(maker.uri).open("notes")
    dataset = maker.write_texts(texts=["new text"], mode="append")
    dataset.tags.create("next", 2)
    assert (table.count(), table.version) == (6, 1)
    assert len(table.search("new text", k=100)) == 6
    newer = table.checkout(2)
    assert (newer.count(), newer.version, newer.tag) == (7, 2, None)
    assert (table.checkout("next").count(), table.checkout("next").tag) == (7, "next")
    assert (table.count(), table.version) == (6, 1)
    with pytest.raises(NotFound, match="no version 9"):
        table.checkout(9)


def test_rejects(maker: LakeMaker):
    maker.write_texts()
    table = latentlake.connect(maker.uri).open("notes")
    assert table.rejects().num_rows == 0
    assert "object_id" in table.rejects().column_names
    rejects = pa.table({"object_id": ["bad"], "stage": ["decode"], "error": ["decode: empty"]})
    lance.write_dataset(rejects, f"{maker.uri}/notes__rejects.lance")
    assert table.rejects().to_pylist() == [{"object_id": "bad", "stage": "decode", "error": "decode: empty"}]


def test_a_lance_table_of_somebody_else(maker: LakeMaker):
    lance.write_dataset(pa.table({"id": ["x"]}), f"{maker.uri}/other.lance")
    table = latentlake.connect(maker.uri).open("other")
    assert (table.columns, table.vector_columns, table.indexes()) == (["id"], [], [])
    with pytest.raises(SpecError, match="no vector column"):
        table.search("x")
