"""Connecting, listing and opening."""

from __future__ import annotations

from pathlib import Path

import lance
import pyarrow as pa
import pytest
from lake_maker import LakeMaker

import latentlake
from operators.errors import NotFound, SpecError


def test_a_lake_that_does_not_exist_has_no_tables(tmp_path: Path):
    lake = latentlake.connect(tmp_path / "nothing")
    assert lake.tables() == []
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(NotFound, match="no tables here yet"):
        lake.open("notes")


def test_internal_tables_and_other_files_are_hidden(maker: LakeMaker):
    maker.write_texts()
    maker.write_texts("a.b-c")
    for internal in ("_runs", "notes__rejects"):
        lance.write_dataset(pa.table({"id": ["x"]}), f"{maker.uri}/{internal}.lance")
    (Path(maker.uri) / "readme.txt").write_text("no table")
    lake = latentlake.connect(maker.uri)
    assert lake.tables() == ["a.b-c", "notes"]
    assert lake.table_names() == lake.tables()
    assert lake.open_table("notes", version=1).name == "notes"
    assert repr(lake) == f"Lake({maker.uri!r})"
    assert lake.uri == maker.uri


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "_runs", "notes__rejects", "a'b", "ä", "a\n"])
def test_bad_names(maker: LakeMaker, name: str):
    with pytest.raises(SpecError, match="table name"):
        latentlake.connect(maker.uri).open(name)


def test_an_unknown_table_names_the_nearest(maker: LakeMaker):
    maker.write_texts("notes")
    maker.write_texts("pictures")
    with pytest.raises(NotFound, match=r"no table 'notse'.*Did you mean 'notes'\?\n  Tables here: notes, pictures"):
        latentlake.connect(maker.uri).open("notse")


def test_open_follows_prod_else_the_newest(maker: LakeMaker):
    maker.write_texts()
    dataset = maker.write_texts(mode="append")
    lake = latentlake.connect(maker.uri)
    newest = lake.open("notes")
    assert (newest.version, newest.tag) == (2, None)
    dataset.tags.create("prod", 1)
    dataset.tags.create("next", 2)
    assert (lake.open("notes").version, lake.open("notes").tag) == (1, "prod")
    assert (lake.open("notes", version=2).version, lake.open("notes", version=2).tag) == (2, None)
    assert (lake.open("notes", tag="next").version, lake.open("notes", tag="next").tag) == (2, "next")


def test_versions_and_tags_that_are_not_there(maker: LakeMaker):
    maker.write_texts().tags.create("prod", 1)
    lake = latentlake.connect(maker.uri)
    for version in (7, 0, -1):
        with pytest.raises(NotFound, match=f"no version {version}; there are 1, from 1 to 1"):
            lake.open("notes", version=version)
    with pytest.raises(NotFound, match=r"no tag 'prd'. Did you mean 'prod'\?\n  Tags: prod"):
        lake.open("notes", tag="prd")
    with pytest.raises(SpecError, match="not both"):
        lake.open("notes", version=1, tag="prod")


def test_an_address_is_needed():
    with pytest.raises(SpecError, match="address"):
        latentlake.connect("")
