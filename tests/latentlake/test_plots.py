"""Plots of maps: as pages in a real browser, as still pictures, with tables that mean harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from chromium import show
from lake_maker import COLOURS, LakeMaker
from PIL import Image

import latentlake
from latentlake.exploration.colors import COLORS, OTHERS, color_rows
from operators.chain import Chain
from operators.embedders.hashing import Config
from operators.errors import NotFound, SpecError

ROWS = 40
EVIL = "</script><script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"
COLUMN = "<img src=x onerror=alert(1)>"  # Lance takes no dots
LINK = "<a href=\"javascript:document.title='ran'\">x</a>"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> latentlake.Table:
    """Texts, ids, labels and the names of columns that want to be more than text."""
    folder = tmp_path_factory.mktemp("lake")
    maker = LakeMaker(str(folder))
    field = maker.vector_field("v", Config(dim=8), Chain("text"), "float32", "cosine")
    data = {
        "id": [f"{EVIL}{row}" for row in range(ROWS)],
        "text": [EVIL + LINK] * ROWS,
        "label": [(EVIL, LINK, None)[row % 3] for row in range(ROWS)],
        COLUMN: np.linspace(0, 1, ROWS),
    }
    maker.write("t", data, {"v": (field, np.random.default_rng(0).normal(size=(ROWS, 8)))})
    return latentlake.connect(str(folder)).open("t")


@pytest.mark.slow
@pytest.mark.parametrize("color", ["label", COLUMN])
def test_a_page_in_a_browser(table: latentlake.Table, tmp_path: Path, color: str):
    page = table.plot(color, method="pca").save(tmp_path / "map.html")
    shown = show(page, tmp_path)
    assert 'data-drawn="yes"' in shown.dom and shown.dom.count('class="point ') == ROWS
    assert "<title>t</title>" in shown.dom  # no script of the table's has run
    assert shown.console == [] and shown.requests == []


@pytest.mark.slow
def test_the_browser_tells_of_requests_and_errors(tmp_path: Path):
    """What the other tests rest on."""
    page = tmp_path / "page.html"
    page.write_text("<script>console.error('oops'); new Image().src = 'http://nowhere.invalid/a.png'</script>")
    shown = show(page, tmp_path)
    assert any("oops" in line for line in shown.console)
    assert shown.requests == ["http://nowhere.invalid/a.png"]


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_still_pictures(table: latentlake.Table, tmp_path: Path, suffix: str):
    path = table.plot("label", method="pca").save(tmp_path / f"map.{suffix}")
    start = path.read_bytes()[:5]
    assert start in (b"\x89PNG\r", b"%PDF-", b"<?xml")


def test_a_plot_in_a_notebook(table: latentlake.Table):
    plot = table.plot(COLUMN, method="pca", rows=10)
    assert plot.to_image(800).size[0] == 800
    html = plot._repr_html_()
    assert html.startswith("<iframe srcdoc=") and html.count("<") == 2  # all of the page is in the attribute
    assert len(plot.figure.data[0].x) == len(plot.labels) == 10


def test_thumbnails_are_bounded_and_of_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    maker = LakeMaker(str(tmp_path / "lake"))
    maker.write_images(tmp_path / "objects")
    few = latentlake.connect(maker.uri).open("pictures")
    with pytest.raises(SpecError, match="4 rows have a vector"):
        few.plot(column="small", method="pca")
    maker.write_images(tmp_path / "more", "pictures2")
    dataset = few.to_lance()
    import lance

    lance.write_dataset(pa.concat_tables([dataset.to_table()] * 2), f"{maker.uri}/twice.lance")
    (tmp_path / "objects" / "red.png").unlink()
    table = latentlake.connect(maker.uri).open("twice")
    pictures = table.plot(column="small", method="pca").pictures
    assert len(pictures) == 2 * len(COLOURS)
    assert sum(picture.startswith("data:image/jpeg;base64,") for picture in pictures) == 6
    assert max(map(len, pictures)) < 6000
    assert "2 of 8 pictures cannot be shown, the first because of FileNotFoundError" in caplog.text
    assert sum(map(bool, table.plot(column="small", method="pca", thumbnails=3).pictures)) <= 3


def test_colors_of_values():
    names = ["b"] * 3 + ["a"] * 5 + [None]
    groups = list(color_rows("c", pa.chunked_array([names]), 9).groups())
    assert [(name, rows.tolist(), marker["color"]) for name, rows, marker in groups] == [
        ("no value", [8], OTHERS),
        ("a", [3, 4, 5, 6, 7], COLORS[0]),
        ("b", [0, 1, 2], COLORS[1]),
    ]
    many = [str(row) for row in range(20)] + ["0"]
    name, rows, marker = next(color_rows("c", pa.chunked_array([many]), 21).groups())
    assert (name, len(rows), marker["color"]) == ("8 others", 8, OTHERS)
    numbers = color_rows("c", pa.chunked_array([[0.5, None, 2.5]]), 3)
    assert not numbers.has_legend
    (_, without, _), (_, with_number, marker) = numbers.groups()
    assert (without.tolist(), with_number.tolist()) == ([1], [0, 2])
    assert marker["color"].tolist() == [0.5, 2.5] and marker["showscale"]
    assert color_rows("c", pa.chunked_array([[1, 2, 1]]), 3).has_legend
    assert [name for name, _, _ in color_rows("c", pa.chunked_array([[["a"], ["a"], ["b"]]]), 3).groups()] == [
        "['a']",
        "['b']",
    ]


def test_what_cannot_be(table: latentlake.Table, tmp_path: Path):
    with pytest.raises(NotFound, match="no column 'labl'"):
        table.plot("labl", method="pca")
    with pytest.raises(SpecError, match="rows is 0"):
        table.plot(rows=0)
    with pytest.raises(SpecError, match=r"not as 'map\.gif'"):
        table.plot(method="pca").save(tmp_path / "map.gif")


def test_a_small_still_picture_is_a_picture(table: latentlake.Table, tmp_path: Path):
    with Image.open(table.plot(method="pca").save(tmp_path / "map.png")) as image:
        assert image.size == (1800, 1296)
