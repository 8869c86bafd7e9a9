"""Search results: as data, in terminals and in notebooks, with tables that mean harm."""

from __future__ import annotations

import base64
import io
import os
import re
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

import latentlake
from latentlake.results import SHOWN_ROWS, SearchResult, show_cell

EVIL = '<script>alert("1")</script>\'"><img src=x onerror=alert(1)>'


def result_of(modality: str = "text", **columns: list) -> SearchResult:
    rows = len(next(iter(columns.values())))
    return SearchResult(pa.table({**columns, "_distance": pa.array([0.5] * rows, pa.float32())}), modality)


def tags_of(html: str) -> set[str]:
    return set(re.findall(r"<\s*/?\s*([a-zA-Z]+)", html))


def test_as_data():
    result = result_of(id=["a", "b"], text=["x", None])
    assert len(result) == 2
    assert result.to_list() == [
        {"id": "a", "text": "x", "_distance": 0.5},
        {"id": "b", "text": None, "_distance": 0.5},
    ]
    assert list(result) == result.to_list()
    assert result.to_arrow().column_names == ["id", "text", "_distance"]
    assert list(result.to_pandas().columns) == ["id", "text", "_distance"]


def test_plain_repr_and_rich():
    result = result_of(id=["[red]a[/red]"], text=["\x1b[31mred\x1b[0m\nline"])
    assert repr(result).startswith("SearchResult of 1 rows\n")
    assert "\x1b" not in repr(result)
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(result)
    shown = console.file.getvalue()
    assert "[red]a[/red]" in shown  # text, no markup
    assert "\x1b" not in shown
    assert "0.5000" in shown


def test_html_is_escaped():
    html = result_of(**{"id": [EVIL], "text": [EVIL], "uri": [EVIL], EVIL: [EVIL]})._repr_html_()
    assert tags_of(html) == {"table", "tr", "th", "td"}
    assert "&lt;script&gt;" in html
    assert '"' not in re.sub(r"<[^>]*>", "", html)


@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "http://127.0.0.1:1/a.png",
        '/nowhere/"><script>alert(1)</script>.png',
        "/nowhere",
        "/dev/zero",
        "",
        None,
    ],
)
def test_thumbnails_that_cannot_be_read_are_placeholders(uri: str | None):
    html = result_of("image", id=["a"], uri=pa.array([uri], pa.string()))._repr_html_()
    assert "no picture" in html
    assert tags_of(html) == {"table", "tr", "th", "td", "span"}
    assert not re.search(r"(href|src)\s*=", re.sub(r"&[a-z#0-9]+;", "", html))


def test_things_that_are_no_pictures(tmp_path: Path):
    (tmp_path / "text.png").write_text("not an image <b>")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would never return
    html = result_of("image", uri=[str(tmp_path / name) for name in ("text.png", "pipe.png")])._repr_html_()
    assert html.count("no picture") == 2
    assert "not an image" in html


def test_thumbnails(shared_lake: str):
    table = latentlake.connect(shared_lake).open("pictures")
    result = table.search(id="red.png", column="small", k=2)
    html = result._repr_html_()
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)" alt="">', html)
    assert len(pictures) == 2
    thumbnail = Image.open(io.BytesIO(base64.b64decode(pictures[0])))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (128, 85))
    red, green, blue = thumbnail.getpixel((5, 5))
    assert (abs(red - 230), abs(green - 120), abs(blue - 20)) < (10, 10, 10)  # orange is nearest to red


def test_texts_have_no_thumbnails(shared_lake: str):
    html = latentlake.connect(shared_lake).open("notes").search("compare")._repr_html_()
    assert "<img" not in html and "no picture" not in html


def test_images_without_their_uri(shared_lake: str):
    table = latentlake.connect(shared_lake).open("pictures")
    assert "<img" not in table.search(id="red.png", column="small", columns=["id"])._repr_html_()


def test_long_things_are_shortened():
    rows = SHOWN_ROWS + 3
    result = result_of(text=["word " * 1000] * rows)
    for shown in (repr(result), result._repr_html_()):
        assert "… and 3 more rows" in shown
        assert len(shown) < 300 * rows
    assert result.to_list()[0]["text"] == "word " * 1000


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (1.0, "1.0000"),
        (3, "3"),
        ("a\tb\r\nc", "a b c"),
        ("\u202eevil", "evil"),
        ("ü 漢", "ü 漢"),
        (True, "True"),
    ],
)
def test_cells(value: object, shown: str):
    assert show_cell(value) == shown


def test_an_empty_result():
    result = SearchResult(pa.table({"id": pa.array([], pa.string()), "_distance": pa.array([], pa.float32())}), "image")
    assert (len(result), result.to_list()) == (0, [])
    assert "<table>" in result._repr_html_()
    assert result.__rich__().row_count == 0


def test_columns_that_tell_nothing_are_not_shown_and_not_lost():
    rows = pa.table(
        {
            "id": ["a", "b"],
            "object_id": ["a", "b"],
            "uri": pa.nulls(2, pa.string()),
            "text": ["x", "y"],
            "v_tokens": [1, 2],
            "v_truncated": [False, True],
        }
    )
    result = SearchResult(rows)
    shown = [str(column.header) for column in result.__rich__().columns]
    assert shown == ["id", "text"]
    assert "v_tokens" not in result._repr_html_()
    assert result.to_arrow().column_names == rows.column_names


def test_times_that_python_does_not_know_are_texts():
    far = pa.array([253_402_300_800 * 10**6 * 3, 0, None], pa.timestamp("us"))
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "far": far,
            "odd": far.cast(pa.timestamp("us", "Mars/Base")),
            "_distance": [0.0, 0.5, 1.0],
        }
    )
    rows = SearchResult(table).to_list()
    assert [row["far"] for row in rows] == ["26059-12-31 00:00:00.000000", datetime(1970, 1, 1), None]
    assert rows[0]["odd"] == "26059-12-31 00:00:00.000000Z"
    assert "26059" in repr(SearchResult(table))
