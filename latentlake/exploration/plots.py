"""Plots of a map: interactive, as a page that asks for nothing; and still, for papers. See docs/exploring.md."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from latentlake.exploration.colors import Coloring, color_rows
from latentlake.exploration.maps import FIT_ROWS, MapProvenance, check_settings, fit_map
from latentlake.exploration.pages import figure_json, render_page
from latentlake.exploration.points import pick_column, points_of, shown_fields
from latentlake.exploration.stored_maps import stored_maps
from latentlake.exploration.thumbnails import data_uris
from latentlake.indexes import has_vector
from latentlake.results import rows_of
from latentlake.vectors import array_of
from latentlake.views import show_cell, shown_names
from operators.errors import MissingExtra, SpecError

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentlake.table import Table

GL_ROWS = 5_000  # more points than this are drawn by WebGL
LABEL_COLUMNS, LABEL_CHARACTERS = 6, 160  # of what is shown beside the pointer
SUFFIXES = (".html", ".png", ".pdf", ".svg")
HEIGHT_PX = 640
DEFAULT_METHOD, NEIGHBORS = "umap", 15
PICTURED = ("image", "scientific_image")  # modalities whose objects are pictures


@dataclass(frozen=True)
class Plot:
    """Rows of a table on a map. It shows itself in a notebook; `save` writes it to a file."""

    title: str
    provenance: MapProvenance
    coordinates: np.ndarray  # (n, 2)
    labels: Sequence[str]  # what each row says of itself, in lines
    pictures: Sequence[str]  # data URI of each row's thumbnail; empty where it has none
    coloring: Coloring

    @cached_property
    def figure(self) -> Any:
        """The plotly figure, without the panel that follows the pointer. Raises `MissingExtra`."""
        try:
            from plotly import graph_objects
        except ImportError as failure:
            raise MissingExtra("plots need plotly: pip install 'latentlake[explore]'") from failure
        kind = graph_objects.Scattergl if len(self.labels) > GL_ROWS else graph_objects.Scatter
        figure = graph_objects.Figure(layout=layout())
        for name, rows, marker in self.coloring.groups():
            figure.add_trace(
                kind(
                    x=self.coordinates[rows, 0],
                    y=self.coordinates[rows, 1],
                    mode="markers",
                    name=escape(name),  # plotly reads names as HTML
                    customdata=[[self.labels[row], self.pictures[row]] for row in rows.tolist()],
                    marker={"size": marker_size(len(self.labels)), "opacity": 0.8, **marker},
                    hoverinfo="none",
                )
            )
        figure.update_layout(showlegend=self.coloring.has_legend)
        return figure

    @property
    def subtitle(self) -> str:
        """What the plot shows, in one line."""
        made = self.provenance
        return f"{made.method} of {made.column}, {len(self.labels):,} rows at version {made.version}"

    def to_html(self) -> str:
        """The interactive plot as one page, plotly.js in it: about 5 MB. Raises `MissingExtra`."""
        return render_page("plot.html", title=self.title, subtitle=self.subtitle, figure=figure_json(self.figure))

    def to_image(self, width_px: int = 1200) -> Image:
        """The still plot as a PIL image. Raises `MissingExtra`."""
        from PIL import Image as images

        file = io.BytesIO()
        self._draw(width_px / 200).savefig(file, format="png", dpi=200)
        return images.open(file)

    def save(self, path: str | Path) -> Path:
        """Write the plot: `.html` is interactive, `.png`, `.pdf` and `.svg` are still. Raises `SpecError`, `MissingExtra`."""
        target = Path(path).expanduser()
        if target.suffix not in SUFFIXES:
            raise SpecError(f"a plot is saved as {', '.join(SUFFIXES)}, not as '{target.name}'.")
        if target.suffix == ".html":
            target.write_text(self.to_html(), encoding="utf-8")
        else:
            self._draw(6).savefig(target, dpi=300)
        return target

    def _repr_html_(self) -> str:
        # In a frame of its own: a notebook's page keeps its names, and its style.
        return (
            f'<iframe srcdoc="{escape(self.to_html())}" style="width:100%;height:{HEIGHT_PX + 60}px;border:0" '
            'sandbox="allow-scripts allow-downloads"></iframe>'
        )

    def _draw(self, width_in: float) -> Any:
        """A matplotlib figure."""
        try:
            from matplotlib.figure import Figure
        except ImportError as failure:
            raise MissingExtra("still plots need matplotlib: pip install 'latentlake[explore]'") from failure
        figure = Figure(figsize=(width_in, width_in * 0.72), layout="constrained")
        axes = figure.subplots()
        size = (marker_size(len(self.labels)) * width_in / 12) ** 2 * 2.5
        for name, rows, marker in self.coloring.groups():
            drawn = axes.scatter(
                self.coordinates[rows, 0],
                self.coordinates[rows, 1],
                s=size,
                c=marker["color"],
                cmap="viridis" if "colorscale" in marker else None,
                alpha=0.8,
                linewidths=0,
                label=plain(name),
            )
            if "colorscale" in marker:
                figure.colorbar(drawn, label=plain(self.coloring.name))
        axes.set_title(plain(self.subtitle), fontsize="medium")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#cccccc")
        if self.coloring.has_legend:
            axes.legend(
                loc="center left",
                bbox_to_anchor=(1, 0.5),
                frameon=False,
                fontsize="small",
                markerscale=2 if size < 20 else 1,
            )
        return figure


def plot_table(
    table: Table,
    color: str | None,
    column: str | None,
    method: str | None,
    where: str | None,
    rows: int,
    thumbnails: int,
    seed: int,
) -> Plot:
    """See `Explorable.plot`."""
    if rows < 1 or thumbnails < 0:
        raise SpecError(f"rows is {rows} and thumbnails is {thumbnails}; they must be 1 or more and 0 or more.")
    chosen = pick_column(table, column)
    drawn, provenance, coordinates = draw_rows(table, chosen, method, where, rows, seed, [], color)
    return make_plot(table, drawn, provenance, coordinates, color, thumbnails)


def draw_rows(
    table: Table,
    column: str,
    method: str | None,
    where: str | None,
    rows: int,
    seed: int,
    extra: Sequence[str],
    color: str | None = None,
) -> tuple[pa.Table, MapProvenance, np.ndarray]:
    """Rows at random with the columns to show, and `extra` ones; what made their map, and their coordinates (n, 2).

    The map is the one that the table keeps of the column, unless a `method` is given or there is none.
    """
    stored = next((m for m in stored_maps(table.schema).values() if m.provenance.column == column), None)
    if method is not None or stored is None:
        method, stored = method or DEFAULT_METHOD, None
        check_settings(method, None, NEIGHBORS)
    named = [*labelled_columns(table, color), *extra]
    names = list(dict.fromkeys([*named, *([column] if stored is None else stored.columns)]))
    if stored is not None:
        placed = has_vector(stored.columns[0])
        where = placed if where is None else f"({where}\n) AND {placed}"
    stream = table.vectors(names, where, rows, seed=seed)
    drawn = pa.Table.from_batches(list(stream), stream.schema)
    if stored is None:
        return drawn.select(named), *map_rows(table, column, str(method), drawn, seed)
    coordinates = np.stack([drawn[name].to_numpy() for name in stored.columns], 1)
    return drawn.select(named), stored.provenance, coordinates


def map_rows(table: Table, column: str, method: str, drawn: pa.Table, seed: int) -> tuple[MapProvenance, np.ndarray]:
    """What made the map of some rows, and their coordinates (n, 2)."""
    ids = drawn["id"].to_pylist()
    points = points_of(array_of(drawn[column].combine_chunks(), True), table.provenance(column))
    among = np.arange(len(ids))
    if len(ids) > FIT_ROWS[method]:
        among = np.sort(np.random.default_rng(seed).choice(among, FIT_ROWS[method], replace=False))
    fitted = fit_map(table, column, method, [ids[row] for row in among], points[among], NEIGHBORS, seed)
    return fitted.provenance, fitted.place(ids, points)


def make_plot(
    table: Table,
    drawn: pa.Table,
    provenance: MapProvenance,
    coordinates: np.ndarray,
    color: str | None,
    thumbnails: int,
) -> Plot:
    """A plot of rows (their `id`, and the columns to show) at coordinates (n, 2)."""
    names = labelled_columns(table, color)
    told = [name for name in shown_names(drawn.select(names)) if name != "uri"]
    labels = [label_of(row, told) for row in rows_of(drawn.select(told))]
    pictures = [""] * len(labels)
    if thumbnails and "uri" in names and table.provenance(provenance.column).modality in PICTURED:
        chosen = np.unique(np.linspace(0, len(labels) - 1, min(thumbnails, len(labels))).astype(int)).tolist()
        uris = drawn["uri"].to_pylist()
        made = data_uris([uris[row] for row in chosen], table._storage.options)
        for row, picture in zip(chosen, made, strict=True):
            pictures[row] = picture
    coloring = color_rows(color, None if color is None else drawn[color], len(labels))
    return Plot(table.name, provenance, coordinates, labels, pictures, coloring)


def labelled_columns(table: Table, color: str | None) -> list[str]:
    """Columns that are read of the rows of a plot: what is shown of a row, and its color. Raises `NotFound`."""
    shown = [field.name for field in shown_fields(table) if is_short(field.type)]
    kept = [name for name in ("id", "uri") if name in shown]
    kept += [name for name in shown if name not in kept][: LABEL_COLUMNS - len(kept)]
    return list(dict.fromkeys([*kept, *([] if color is None else [color])]))


def is_short(kind: pa.DataType) -> bool:
    """Whether values of a type can be read at a glance."""
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def label_of(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """What a row says of itself, one line a column."""
    lines = []
    for name in names:
        value = show_cell(row[name])
        cut = value if len(value) <= LABEL_CHARACTERS else value[: LABEL_CHARACTERS - 1] + "…"
        if cut:
            lines.append(cut if name in ("id", "text") else f"{show_cell(name)}: {cut}")
    return "\n".join(lines)


def marker_size(rows: int) -> float:
    """Diameter of a point in pixels: smaller where there are many."""
    return float(np.clip(60 / max(rows, 1) ** 0.35, 2.5, 9))


def plain(text: str) -> str:
    """A text without matplotlib's mathematics."""
    return show_cell(text).replace("$", r"\$")


def layout() -> dict[str, Any]:
    """Layout of an interactive plot. The axes of a map have no unit, so they have no numbers."""
    bare = {"showticklabels": False, "showgrid": False, "zeroline": False, "title": None}
    return {
        "template": "plotly_white",
        "height": HEIGHT_PX,
        "margin": {"l": 8, "r": 8, "t": 36, "b": 8},
        "xaxis": bare,
        "yaxis": bare,
        "legend": {"itemsizing": "constant"},
        "hovermode": "closest",
        "dragmode": "pan",
    }
