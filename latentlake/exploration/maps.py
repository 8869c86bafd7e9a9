"""Maps: the vectors of a column in two dimensions. See docs/exploring.md.

A map is fitted on a bounded sample, and the other rows are placed in it as they stream by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from latentlake.exploration.points import pick_column, read_points, stream_points
from latentlake.formats import StoredFormat
from latentlake.stored import MAP_KEY
from operators.errors import MissingExtra, SpecError, unknown_name

if TYPE_CHECKING:
    from latentlake.table import Table

Method = Literal["umap", "tsne", "pca"]
Place = Callable[[np.ndarray], np.ndarray]  # points (n, dimension) -> (n, 2)

# Rows that a map is fitted on, at most. t-SNE takes minutes for more: see docs/exploring.md.
FIT_ROWS: Mapping[str, int] = {"umap": 50_000, "tsne": 10_000, "pca": 50_000}
MIN_ROWS = 5
TSNE_DIMENSIONS = 50  # of the principal components that t-SNE works on, as its authors advise
TSNE_NEIGHBORS = 5  # a row that t-SNE was not fitted on is placed between so many that it was
FORMAT = StoredFormat("the provenance of a map")
LIBRARY = {"umap": "umap-learn", "tsne": "scikit-learn", "pca": "scikit-learn"}


@dataclass(frozen=True)
class MapProvenance:
    """What made the coordinates of a map."""

    column: str  # whose vectors were mapped
    fingerprint: str  # of those vectors
    method: str
    settings: Mapping[str, Any]
    version: int  # of the table whose rows were mapped
    rows_fitted: int  # on which the map was fitted; the other rows were placed in it
    created_at: str = ""  # ISO 8601, UTC
    versions: Mapping[str, str] = field(default_factory=dict)  # libraries that took part

    def to_json(self) -> str:
        """JSON that `from_json` reads."""
        return FORMAT.write(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> MapProvenance:
        """Read what `to_json`, of this release or an earlier one, wrote. Raises `Unreadable`."""
        values = FORMAT.read(text)
        FORMAT.check(SHAPE, values)
        return cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__})


class Shape(TypedDict):
    """What a stored provenance of a map must have to be understood at all."""

    column: str
    fingerprint: str
    method: str
    settings: dict[str, Any]
    version: int
    rows_fitted: int


SHAPE = TypeAdapter(Shape)


@dataclass(frozen=True)
class Projection:
    """Coordinates of rows, and what made them. About 40 bytes a row, besides the id."""

    provenance: MapProvenance
    ids: pa.Array
    coordinates: np.ndarray  # float32 (n, 2)

    def __len__(self) -> int:
        return len(self.ids)

    def to_arrow(self) -> pa.Table:
        """Columns `id`, `x` and `y`, float32; the metadata of `x` and `y` says what made them."""
        metadata = {MAP_KEY: self.provenance.to_json().encode()}
        fields = [pa.field("id", pa.string()), *(pa.field(name, pa.float32(), metadata=metadata) for name in "xy")]
        x, y = (pa.array(np.ascontiguousarray(self.coordinates[:, axis])) for axis in (0, 1))
        return pa.table([self.ids, x, y], schema=pa.schema(fields))


@dataclass(frozen=True)
class FittedMap:
    """A map that rows can be placed in."""

    provenance: MapProvenance
    fitted: Mapping[str, int]  # place in `coordinates` of each row that the map was fitted on, by id
    coordinates: np.ndarray  # float32 (rows fitted, 2)
    transform: Place

    def place(self, ids: Sequence[str], points: np.ndarray) -> np.ndarray:
        """Coordinates float32 (n, 2) of rows: those the map was fitted on keep theirs."""
        at = np.fromiter((self.fitted.get(id, -1) for id in ids), np.int64, len(ids))
        found = np.empty((len(ids), 2), dtype=np.float32)
        found[at >= 0] = self.coordinates[at[at >= 0]]
        if (others := at < 0).any():
            found[others] = self.transform(points[others])
        return found


def project(
    table: Table,
    column: str | None,
    method: str,
    where: str | None,
    fit_rows: int | None,
    neighbors: int,
    seed: int,
) -> Projection:
    """See `Explorable.project`."""
    fitted = fit_table(table, column, method, where, fit_rows, neighbors, seed)
    ids, coordinates = [], []
    for names, placed in place_rows(table, fitted, where):
        ids.append(pa.array(names, pa.string()))
        coordinates.append(placed)
    return Projection(fitted.provenance, pa.concat_arrays(ids), np.concatenate(coordinates))


def place_rows(table: Table, fitted: FittedMap, where: str | None) -> Iterator[tuple[list[str], np.ndarray]]:
    """Ids and coordinates of the rows that have a vector, in batches."""
    for ids, points in stream_points(table, fitted.provenance.column, where):
        yield ids, fitted.place(ids, points)


def fit_table(
    table: Table,
    column: str | None,
    method: str,
    where: str | None,
    fit_rows: int | None,
    neighbors: int,
    seed: int,
) -> FittedMap:
    """Fit a map on the rows of a table, on a sample of `fit_rows` where there are more. Raises `SpecError`, `MissingExtra`."""
    check_settings(method, fit_rows, neighbors)
    chosen = pick_column(table, column)
    ids, points = read_points(table, chosen, where, fit_rows or FIT_ROWS[method], seed)
    return fit_map(table, chosen, method, ids, points, neighbors, seed)


def check_settings(method: str, fit_rows: int | None, neighbors: int) -> None:
    """Raise `SpecError` for settings that cannot be."""
    if method not in get_args(Method):
        raise unknown_name("method", method, get_args(Method))
    if neighbors < 2 or (fit_rows is not None and fit_rows < MIN_ROWS):
        raise SpecError(f"a map needs 2 neighbors or more, and {MIN_ROWS} rows or more to be fitted on.")


def fit_map(
    table: Table, column: str, method: str, ids: Sequence[str], points: np.ndarray, neighbors: int, seed: int
) -> FittedMap:
    """Fit a map on points (n, dimension) of rows of a table. Raises `SpecError` for too few, `MissingExtra`."""
    if len(ids) < MIN_ROWS:
        raise SpecError(
            f"{len(ids)} rows have a vector in column '{column}' of table '{table.name}'; a map needs {MIN_ROWS}."
        )
    settings = settings_of(method, len(ids), neighbors, seed)
    coordinates, transform = FITS[method](points, settings)
    library = LIBRARY[method]
    provenance = MapProvenance(
        column=column,
        fingerprint=table.provenance(column).fingerprint,
        method=method,
        settings=settings,
        version=table.version,
        rows_fitted=len(ids),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={library: version_of(library)},
    )
    return FittedMap(provenance, {id: at for at, id in enumerate(ids)}, coordinates, transform)


def settings_of(method: str, rows: int, neighbors: int, seed: int) -> dict[str, Any]:
    """Settings of a method for so many rows, by the names of its library."""
    if method == "umap":
        return {"n_neighbors": min(neighbors, rows - 1), "min_dist": 0.1, "random_state": seed}
    if method == "tsne":
        return {"perplexity": float(min(2 * neighbors, (rows - 1) / 3)), "random_state": seed}
    return {"random_state": seed}


def fit_pca(points: np.ndarray, settings: Mapping[str, Any]) -> tuple[np.ndarray, Place]:
    """The first two principal components."""
    from sklearn.decomposition import PCA

    model = PCA(2, **settings).fit(points)
    return model.transform(points).astype(np.float32), model.transform


def fit_umap(points: np.ndarray, settings: Mapping[str, Any]) -> tuple[np.ndarray, Place]:
    """UMAP by umap-learn, the same for one seed. Raises `MissingExtra`."""
    try:
        from umap import UMAP
    except ImportError as failure:
        raise MissingExtra(
            "the method umap needs umap-learn: pip install 'latentlake[explore]'\n  The methods pca and tsne do without."
        ) from failure

    few = len(points) < 20  # its spectral start needs more rows than it has dimensions, well apart
    model = UMAP(n_components=2, n_jobs=1, init="random" if few else "spectral", **settings)
    return model.fit_transform(points).astype(np.float32), model.transform


def fit_tsne(points: np.ndarray, settings: Mapping[str, Any]) -> tuple[np.ndarray, Place]:
    """t-SNE by scikit-learn, on principal components.

    t-SNE has no place for rows that it was not fitted on. They are put between their nearest ones, weighted by one over the
    distance.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.neighbors import KNeighborsRegressor

    components = min(TSNE_DIMENSIONS, *points.shape)
    reduced = PCA(components, random_state=settings["random_state"]).fit(points)
    small = reduced.transform(points)
    coordinates = TSNE(2, init="pca", **settings).fit_transform(small).astype(np.float32)
    between = KNeighborsRegressor(min(TSNE_NEIGHBORS, len(points)), weights="distance").fit(small, coordinates)
    return coordinates, lambda others: between.predict(reduced.transform(others))


FITS: Mapping[str, Callable[[np.ndarray, Mapping[str, Any]], tuple[np.ndarray, Place]]] = {
    "umap": fit_umap,
    "tsne": fit_tsne,
    "pca": fit_pca,
}
