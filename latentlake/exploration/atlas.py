"""Rows of a table for Apple's embedding-atlas, which runs in an environment of its own. See docs/exploring.md.

It needs torch, litellm and about 130 packages, so LatentLake does not depend on it. Version 0.26 draws maps by WebGPU alone; 0.22 also
draws them by WebGL.
"""

from __future__ import annotations

import base64
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentlake.exploration.plots import PICTURED, draw_rows
from latentlake.exploration.points import pick_column, points_of
from latentlake.exploration.thumbnails import data_uris
from latentlake.vectors import array_of
from operators.errors import MissingExtra, SpecError

if TYPE_CHECKING:
    from latentlake.table import Table

ATLAS = "embedding-atlas==0.22.0"
ROWS, THUMBNAILS, NEIGHBORS = 20_000, 5_000, 10
PICTURE = "picture"
NEAR = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])


def write_atlas(
    table: Table, path: Path, *, column: str | None, method: str | None, where: str | None, rows: int, seed: int = 0
) -> list[str]:
    """Write a sample of rows as Parquet: the columns worth showing, x, y, nearest rows, thumbnails; options that name these columns.

    Raises `SpecError`, `NotFound`, `MissingExtra` (umap).
    """
    chosen = pick_column(table, column)
    drawn, _, coordinates = draw_rows(table, chosen, method, where, rows, seed, [chosen])
    if taken := {"x", "y", "neighbors", PICTURE} & set(drawn.column_names):
        raise SpecError(f"column '{taken.pop()}' of table '{table.name}' has a name that the atlas needs.")
    stored = table.provenance(chosen)
    points = points_of(array_of(drawn[chosen].combine_chunks(), True), stored)
    shown = drawn.drop_columns([chosen])
    shown = shown.append_column("x", pa.array(coordinates[:, 0])).append_column("y", pa.array(coordinates[:, 1]))
    shown = shown.append_column("neighbors", nearest_rows(points))
    options = ["--x", "x", "--y", "y", "--neighbors", "neighbors", "--disable-projection"]
    if "text" in shown.column_names:
        options += ["--text", "text"]
    if stored.modality in PICTURED and "uri" in shown.column_names:
        made = data_uris(shown["uri"].to_pylist()[:THUMBNAILS], table._storage.options)
        pictures = [{"bytes": base64.b64decode(uri.partition(",")[2])} if uri else None for uri in made]
        pictures += [None] * (len(shown) - len(pictures))
        shown = shown.append_column(PICTURE, pa.array(pictures, pa.struct([("bytes", pa.binary())])))
        options += ["--image", PICTURE]
    pq.write_table(shown, path)
    return options


def nearest_rows(points: np.ndarray) -> pa.Array:
    """For each point (n, dimension) the nearest others: their places and distances, as the atlas reads them."""
    from sklearn.neighbors import NearestNeighbors

    distances, places = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(points) - 1)).fit(points).kneighbors()
    near = [{"ids": ids, "distances": away} for ids, away in zip(places.tolist(), distances.tolist(), strict=True)]
    return pa.array(near, NEAR)


def atlas_command(path: Path, options: Sequence[str], port: int) -> list[str]:
    """The command that opens a file in the atlas, in an environment that uv makes for it. Raises `MissingExtra`."""
    beside = Path(sys.executable).with_name("uv")
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if uv is None:
        raise MissingExtra(
            f"the atlas ({ATLAS}) runs in an environment of its own, which uv makes.\n  pip install uv, or see https://docs.astral.sh/uv"
        )
    serve = ["--host", "localhost", "--port", str(port), "--no-mcp"]
    return [uv, "tool", "run", "--python", "3.11", ATLAS, str(path), *options, *serve]
