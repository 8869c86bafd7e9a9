"""The notebooks of examples/notebooks: they run, from an empty folder, and keep what they showed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples" / "notebooks").glob("*.ipynb"))
# In `make test`; `make notebooks` runs them all.
QUICK = ("physical_parameters", "two_models")
ALL = "LATENTLAKE_NOTEBOOKS"
WITH_DATA = ("image_search", "two_models")
LARGEST = 1_000_000  # bytes of a notebook with its outputs


def outputs(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", ())]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept(path: Path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [
        output for output in outputs(path) if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    pictures = [output for output in outputs(path) if "image/png" in output.get("data", {})]
    assert len(pictures) >= 1 and path.stat().st_size < LARGEST
    told = [value for output in outputs(path) for name, value in output.get("data", {}).items() if name != "image/png"]
    assert not re.search(
        r"site-packages|/tmp/|/home/|/root/", json.dumps([told, [o.get("text") for o in outputs(path)]])
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    if path.stem not in QUICK and not os.environ.get(ALL):
        pytest.skip(f"`make notebooks` runs {path.stem}")
    if path.stem in WITH_DATA:
        monkeypatch.setenv("LATENTLAKE_TEST_DATA", str(request.getfixturevalue("data")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # OpenMP's threads wait by spinning, on a busy machine for ever
    client, formats = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = formats.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    kinds = [kinds_of(cell) for cell in notebook.cells]
    kept = [kinds_of(cell) for cell in formats.read(path, as_version=4).cells]
    assert kinds == kept  # it shows tables and pictures where it showed them


def kinds_of(cell: Any) -> list[list[str]]:
    """What kinds of output a cell has; streams may be cut anywhere."""
    return [sorted(output["data"]) for output in cell.get("outputs", ()) if "data" in output]
