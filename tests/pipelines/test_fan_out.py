"""Whoever fans an object out says where its rows lie; schema, chain and reserved names follow. Third parties' plugins, as installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from job_maker import make_job, open_table, rows_of, run, write_texts
from PIL import Image
from run_maker import open_lance
from third_party import installed

from latentlake.stored import UNIT_KEY
from operators.chain import Chain, Step
from operators.errors import InvalidSpec
from operators.fan_out import CHUNK, Position
from pipelines.job.jobfile import parse_job

pytestmark = pytest.mark.usefixtures("plugins")

OPERATOR = """
from operators.batch import Batch, RowError
from operators.fan_out import Position, fan_out
from operators.preprocess import operator

FRAME = (Position("frame", "frame"), Position("shown_ms", "time_ms"))

@operator("image", at_query=False, positions=FRAME)
def split_frames(batch: Batch, *, width: int = 8) -> Batch:
    def cut(row):
        strip = batch["image"][row]
        if strip.width % width:
            raise RowError(f"{strip.width} is no multiple of {width}")
        places = range(strip.width // width)
        return [(strip.crop((k * width, 0, (k + 1) * width, strip.height)), (k, 40 * k)) for k in places]
    return fan_out(batch, cut, column="image", stage="split_frames", positions=FRAME)

@operator("booklet", makes="text")
def read_pages(batch: Batch) -> Batch:
    return batch

@operator("text", positions=FRAME)
def forgetful(batch: Batch) -> Batch:
    return batch
"""
DECODER = """
from operators.batch import map_rows
from operators.fan_out import Position, fan_out

COLUMN, VERSION, EMBEDDED_AS = "text", 1, "text"
POSITIONS = (Position("page", "page"),)

def decode(batch):
    batch = map_rows(batch, bytes.decode, column="content", into="text", stage="decode")
    def cut(row):
        return [(page, (k,)) for k, page in enumerate(batch["text"][row].split("\\f")) if page]
    return fan_out(batch, cut, column="text", stage="decode", positions=POSITIONS)
"""
PICTURES = {"column": "v", "family": "hashing", "dim": 16, "pool": {"min": 1, "max": 1}}


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[None]:
    with installed(tmp_path / "site", {"preprocess/frames": OPERATOR, "decode/booklet": DECODER}):
        yield


def units(schema: pa.Schema) -> dict[str, tuple[str, str]]:
    """Type and unit of each column of positions."""
    return {
        f.name: (str(f.type), f.metadata[UNIT_KEY].decode()) for f in schema if f.metadata and UNIT_KEY in f.metadata
    }


def strip(*colors: int) -> Image.Image:
    """Frames of 8 x 8 pixels side by side."""
    return Image.fromarray(np.repeat(np.array(colors, dtype=np.uint8), 8)[None].repeat(8, 0)).convert("RGB")


def test_frames_of_an_operator(tmp_path: Path):
    (tmp_path / "in").mkdir()
    strip(10, 200, 10).save(tmp_path / "in" / "a.png")
    strip(200).save(tmp_path / "in" / "b.png")
    Image.new("RGB", (9, 8)).save(tmp_path / "in" / "odd.png")
    job = make_job(
        tmp_path,
        {"kind": "files", "uri": str(tmp_path / "in")},
        [PICTURES],
        "image",
        preprocess=[{"op": "split_frames"}],
        gates={"max_reject_rate": 1},
    )
    report = run(job)
    counts = report["counts"]
    assert (counts["embedded"], counts["reused"], counts["rejected"], report["rows_written"]) == (1, 1, 1, 4)
    rows = rows_of(job)
    assert [(r["id"], r["chunk"], r["frame"], r["shown_ms"]) for r in rows.values()] == [
        ("a.png#0", 0, 0, 0), ("a.png#1", 1, 1, 40), ("a.png#2", 2, 2, 80), ("b.png#0", 0, 0, 0)
    ]  # fmt: skip
    assert units(open_table(job).schema) == {
        "chunk": ("int32", "row"), "frame": ("int64", "frame"), "shown_ms": ("int64", "time_ms")
    }  # fmt: skip
    hashes = {name: row["content_hash"] for name, row in rows.items()}  # of the pixels: equal frames, equal hashes
    assert hashes["a.png#0"] == hashes["a.png#2"] != hashes["a.png#1"] == hashes["b.png#0"]
    assert rows["a.png#1"]["v"] == rows["b.png#0"]["v"] != rows["a.png#0"]["v"]
    (reject,) = open_table(job).rejects().to_pylist()
    assert (reject["stage"], reject["error"]) == ("split_frames", "9 is no multiple of 8")
    assert run(job)["state"] == "unchanged"


def test_pages_of_a_decoder(tmp_path: Path):
    write_texts(tmp_path / "in", {"book": "one\ftwo\f\fthree", "sheet": "two"})
    job = make_job(
        tmp_path, {"kind": "files", "uri": str(tmp_path / "in")}, modality="booklet", preprocess=[{"op": "read_pages"}]
    )
    assert run(job)["rows_written"] == 4
    rows = rows_of(job)
    assert [(r["id"], r["page"], r["text"]) for r in rows.values()] == [
        ("book#0", 0, "one"), ("book#1", 1, "two"), ("book#2", 3, "three"), ("sheet#0", 0, "two")
    ]  # fmt: skip
    assert rows["book#1"]["h"] == rows["sheet#0"]["h"]
    assert units(open_table(job).schema) == {"chunk": ("int32", "row"), "page": ("int32", "page")}


def test_names_of_positions_are_reserved(tmp_path: Path):
    source = {
        "kind": "jsonl",
        "uri": str(tmp_path),
        "id": "id",
        "content": "text",
        "metadata": ["page", "shown_ms", "year"],
    }
    with pytest.raises(InvalidSpec) as refused:
        parse_job(make_job(tmp_path, source, [{**PICTURES, "column": "frame"}]))
    assert [problem.split(" ", 2)[:2] for problem in refused.value.problems] == [
        ["embed[0].column:", "'frame'"], ["source.metadata[0]:", "'page'"], ["source.metadata[1]:", "'shown_ms'"]
    ]  # fmt: skip


def test_an_operator_that_forgets_its_positions(tmp_path: Path):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a": "one"}), preprocess=[{"op": "forgetful"}])
    with pytest.raises(Exception, match="forgetful: declares the position 'frame', and does not write it"):
        run(job)


def test_a_chain_knows_its_positions():
    start, end = Position("start", "characters"), Position("end", "characters")
    assert Chain("text").positions == Chain("audio").positions == ()
    assert Chain("text", (Step("chunk_text", {"column": "h"}),)).positions == (CHUNK, start, end)
    both = Chain("booklet", (Step("chunk_text", {"column": "h"}),)).positions
    assert both == (CHUNK, Position("page", "page"), start, end)


def test_a_table_whose_columns_say_no_unit_is_gone_on_with(tmp_path: Path):
    """As an earlier release made it."""
    job = make_job(
        tmp_path,
        write_texts(tmp_path / "in", {"a": "one two three"}),
        preprocess=[{"op": "chunk_text", "column": "h", "max_tokens": 2}],
    )
    run(job)
    assert units(open_table(job).schema)["end"] == ("int64", "characters")
    table = open_lance(job)
    for name in ("chunk", "start", "end"):
        table.update_field_metadata({name: {}}, replace=True)
    table.tags.update("prod", table.version)
    assert units(open_table(job).schema) == {}
    write_texts(tmp_path / "in", {"b": "four five six"})
    report = run(job)
    assert (report["state"], report["rows_written"], len(rows_of(job))) == ("published", 2, 4)
    assert run({**job, "table": {**job["table"], "mode": "rebuild"}})["rows_written"] == 4
    assert units(open_table(job).schema)["start"] == ("int64", "characters")
