"""Rows for embedding-atlas: what is written, and the command that opens it."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import pairwise_distances
from vector_tables import make_table

from latentlake.exploration.atlas import ATLAS, atlas_command, write_atlas
from operators.errors import MissingExtra, SpecError

ROWS = 60
VECTORS = np.random.default_rng(0).normal(size=(ROWS, 8)).astype(np.float32)


def test_rows_with_places_and_neighbors(tmp_path: Path):
    table = make_table(tmp_path, VECTORS, text=[f"text {row}" for row in range(ROWS)], label=["a", "b"] * (ROWS // 2))
    path = tmp_path / "rows.parquet"
    options = write_atlas(table, path, column=None, method="pca", where=None, rows=ROWS)
    rows = pq.read_table(path)
    assert rows.column_names == ["id", "object_id", "text", "label", "x", "y", "neighbors"]
    assert options[-2:] == ["--text", "text"] and "--disable-projection" in options
    order = [int(id.removeprefix("row")) for id in rows["id"].to_pylist()]
    distances = pairwise_distances(VECTORS[order])
    np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, axis=1)[:, :10]
    near = rows["neighbors"].to_pylist()
    assert [one["ids"] for one in near] == expected.tolist()
    np.testing.assert_allclose([one["distances"] for one in near], np.sort(distances, axis=1)[:, :10], rtol=1e-4)
    few = write_atlas(table, path, column="v", method="pca", where="label = 'a'", rows=20)
    assert few == options and set(pq.read_table(path)["label"].to_pylist()) == {"a"} and len(pq.read_table(path)) == 20


def test_pictures_are_thumbnails(tmp_path: Path):
    from lake_maker import LakeMaker

    import latentlake

    maker = LakeMaker(str(tmp_path / "lake"))
    dataset = maker.write_images(tmp_path / "objects")
    dataset.insert(dataset.to_table())
    path = tmp_path / "rows.parquet"
    table = latentlake.connect(maker.uri).open("pictures")
    options = write_atlas(table, path, column="small", method="pca", where=None, rows=100)
    assert options[-2:] == ["--image", "picture"]
    for picture in pq.read_table(path)["picture"].to_pylist():
        with Image.open(io.BytesIO(picture["bytes"])) as image:
            assert max(image.size) <= 128


def test_a_name_that_the_atlas_needs(tmp_path: Path):
    table = make_table(tmp_path, VECTORS, x=list(range(ROWS)))
    with pytest.raises(SpecError, match="column 'x' of table 't'"):
        write_atlas(table, tmp_path / "rows.parquet", column=None, method="pca", where=None, rows=ROWS)


def test_it_runs_in_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    command = atlas_command(Path("rows.parquet"), ["--x", "x"], 5055)
    assert Path(command[0]).name == "uv" and command[1:3] == ["tool", "run"] and ATLAS in command
    assert command[-5:] == ["--host", "localhost", "--port", "5055", "--no-mcp"]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MissingExtra, match="pip install uv"):
        atlas_command(Path("rows.parquet"), [], 5055)
