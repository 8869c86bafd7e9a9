"""What a table can be asked about its vectors as a whole. Each method imports its module when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from latentlake.exploration.clusters import Clusters
    from latentlake.exploration.duplicates import Duplicates
    from latentlake.exploration.maps import Projection
    from latentlake.exploration.plots import Plot
    from latentlake.results import Rows
    from latentlake.table import Table


class Explorable:
    """The exploring methods of `Table`. `column` may be left out where the table has one vector column."""

    def project(
        self,
        column: str | None = None,
        *,
        method: str = "umap",
        where: str | None = None,
        fit_rows: int | None = None,
        neighbors: int = 15,
        seed: int = 0,
    ) -> Projection:
        """Two coordinates for each row with a vector, by "umap", "tsne" or "pca"; the same for one `seed`.

        The map is fitted on `fit_rows` rows at most (50,000, t-SNE 10,000), drawn at random, and the others are placed in it
        as they stream by. `latentlake project … --store NAME` keeps such a map in the table. Raises `SpecError`, `NotFound`,
        `MissingExtra` (umap).
        """
        from latentlake.exploration.maps import project

        return project(as_table(self), column, method, where, fit_rows, neighbors, seed)

    def plot(
        self,
        color: str | None = None,
        *,
        column: str | None = None,
        method: str | None = None,
        where: str | None = None,
        rows: int = 10_000,
        thumbnails: int = 300,
        seed: int = 0,
    ) -> Plot:
        """A map of `rows` rows at most, drawn at random, that shows itself in a notebook; `save` writes it to a file.

        `color` names a column. The map is the one that the table keeps of the column; otherwise, or with a `method`, it is made
        of the rows that are drawn, by "umap" unless `method` says "tsne" or "pca". Of pictures `thumbnails` are shown beside
        the pointer. Raises `SpecError`, `NotFound`, `MissingExtra`.
        """
        from latentlake.exploration.plots import plot_table

        return plot_table(as_table(self), color, column, method, where, rows, thumbnails, seed)

    def cluster(
        self,
        method: str = "kmeans",
        clusters: int = 8,
        *,
        column: str | None = None,
        where: str | None = None,
        target: str | None = None,
        sample: int = 50_000,
        seed: int = 0,
    ) -> Clusters:
        """Clusters by "kmeans", "gmm" or "hdbscan" (which finds their number itself), each with a Gaussian and a local model.

        They are found in the first 50 principal components of `sample` rows at most; all rows with a vector are assigned. The
        local model is a PCA, and with `target`, a column of numbers, a ridge regression of it, too. Raises `SpecError`, `NotFound`.
        """
        from latentlake.exploration.clusters import cluster_table

        return cluster_table(as_table(self), method, clusters, column, where, target, sample, seed)

    def outliers(
        self,
        method: str = "knn",
        rows: int = 20,
        *,
        column: str | None = None,
        where: str | None = None,
        neighbors: int = 10,
        sample: int = 20_000,
        seed: int = 0,
    ) -> Rows:
        """The `rows` that stand furthest apart, furthest first, with their `outlier_score`.

        `method` is "knn" (mean distance to the nearest `neighbors`), "lof", "isolation_forest" or "mahalanobis". Every row with a
        vector is compared with `sample` rows at most. Raises `SpecError`, `NotFound`.
        """
        from latentlake.exploration.outliers import find_outliers

        return find_outliers(as_table(self), method, rows, column, where, neighbors, sample, seed)

    def duplicates(
        self,
        threshold: float = 0.05,
        *,
        column: str | None = None,
        where: str | None = None,
        keep: str = "nearest",
        seed: int = 0,
    ) -> Duplicates:
        """Pairs of rows whose vectors are at most `threshold` apart by the column's metric, and rows of equal content.

        Up to 20,000 rows all pairs are compared; of more, those within partitions. `keep` says which row of a group stays in
        `redundant`: the "nearest" to its partition's centre, or the "farthest". Raises `SpecError`, `NotFound`.
        """
        from latentlake.exploration.duplicates import find_duplicates

        return find_duplicates(as_table(self), threshold, column, where, keep, seed)

    def similarity_matrix(self, ids: Sequence[str], metric: str = "cosine", *, column: str | None = None) -> np.ndarray:
        """How alike rows are, float32 (n, n): "cosine", "dot", or "euclidean" (minus the distance). Raises `NotFound`, `SpecError`."""
        from latentlake.exploration.similarity import similarity_matrix

        return similarity_matrix(as_table(self), ids, metric, column)

    def interpolate(
        self, a: str, b: str, steps: int = 5, *, column: str | None = None, columns: Sequence[str] | None = None
    ) -> Rows:
        """Rows along the way from the row `a` to the row `b`: at each step the nearest that was not there yet; `part` is 0 to 1.

        Raises `NotFound`, `SpecError`.
        """
        from latentlake.exploration.similarity import interpolate

        return interpolate(as_table(self), a, b, steps, column, columns)


def as_table(found: Explorable) -> Table:
    """The table, which alone has these methods."""
    return cast("Table", found)
