"""What a table can be asked about its vectors as a whole. Each method imports its module when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from latentlake.exploration.maps import Projection
    from latentlake.exploration.plots import Plot
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


def as_table(found: Explorable) -> Table:
    """The table, which alone has these methods."""
    return cast("Table", found)
