"""Comparisons of versions, columns and tables, against scikit-learn and plain sets. Real Lance, no model."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from chromium import show
from hypothesis import given, settings
from hypothesis import strategies as st
from lake_maker import LakeMaker
from sklearn.neighbors import NearestNeighbors

import latentlake
from latentlake.comparison.compare import compare
from latentlake.comparison.coverage import count_vectors, match_rows
from latentlake.comparison.neighbours import nearest_in, overlap_of, share_of
from operators.chain import Chain
from operators.embedders.hashing import Config
from operators.errors import MissingExtra, NotFound, SpecError

ROWS = 300
RNG = np.random.default_rng(0)
WIDE = RNG.standard_normal((ROWS, 16)).astype(np.float32)
NARROW = WIDE[:, :4] + 0.3 * RNG.standard_normal((ROWS, 4)).astype(np.float32)
HOSTILE = "<script>alert(1)</script>"


def make(
    maker: LakeMaker,
    name: str,
    columns: dict[str, np.ndarray],
    *,
    ids: list[str] | None = None,
    texts: list[str] | None = None,
    mode: str = "create",
    metric: str = "cosine",
    no_vector: tuple[int, ...] = (),
) -> None:
    """A table of vectors that are given; `kind` is even or odd."""
    rows = len(next(iter(columns.values())))
    ids = [f"r{n:03}" for n in range(rows)] if ids is None else ids
    texts = [f"text {n}" for n in range(rows)] if texts is None else texts
    data = {
        "id": pa.array(ids, pa.string()),
        "content_hash": pa.array(texts, pa.string()),
        "text": pa.array(texts, pa.string()),
        "kind": pa.array(["even" if n % 2 == 0 else "odd" for n in range(rows)], pa.string()),
    }
    vectors = {
        column: (maker.vector_field(column, Config(dim=values.shape[1]), Chain("text"), "float32", metric), values)
        for column, values in columns.items()
    }
    maker.write(name, data, vectors, mode, no_vector)


def open_table(maker: LakeMaker, name: str) -> latentlake.Table:
    return latentlake.connect(maker.uri).open(name)


@pytest.mark.parametrize(
    ("metric", "theirs"), [("cosine", "cosine"), ("l2", "sqeuclidean"), ("hamming", "hamming"), ("dot", None)]
)
def test_neighbours_are_scikit_learn_s(metric: str, theirs: str | None):
    vectors = RNG.integers(0, 256, (200, 8)).astype(np.uint8) if metric == "hamming" else WIDE[:200]
    found = nearest_in(vectors, 50, 5, metric)
    values = np.unpackbits(vectors, axis=1).astype(bool) if metric == "hamming" else vectors.astype(np.float64)
    if theirs is None:
        distances = -(values[:50] @ values.T)
    else:
        order = NearestNeighbors(n_neighbors=200, metric=theirs, algorithm="brute").fit(values).kneighbors(values[:50])
        distances = np.zeros((50, 200))
        np.put_along_axis(distances, order[1], order[0], axis=1)
    distances[np.arange(50), np.arange(50)] = np.inf
    got = np.take_along_axis(distances, found, axis=1)
    np.testing.assert_allclose(got, np.sort(distances, axis=1)[:, :5], rtol=1e-5)


def test_of_equally_near_rows_the_first_counts():
    assert nearest_in(np.ones((6, 2), np.float32), 2, 3, "l2").tolist() == [[1, 2, 3], [0, 2, 3]]
    assert nearest_in(np.zeros((4, 2), np.float32), 1, 2, "cosine").tolist() == [[0, 1]]  # no directions: all as far


def test_the_overlap_is_the_share_of_neighbours_that_are_the_same():
    ids = np.array([f"r{n}" for n in range(ROWS)])
    found = overlap_of(ids, (WIDE, "l2"), (NARROW, "l2"), k=7, queries=ROWS)
    places = [
        NearestNeighbors(n_neighbors=8, algorithm="brute").fit(one).kneighbors(one, return_distance=False)
        for one in (WIDE, NARROW)
    ]
    kept = [
        len({*a} - {row} & {*b} - {row}) for row, (a, b) in enumerate(zip(*map(np.ndarray.tolist, places), strict=True))
    ]
    assert found.overlap.value == pytest.approx(np.mean(kept) / 7)
    assert found.histogram == tuple(kept.count(n) for n in range(8))
    assert found.overlap.low < found.overlap.value < found.overlap.high
    assert [row.overlap for row in found.changed] == [n / 7 for n in sorted(kept)[:10]]
    worst = found.changed[0]
    assert worst.before[0] == ids[next(p for p in places[0][int(worst.id[1:])] if ids[p] != worst.id)]


def test_an_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = [(share := share_of(rng.binomial(10, 0.6, 60) / 10)).low <= 0.6 <= share.high for _ in range(100)]
    assert 88 <= sum(held) <= 100


@settings(deadline=None, max_examples=20)
@given(st.integers(3, 60), st.integers(1, 5), st.sampled_from(["cosine", "l2", "dot"]), st.integers(0, 2**31))
def test_turning_and_scaling_keeps_all_neighbours(rows: int, dim: int, metric: str, seed: int):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, dim))
    turned = 3 * vectors @ np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    ids = np.arange(rows).astype(str)
    assert overlap_of(ids, (vectors, metric), (vectors, metric), k=2, queries=rows).overlap.value == 1
    if dim > 1:  # in one dimension many rows are equally near by direction
        found = overlap_of(ids, (vectors, metric), (turned, metric), k=2, queries=rows)
        assert found.overlap.value == pytest.approx(1, abs=2 / rows)


IDS = st.lists(st.sampled_from([f"i{n}'\"<" for n in range(30)]), unique=True, min_size=1)


@settings(deadline=None, max_examples=15)
@given(IDS, IDS, st.integers(0, 3))
def test_coverage_is_that_of_sets(tmp_path_factory: pytest.TempPathFactory, one: list[str], other: list[str], n: int):
    maker = LakeMaker(str(tmp_path_factory.mktemp("lake")))
    for name, ids in (("one", one), ("other", other)):
        texts = [f"{name} {id}" if id[1:2] == str(n) else id for id in ids]
        make(maker, name, {"v": RNG.random((len(ids), 2))}, ids=ids, texts=texts)
    found, places = match_rows(open_table(maker, "one"), open_table(maker, "other"), "v", "v", rows=10)
    common = {*one} & {*other}
    assert (found.common, found.only_before, found.only_after) == (
        len(common),
        len({*one} - {*other}),
        len({*other} - {*one}),
    )
    assert found.changed == sum(id[1:2] == str(n) for id in common)
    assert found.ids_only_before == tuple(sorted({*one} - {*other})[:10])
    drawn = [one[place] for place in places.before]
    assert drawn == [other[place] for place in places.after]  # the same rows on both sides
    assert {*drawn} <= common and len({*drawn}) == min(10, len(common))


def test_two_versions(maker: LakeMaker):
    make(maker, "t", {"v": WIDE}, no_vector=(5,))
    moved = WIDE.copy()
    moved[:20] = RNG.standard_normal((20, 16))
    texts = [f"text {n}" if n >= 20 else f"new text {n}" for n in range(ROWS)]
    make(maker, "t", {"v": moved[3:]}, ids=[f"r{n:03}" for n in range(3, ROWS)], texts=texts[3:], mode="overwrite")
    table = open_table(maker, "t")
    found = table.checkout(1).compare(table, segment="kind")
    assert (found.before.version, found.after.version, found.before.column) == (1, 2, "v")
    rows = found.coverage
    assert (rows.rows_before, rows.rows_after, rows.common, rows.changed) == (ROWS, ROWS - 3, ROWS - 3, 17)
    assert rows.ids_only_before == ("r000", "r001", "r002") and rows.vectors_before == ROWS - 1
    near = found.neighbours
    assert near is not None and near.pool == ROWS - 4 and 0.7 < near.overlap.value < 1
    worst = near.changed[0]
    assert worst.id < "r020" and worst.text == f"text {int(worst.id[1:])}" and worst.before != worst.after
    assert set(near.segments) == {"even", "odd"} and near.segments["even"].rows == sum(
        range(3, ROWS)[n] % 2 == 0 and n != 2 for n in range(ROWS - 3)
    )
    assert found.drift is not None and found.drift.p_value > 0.05 and set(found.drift.segments) == {"even", "odd"}
    assert found.notes == ()
    again = table.compare(1)
    assert (again.before.version, again.after.version) == (2, 1)


def test_a_version_that_differs_in_nothing(maker: LakeMaker):
    make(maker, "t", {"v": WIDE})
    lance.dataset(f"{maker.uri}/t.lance").update_metadata({"note": "another version, the same rows"})
    found = open_table(maker, "t").compare(1)
    assert found.after.version == 1 and found.before.version == 2
    assert found.neighbours is not None and found.drift is not None
    assert found.neighbours.overlap.value == found.neighbours.first.value == 1 and found.neighbours.changed == ()
    assert found.neighbours.histogram == (0,) * 10 + (ROWS,)
    assert (found.drift.mmd, found.drift.mean_shift) == (0, 0) and found.drift.p_value > 0.9
    assert (found.coverage.changed, found.coverage.only_before, found.coverage.only_after) == (0, 0, 0)


def test_two_columns_of_other_dimensions(maker: LakeMaker):
    make(maker, "t", {"wide": WIDE, "narrow": NARROW}, no_vector=(1, 2))
    dataset = lance.dataset(f"{maker.uri}/t.lance")
    dataset.update({"narrow": "NULL"}, where="id >= 'r200'")
    found = open_table(maker, "t").compare(column="wide", other_column="narrow", k=5)
    assert (found.coverage.vectors_before, found.coverage.vectors_after) == (ROWS - 2, 198)
    assert found.coverage.ids_only_before[:2] == ("r200", "r201") and found.coverage.ids_only_after == ()
    near = found.neighbours
    assert near is not None and near.pool == 198 and near.k == 5
    expected = overlap_of(
        np.arange(198).astype(str),
        (WIDE[[0, *range(3, 200)]], "cosine"),
        (NARROW[[0, *range(3, 200)]], "cosine"),
        k=5,
        queries=198,
    )
    assert near.overlap.value == pytest.approx(expected.overlap.value)
    assert found.drift is None and "other dimensions" in found.notes[0]
    assert found.models == {"dim": ("16", "4")} and "models differ in: dim (16 -> 4)" in found.to_text()
    with pytest.raises(SpecError, match="say which columns"):
        open_table(maker, "t").compare()


def test_two_tables_without_a_row_in_common(maker: LakeMaker):
    make(maker, "one", {"v": WIDE})
    make(maker, "other", {"v": WIDE + 1}, ids=[f"x{n}" for n in range(ROWS)])
    found = open_table(maker, "one").compare(open_table(maker, "other"))
    assert found.neighbours is None and found.coverage.common == 0 and "no neighbours are compared" in found.notes[0]
    assert found.drift is not None and found.drift.p_value == pytest.approx(0.001)  # which needs no common rows
    assert "vectors: 300 before, 300 after" in found.to_text()


def test_what_cannot_be_compared_is_refused(maker: LakeMaker):
    make(maker, "t", {"v": WIDE})
    table = open_table(maker, "t")
    with pytest.raises(SpecError, match="both sides are column 'v' of 't' at version 1"):
        table.compare()
    with pytest.raises(NotFound, match="no vector column 'w'"):
        table.compare(column="v", other_column="w")
    make(maker, "u", {"v": WIDE})
    with pytest.raises(NotFound, match="no column 'sort'"):
        table.compare(open_table(maker, "u"), segment="sort")
    with pytest.raises(SpecError, match="pool 10: at least"):
        compare(table, open_table(maker, "u"), pool=10)
    with pytest.raises(NotFound, match="has no version 9"):
        table.compare(9)


def test_vectors_of_a_large_column_are_counted_on_a_sample(maker: LakeMaker, monkeypatch: pytest.MonkeyPatch):
    make(maker, "t", {"v": WIDE}, no_vector=tuple(range(0, ROWS, 3)))
    table = open_table(maker, "t")
    assert count_vectors(table, "v") == (200, False)
    monkeypatch.setattr("latentlake.comparison.coverage.COUNTED_BYTES", 100)
    monkeypatch.setattr("latentlake.comparison.coverage.COUNTED_ROWS", 100)
    counted, estimated = count_vectors(table, "v")
    assert estimated and 150 <= counted <= 250


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str | None]] = {}
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_all_and_runs_nothing(maker: LakeMaker, tmp_path: Path):
    ids = [f'"{HOSTILE}{n}' for n in range(ROWS)]
    texts = [f"'>{HOSTILE}{n}" for n in range(ROWS)]
    make(maker, "one", {"v": WIDE}, ids=ids, texts=texts)
    make(maker, "two", {"v": np.roll(WIDE, 7, axis=0)}, ids=[*ids[:-1], f"{HOSTILE}else"], texts=texts)
    found = open_table(maker, "one").compare(open_table(maker, "two"), segment="text")
    found.write_page(tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags and "img" not in page.tags and "link" not in page.tags
    assert not {"src", "href", "onload", "onclick"} & page.attributes.keys()
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.attributes["content"]
    assert found.neighbours is not None
    for shown in (ids[0], f"{HOSTILE}else", found.neighbours.changed[0].text, f"{found.neighbours.overlap.value:.3f}"):
        assert str(shown) in page.text
    assert "<script>" not in found._repr_html_()
    json.dumps(found.to_json())


def test_a_page_needs_jinja2_and_the_rest_does_not(maker: LakeMaker, monkeypatch: pytest.MonkeyPatch):
    make(maker, "t", {"v": WIDE[:20], "w": NARROW[:20]})
    monkeypatch.setitem(sys.modules, "jinja2", None)
    found = open_table(maker, "t").compare(column="v", other_column="w")
    assert "overlap@10" in str(found)
    with pytest.raises(MissingExtra, match=r"pip install 'latentlake\[report\]'"):
        found.to_html()


@pytest.mark.slow
def test_the_page_in_a_browser(maker: LakeMaker, tmp_path: Path):
    ids = [f'"{HOSTILE}{n}' for n in range(ROWS)]
    make(maker, "one", {"v": WIDE}, ids=ids, texts=ids)
    make(maker, "two", {"v": np.roll(WIDE, 7, axis=0)}, ids=ids, texts=ids)
    open_table(maker, "one").compare(open_table(maker, "two")).write_page(tmp_path / "page.html")
    shown = show(tmp_path / "page.html", tmp_path)
    assert shown.requests == [] and shown.console == [] and "Rows whose neighbours changed most" in shown.dom


def test_the_command(maker: LakeMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from pipelines.cli.main import app

    make(maker, "one", {"v": WIDE, "w": NARROW})
    make(maker, "two", {"v": WIDE + 0.1, "w": NARROW})
    make(maker, "one", {"v": WIDE, "w": NARROW}, mode="overwrite")

    def run(*words: str) -> Any:
        app(["compare", maker.uri, *words], standalone_mode=False)
        return capsys.readouterr().out

    told = run("one", "two", "--columns", "v", "v", "--segment", "kind", "--page", str(tmp_path / "page.html"))
    assert "after:  two version 1, column v" in told and "rows: 300 before, 300 after; 300 in both" in told
    assert "<h2>Neighbours</h2>" in (tmp_path / "page.html").read_text()
    found = json.loads(run("one", "--columns", "v", "w", "-k", "3", "--json"))
    assert found["before"]["column"] == "v" and found["after"]["column"] == "w" and found["neighbours"]["k"] == 3
    lance.dataset(f"{maker.uri}/one.lance").tags.create("prod", 1)
    found = json.loads(run("one", "--versions", "prod", "2", "--columns", "v", "v", "--json"))
    assert (found["before"]["version"], found["before"]["tag"], found["after"]["version"]) == (1, "prod", 2)
    assert found["neighbours"]["overlap"]["value"] == 1
    with pytest.raises(SpecError, match="name --versions"):
        run("one")


def test_measures_of_a_suite_are_compared_query_by_query(maker: LakeMaker, tmp_path: Path):
    (tmp_path / "queries.tsv").write_text("q1\topen the file\nq2\tcompare strings\nq3\trun a function\n")
    (tmp_path / "qrels.txt").write_text("q1 0 doc3 1\nq2 0 doc2 2\nq2 0 doc4 1\nq3 0 doc1 1\n")
    task = {"kind": "retrieval", "queries": tmp_path / "queries.tsv", "qrels": tmp_path / "qrels.txt"}
    suite = {"tasks": [{**task, "measures": ["nDCG@10", "RR"]}]}
    maker.write_texts("fine")
    maker.write_texts("coarse", config=Config(dim=8))
    fine, coarse = open_table(maker, "fine"), open_table(maker, "coarse")
    found = fine.compare(coarse, suite=suite)
    before, after = fine.evaluate(suite), coarse.evaluate(suite)
    assert [one.measure for one in found.measures] == ["nDCG@10", "RR"]
    for one in found.measures:
        a, b = before.find(one.measure), after.find(one.measure)
        assert (one.before, one.after, one.n) == (a.value, b.value, 3)
        apart = np.subtract(*(np.array(side.values(r)["value"]) for side, r in ((after, b), (before, a))))
        assert one.value == pytest.approx(apart.mean()) and one.low <= one.value <= one.high
    assert f"{found.measures[0].value:+.4f}" in found.to_text(160) and "<h2>Measures</h2>" in found.to_html()


def test_measures_of_two_columns(maker: LakeMaker, tmp_path: Path):
    """Of one version: the results of the one column are set beside those of the other."""
    (tmp_path / "queries.tsv").write_text("q1\ttext 3\n")
    (tmp_path / "qrels.txt").write_text("q1 0 r003 1\n")
    task = {
        "kind": "retrieval",
        "queries": tmp_path / "queries.tsv",
        "qrels": tmp_path / "qrels.txt",
        "documents": "id",
    }
    make(maker, "t", {"wide": WIDE, "narrow": NARROW})
    found = open_table(maker, "t").compare(
        column="wide", other_column="narrow", suite={"tasks": [{**task, "measures": ["RR"]}]}
    )
    assert [(one.column, one.measure) for one in found.measures] == [("narrow", "RR")]
    assert (found.measures[0].before, found.measures[0].after) == tuple(
        open_table(maker, "t").evaluate({"tasks": [{**task, "measures": ["RR"], "columns": [name]}]}).results[0].value
        for name in ("wide", "narrow")
    )
