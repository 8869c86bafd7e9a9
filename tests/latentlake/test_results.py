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
from rich.cells import cell_len
from rich.console import Console

import latentlake
from latentlake.results import SHOWN_ROWS, SearchResult
from latentlake.views import share_width, show_cell

GALLERY_TAGS = {"div", "figure", "figcaption", "span", "br"}
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


def test_rows_by_place():
    result = result_of(id=["a", "b", "c"])
    assert result[0] == {"id": "a", "_distance": 0.5}
    assert result[-1]["id"] == "c"
    part = result[1:]
    assert isinstance(part, SearchResult) and [row["id"] for row in part] == ["b", "c"]
    assert len(result[3:]) == 0
    with pytest.raises(IndexError):
        result[3]


def test_str_is_a_table_that_fits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "60")
    result = result_of(id=["a.txt", "b.txt"], year=[1999, 2001], text=["a cat sat on the mat " * 9, "漢字 " * 60])
    head, *lines = str(result).splitlines()
    assert head.split() == ["distance", "id", "text", "year"]
    assert [line.split()[:2] for line in lines] == [["0.5000", "a.txt"], ["0.5000", "b.txt"]]
    assert lines[0].endswith("1999") and "…" in lines[0]
    assert all(cell_len(line) <= 60 for line in str(result).splitlines())
    assert repr(result) == str(result)


def test_columns_for_which_no_room_is_left_are_named():
    wide = result_of(id=["a"], text=["word " * 30], **{f"column_{n}": ["value " * 5] for n in range(9)}).to_text(80)
    assert wide.splitlines()[-1].startswith("not shown: column_") and "column_8" not in wide.splitlines()[0]
    assert all(len(line) <= 80 for line in wide.splitlines())


@pytest.mark.parametrize(
    ("wanted", "width", "widths"),
    [
        ({"a": 8, "b": 5}, 100, {"a": 8, "b": 5}),
        ({"a": 8, "b": 500}, 100, {"a": 8, "b": 90}),
        ({"a": 500, "b": 500}, 100, {"a": 66, "b": 32}),
        ({"a": 500, "b": 4}, 100, {"a": 94, "b": 4}),
        ({"a": 500, "b": 500, "c": 500}, 30, {"a": 30}),
        ({"a": 5}, 1, {"a": 1}),
    ],
)
def test_sharing_the_width(wanted: dict[str, int], width: int, widths: dict[str, int]):
    assert share_width(wanted, width) == widths


def test_plain_repr_and_rich():
    result = result_of(id=["[red]a[/red]"], text=["\x1b[31mred\x1b[0m\nline"])
    assert repr(result).splitlines()[0].split() == ["distance", "id", "text"]
    assert "\x1b" not in repr(result)
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(result)
    shown = console.file.getvalue()
    assert "[red]a[/red]" in shown  # text, no markup
    assert "\x1b" not in shown
    assert "0.5000" in shown


def test_html_is_escaped():
    cells = {"id": [EVIL], "text": [EVIL], "uri": [EVIL], EVIL: [EVIL]}
    table = pa.table({**cells, "_distance": [0.5]})
    for modality, tags in (("text", {"p", "b", "table", "tr", "th", "td"}), ("image", GALLERY_TAGS)):
        html = SearchResult(table, modality, query=(EVIL, EVIL))._repr_html_()
        assert tags_of(html) == tags
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
    assert tags_of(html) == GALLERY_TAGS
    assert not re.search(r"(href|src)\s*=", re.sub(r"&[a-z#0-9]+;", "", html))


def test_things_that_are_no_pictures(tmp_path: Path):
    (tmp_path / "text.png").write_text("not an image <b>")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would never return
    html = result_of("image", uri=[str(tmp_path / name) for name in ("text.png", "pipe.png")])._repr_html_()
    assert html.count("no picture") == 2
    assert "not an image" in html


def pictures_of(html: str) -> list[Image.Image]:
    found = re.findall(r'<img src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)" alt="">', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_a_gallery_shows_the_query_first(shared_lake: str):
    table = latentlake.connect(shared_lake).open("pictures")
    red = Path(table.to_arrow(where="id = 'red.png'")["uri"][0].as_py())
    for query in ({"id": "red.png"}, {"query": red}, {"query": Image.open(red)}):
        html = table.search(**query, column="small", k=2)._repr_html_()
        shown, *hits = pictures_of(html)
        assert html.index("query") < html.index("<img", html.index("<img") + 1)
        assert len(hits) == 2 and (shown.format, shown.size) == ("JPEG", (128, 85))
        assert all(abs(a - b) < 10 for a, b in zip(shown.getpixel((5, 5)), (220, 20, 20), strict=True))
    orange = pictures_of(table.search(id="red.png", column="small", k=1)._repr_html_())[1]  # nearest to red
    assert all(abs(a - b) < 10 for a, b in zip(orange.getpixel((5, 5)), (230, 120, 20), strict=True))


@pytest.mark.parametrize(
    ("size", "shown"),
    [((32, 32), (96, 96)), ((65, 10), (130, 20)), ((96, 40), (96, 40)), ((2000, 100), (128, 6)), ((1, 1), (96, 96))],
)
def test_small_pictures_are_enlarged(tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]):
    Image.new("RGBA", size, (200, 10, 10, 255)).save(tmp_path / "a.png")
    (picture,) = pictures_of(result_of("image", uri=[str(tmp_path / "a.png")])._repr_html_())
    assert picture.size == shown


def test_a_table_of_texts_shows_the_query_first(shared_lake: str):
    html = latentlake.connect(shared_lake).open("notes").search("compare <two>")._repr_html_()
    assert html.startswith("<p><b>query</b> compare &lt;two&gt;</p>\n<table>")


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
        (-1e-7, "0.0000"),
        (float("nan"), "nan"),
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
    assert str(result) == "no rows"


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
    assert str(result).splitlines()[0].split() == ["id", "text"]
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
