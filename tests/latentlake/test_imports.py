"""What `import latentlake` loads, what it exports, and whose packages it accepts."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import latentlake
from operators import errors

ROOT = Path(latentlake.__file__).parent.parent


def run_python(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=60)


def test_import_loads_neither_engines_nor_models():
    run = run_python("import json, sys, latentlake; print(json.dumps(sorted(sys.modules)))")
    assert run.returncode == 0, run.stderr
    loaded = {name.split(".")[0] for name in json.loads(run.stdout)}
    assert "pyarrow" in loaded  # the list is real
    assert not loaded & {"ray", "torch", "lance", "lancedb", "pandas", "transformers", "sklearn", "rich"}


def test_the_exported_surface():
    exported = ["Lake", "Rows", "SearchResult", "Table", "Vectors", "__version__", "connect"]
    exported += [name for name, kind in vars(errors).items() if is_error(kind)]
    exported += ["ModelEmbedder", "MultimodalEmbedder", "get_available_embedders"]
    exported += [f"create_{kind}_embedder" for kind in ("text", "image", "audio", "multimodal")]
    assert sorted(latentlake.__all__) == sorted(exported)
    assert latentlake.__version__.count(".") == 2


def is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, latentlake.LatentLakeError)


def test_every_error_is_exported():
    """Also one that another module than `operators.errors` defines."""
    paths = [
        path
        for package in ("latentlake", "operators", "pipelines", "clusters")
        for path in (ROOT / package).rglob("*.py")
    ]
    classes = [
        node for path in paths for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    ]
    kinds = {"LatentLakeError"}
    for _ in classes:
        found = {
            c.name
            for c in classes
            if {getattr(base, "id", None) or getattr(base, "attr", None) for base in c.bases} & kinds
        }
        if found <= kinds:
            break
        kinds |= found
    assert {"InvalidSpec", "GateRefused"} < kinds  # the search finds subclasses of subclasses
    assert kinds <= set(latentlake.__all__)


@pytest.mark.parametrize("package", ["operators", "pipelines", "clusters"])
def test_a_package_that_shadows_ours_is_named(tmp_path: Path, package: str):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')")
    run = run_python("import latentlake", tmp_path)
    assert run.returncode == 1
    last = run.stderr[run.stderr.rindex("LatentLakeError") :]
    assert f"package '{package}' is {tmp_path / package}" in last
    assert f"not {ROOT / package}" in last
    assert f"Take {tmp_path} off the import path" in last


def test_a_module_that_shadows_ours_is_named(tmp_path: Path):
    (tmp_path / "operators.py").write_text("")
    run = run_python("import latentlake", tmp_path)
    assert "LatentLakeError" in run.stderr
    assert f"is {tmp_path / 'operators.py'}" in run.stderr


def test_a_folder_that_is_no_package_shadows_nothing(tmp_path: Path):
    (tmp_path / "operators").mkdir()
    assert run_python("import latentlake", tmp_path).returncode == 0
