"""Maps of a column's vectors: against scikit-learn on the same data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lake_maker import LakeMaker
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from vector_tables import one_thread

import latentlake
from latentlake.exploration import maps
from latentlake.exploration.maps import MapProvenance, fit_table
from latentlake.exploration.points import points_of, unit
from latentlake.provenance import FIELD_KEY, Provenance
from latentlake.stored import MAP_KEY
from operators.chain import Chain
from operators.embedders.hashing import Config
from operators.errors import NotFound, SpecError, UnknownName

ROWS, DIM, GROUPS = 300, 16, 3
GROUP = np.arange(ROWS) % GROUPS
VECTORS = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
VECTORS[np.arange(ROWS), GROUP] += 8  # three groups, well apart


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> latentlake.Table:
    """Two vector columns of the same vectors, the first compared by l2, the second by cosine; row 7 has none in `v`."""
    folder = tmp_path_factory.mktemp("lake")
    maker = LakeMaker(str(folder))
    config, chain = Config(dim=DIM), Chain("text")
    fields = {name: maker.vector_field(name, config, chain, "float32", metric) for name, metric in METRICS.items()}
    ids = [f"row{row}" for row in range(ROWS)]
    columns = {name: (field, VECTORS) for name, field in fields.items()}
    maker.write("t", {"id": ids, "group": GROUP}, columns, no_vector=[7])
    return latentlake.connect(str(folder)).open("t")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


METRICS = {"v": "l2", "c": "cosine"}
WITH = np.delete(np.arange(ROWS), 7)


def in_order(found: maps.Projection) -> np.ndarray:
    """Coordinates in the order of the rows of the table."""
    at = {id: row for row, id in enumerate(found.ids.to_pylist())}
    return found.coordinates[[at[f"row{row}"] for row in WITH]]


def purity(coordinates: np.ndarray, groups: np.ndarray) -> float:
    return float(KNeighborsClassifier(5).fit(coordinates, groups).score(coordinates, groups))


@pytest.mark.parametrize("column", METRICS)
def test_pca_is_scikit_learns(table: latentlake.Table, column: str):
    found = table.project(column, method="pca")
    points = unit(VECTORS) if column == "c" else VECTORS
    expected = PCA(2, svd_solver="full").fit_transform(points[WITH])
    np.testing.assert_allclose(np.abs(in_order(found)), np.abs(expected), atol=2e-3)
    assert len(found) == ROWS - 1 and found.provenance.rows_fitted == ROWS - 1


def test_more_rows_than_it_is_fitted_on_are_placed(table: latentlake.Table):
    fitted = fit_table(table, "v", "pca", None, 100, 15, 0)
    drawn = [int(id.removeprefix("row")) for id in fitted.fitted]
    expected = PCA(2, svd_solver="full").fit(VECTORS[drawn]).transform(VECTORS[WITH])
    found = table.project("v", method="pca", fit_rows=100)
    assert found.provenance.rows_fitted == len(drawn) == 100
    np.testing.assert_allclose(np.abs(in_order(found)), np.abs(expected), atol=2e-3)


def test_above_50_000_rows_it_is_fitted_on_a_sample(tmp_path: Path):
    maker = LakeMaker(str(tmp_path))
    rows = 50_050
    vectors = np.random.default_rng(0).normal(size=(rows, 4))
    field = maker.vector_field("v", Config(dim=4), Chain("text"), "float32", "l2")
    maker.write("t", {"id": [str(row) for row in range(rows)]}, {"v": (field, vectors)})
    found = latentlake.connect(str(tmp_path)).open("t").project(method="pca")
    assert (found.provenance.rows_fitted, len(found)) == (50_000, rows)


@pytest.mark.parametrize("fit_rows", [None, 120])
def test_tsne_keeps_groups_together(table: latentlake.Table, fit_rows: int | None):
    found = table.project("v", method="tsne", fit_rows=fit_rows)
    assert purity(in_order(found), GROUP[WITH]) > 0.97
    assert found.provenance.settings["perplexity"] == 30


@pytest.mark.slow
def test_umap_keeps_groups_together_and_is_the_same_for_a_seed(table: latentlake.Table):
    found = table.project("c", where="`group` < 2", fit_rows=100)
    kept = WITH[GROUP[WITH] < 2]
    at = {id: row for row, id in enumerate(found.ids.to_pylist())}
    assert purity(found.coordinates[[at[f"row{row}"] for row in kept]], GROUP[kept]) > 0.97
    assert found.provenance.method == "umap" and "umap-learn" in found.provenance.versions
    again = table.project("c", where="`group` < 2", fit_rows=100)
    np.testing.assert_array_equal(again.coordinates, found.coordinates)
    assert len(table.project("c", where="id IN ('row1', 'row2', 'row3', 'row4', 'row5')")) == 5


def test_a_map_says_what_made_it(table: latentlake.Table):
    found = table.project("c", method="pca", seed=3)
    arrow = found.to_arrow()
    assert arrow.column_names == ["id", "x", "y"] and arrow["x"].type == "float"
    made = MapProvenance.from_json(arrow.schema.field("x").metadata[MAP_KEY])
    assert made == found.provenance
    assert (made.column, made.method, made.version, made.rows_fitted) == ("c", "pca", table.version, ROWS - 1)
    assert made.fingerprint == table.provenance("c").fingerprint and made.settings == {"random_state": 3}


def test_bits_are_as_far_apart_as_they_differ():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (9, 24)).astype(bool)
    config, chain = Config(dim=24), Chain("text")
    field = LakeMaker("").vector_field("b", config, chain, "float32", "hamming")
    stored = replace(Provenance.from_json(field.metadata[FIELD_KEY]), dtype="binary")
    points = points_of(np.packbits(bits, axis=1), stored)
    differing = (bits[:, None] != bits[None]).sum(axis=2)
    np.testing.assert_array_equal(((points[:, None] - points[None]) ** 2).sum(axis=2), differing)


def test_what_cannot_be(table: latentlake.Table):
    with pytest.raises(SpecError, match="2 vector columns; name one: v, c"):
        table.project(method="pca")
    with pytest.raises(NotFound):
        table.project("w", method="pca")
    with pytest.raises(UnknownName, match="pca"):
        table.project("v", method="pac")
    with pytest.raises(SpecError, match="4 rows have a vector"):
        table.project("v", method="pca", where="id IN ('row1', 'row2', 'row3', 'row4')")
    with pytest.raises(SpecError, match="2 neighbors"):
        table.project("v", neighbors=1)
