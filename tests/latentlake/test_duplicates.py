"""Rows that hold the same: against scikit-learn's distances on the same data; and what lies between two rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import cosine_similarity
from vector_tables import make_table

import latentlake
from latentlake.exploration import duplicates, near_pairs
from operators.errors import NotFound, SpecError, UnknownName

ROWS, DIM = 300, 12
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(ROWS, DIM)).astype(np.float32)
VECTORS[100:140] = VECTORS[:40] + 0.02 * RNG.normal(size=(40, DIM))  # near copies
VECTORS[140:145] = VECTORS[:5]  # exact copies
VECTORS[200] = VECTORS[0] * 3  # the same direction
METRICS = {"cosine": "cosine", "l2": "sqeuclidean"}


def table_of(folder: Path, metric: str) -> latentlake.Table:
    hashes = [f"hash{row - 140 if 140 <= row < 145 else row}" for row in range(ROWS)]
    return make_table(folder, VECTORS, metric, content_hash=hashes, kind=["a", "b"] * (ROWS // 2))


def pairs_of(found: duplicates.Duplicates) -> set[tuple[str, str]]:
    return {tuple(sorted(pair)) for pair in zip(*(found.pairs[n].to_pylist() for n in ("id_a", "id_b")), strict=True)}


def expected_pairs(metric: str, threshold: float) -> set[tuple[str, str]]:
    distances = pairwise_distances(VECTORS.astype(np.float64), metric=METRICS[metric])
    near = np.argwhere(np.triu(distances <= threshold, k=1))
    return {tuple(sorted((f"row{a}", f"row{b}"))) for a, b in near.tolist()}


@pytest.mark.parametrize(("metric", "threshold"), [("cosine", 0.005), ("cosine", 0.2), ("l2", 0.05)])
def test_pairs_are_scikit_learns(tmp_path: Path, metric: str, threshold: float):
    found = table_of(tmp_path, metric).duplicates(threshold)
    assert pairs_of(found) == expected_pairs(metric, threshold) and len(found) >= 40
    distances = found.pairs["distance"].to_numpy()
    assert (np.diff(distances) >= 0).all() and found.is_exhaustive and found.rows == ROWS
    assert str(len(found)) in str(found)


def test_no_pair_is_left_without_the_redundant_rows(tmp_path: Path):
    table = table_of(tmp_path, "cosine")
    for keep in ("nearest", "farthest"):
        found = table.duplicates(0.01, keep=keep)
        gone = set(found.redundant["id"].to_pylist())
        assert not any(gone.isdisjoint(pair) for pair in pairs_of(found))
        kept = dict(zip(found.redundant["id"].to_pylist(), found.redundant["duplicate_of"].to_pylist(), strict=True))
        assert gone.isdisjoint(kept.values())
        assert {tuple(sorted(pair)) for pair in kept.items()} <= pairs_of(found)
    assert gone != set(table.duplicates(0.01).redundant["id"].to_pylist())


def test_equal_content(tmp_path: Path):
    found = table_of(tmp_path, "cosine").duplicates(0.001)
    told = dict(zip(*(found.equal_content[name].to_pylist() for name in ("id", "same_as")), strict=True))
    pairs = [sorted((f"row{row}", f"row{140 + row}")) for row in range(5)]  # the first id as a text
    assert told == {second: first for first, second in pairs}


@given(st.data())
def test_the_redundant_rows_are_those_a_greedy_choice_drops(data: st.DataObject):
    """Row by row: one that is near a row that stays is dropped, as a duplicate of the nearest of these, and of the first id."""
    rows = data.draw(st.integers(2, 9))
    order = data.draw(st.permutations([f"row{row}" for row in range(rows)]))
    near = st.lists(
        st.tuples(st.integers(0, rows - 1), st.integers(0, rows - 1)).filter(lambda p: p[0] < p[1]), unique=True
    )
    pairs = [(f"row{a}", f"row{b}", data.draw(st.sampled_from([0.0, 0.25, 0.5]))) for a, b in data.draw(near)]
    columns = [list(column) for column in zip(*pairs, strict=True)] or [[], [], []]
    found = duplicates.Duplicates(
        column="v",
        threshold=0.5,
        version=1,
        rows=rows,
        is_exhaustive=True,
        pairs=pa.table([pa.array(column) for column in columns], schema=duplicates.PAIRS),
        equal_content=pa.table({}),
        order=pa.array(order, pa.string()),
    )
    expected: dict[str, tuple[float, str]] = {}
    for at, id in enumerate(order):
        stay = [other for other in order[:at] if other not in expected]
        best = [(d, ({a, b} - {id}).pop()) for a, b, d in pairs if id in (a, b) and ({a, b} - {id}).pop() in stay]
        if best:
            expected[id] = min(best)
    rest = found.redundant
    assert rest["id"].to_pylist() == list(expected)
    told = zip(rest["distance"].to_pylist(), rest["duplicate_of"].to_pylist(), strict=True)
    assert list(told) == list(expected.values())


@pytest.mark.parametrize("bits", [64, 1])
def test_rows_of_equal_content_are_told_whatever_their_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
):
    """With one bit most hashes are those of another content, too."""
    whole = duplicates.hashes_of
    monkeypatch.setattr(duplicates, "hashes_of", lambda texts: whole(texts) >> (64 - bits))
    contents = [f"hash{row % 7 if row % 3 else row}" for row in range(ROWS)]
    table = make_table(tmp_path, VECTORS, content_hash=contents, kind=["a", "b"] * (ROWS // 2))
    for where in (None, "kind = 'b'"):
        firsts: dict[str, str] = {}
        expected = {}
        for id in sorted(f"row{row}" for row in range(ROWS) if where is None or row % 2):
            content = contents[int(id.removeprefix("row"))]
            if firsts.setdefault(content, id) != id:
                expected[id] = firsts[content]
        found = table.duplicates(0.0, where=where).equal_content
        assert found["id"].to_pylist() == list(expected) and len(expected) > 90
        assert found["same_as"].to_pylist() == list(expected.values())


def test_a_large_table_is_compared_in_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(near_pairs, "ALL_PAIRS_ROWS", 100)
    monkeypatch.setattr(near_pairs, "PARTITION_ROWS", 50)
    found = table_of(tmp_path, "cosine").duplicates(0.005)
    expected = expected_pairs("cosine", 0.005)
    assert not found.is_exhaustive and "may be missing" in str(found)
    assert pairs_of(found) <= expected and len(found) > 0.95 * len(expected)


def test_a_filter(tmp_path: Path):
    found = table_of(tmp_path, "cosine").duplicates(0.2, where="kind = 'a'")
    assert {id for pair in pairs_of(found) for id in pair} <= {f"row{row}" for row in range(0, ROWS, 2)}
    none = table_of(tmp_path / "2", "l2").duplicates(0.0, where="kind = 'b' AND id < 'row12'")
    assert len(none) == 0 and none.redundant.num_rows == 0


def test_how_alike_rows_are(tmp_path: Path):
    table, rows = table_of(tmp_path, "cosine"), [7, 3, 100]
    ids = [f"row{row}" for row in rows]
    expected = cosine_similarity(VECTORS[rows])
    np.testing.assert_allclose(table.similarity_matrix(ids), expected, atol=1e-5)
    np.testing.assert_allclose(table.similarity_matrix(ids, "dot"), VECTORS[rows] @ VECTORS[rows].T, atol=1e-4)
    euclidean = table.similarity_matrix(ids, "euclidean")
    np.testing.assert_allclose(euclidean, -pairwise_distances(VECTORS[rows]), atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_along_the_way(tmp_path: Path, metric: str):
    """On an arc of a circle the rows between two are those in their order."""
    angles = np.linspace(0, np.pi / 2, 11)
    arc = np.stack([np.cos(angles), np.sin(angles), 0 * angles, 0 * angles], axis=1).astype(np.float32)
    arc = arc if metric == "cosine" else np.stack([angles, 2 * angles, 0 * angles, 0 * angles], 1).astype(np.float32)
    table = make_table(tmp_path, arc, metric)
    found = table.interpolate("row0", "row10", steps=9)
    assert [row["id"] for row in found] == [f"row{row}" for row in range(1, 10)]
    assert [row["part"] for row in found] == pytest.approx(np.linspace(0, 1, 11)[1:-1].tolist(), abs=1e-6)
    assert len(table.interpolate("row0", "row10", steps=30)) == 9  # there are no more


def test_what_cannot_be(tmp_path: Path):
    table = table_of(tmp_path, "cosine")
    with pytest.raises(SpecError, match="threshold is -1"):
        table.duplicates(-1)
    with pytest.raises(UnknownName, match="nearest"):
        table.duplicates(keep="first")
    with pytest.raises(NotFound, match="no row 'rowx'"):
        table.similarity_matrix(["row1", "rowx"])
    with pytest.raises(UnknownName, match="cosine"):
        table.similarity_matrix(["row1"], "l2")
    with pytest.raises(SpecError, match="0 ids"):
        table.similarity_matrix([])
    with pytest.raises(SpecError, match="steps is 0"):
        table.interpolate("row1", "row2", 0)
