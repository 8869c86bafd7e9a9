"""The distribution for Airflow builds, and needs no LatentLake module that it does not hold. `make test-airflow` runs it in Airflow."""

from __future__ import annotations

import ast
import sys
import tarfile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from pipelines.job.jobfile import load_job

ROOT = Path(__file__).parent.parent
AIRFLOW = ROOT / "infra" / "airflow"
MAY_IMPORT = {"airflow", "httpx", "pathspec", "tenacity", "yaml", *sys.stdlib_module_names}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    return build(WheelBuilder, AIRFLOW, tmp_path_factory.mktemp("wheel"))


def build(builder: Any, source: Path, folder: Path) -> Any:
    (path,) = builder(str(source)).build(directory=str(folder), versions=["standard"])
    return ZipFile(path) if path.endswith(".whl") else Path(path)


def modules(wheel: ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if name.endswith(".py")}


def test_the_wheel_holds_the_client_as_it_is(wheel: ZipFile):
    client = {"jobs": "clusters/jobs.py", "attempts": "clusters/attempts.py", "packages": "clusters/packages.py"}
    client |= {"tokens": "clusters/tokens.py", "errors": "operators/errors.py"}
    for name, source in client.items():
        assert wheel.read(f"latentlake_airflow/client/{name}.py") == (ROOT / source).read_bytes()
    own = {path.relative_to(AIRFLOW).as_posix() for path in AIRFLOW.glob("latentlake_airflow/*.py")}
    assert modules(wheel) == own | {f"latentlake_airflow/client/{name}.py" for name in client}


def test_its_modules_import_airflow_and_little_else(wheel: ZipFile):
    found = set()
    for name in modules(wheel):
        for node in ast.walk(ast.parse(wheel.read(name))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.partition(".")[0])
    assert found <= MAY_IMPORT


def test_a_source_distribution_makes_the_same_wheel(wheel: ZipFile, tmp_path: Path):
    with tarfile.open(build(SdistBuilder, AIRFLOW, tmp_path)) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert modules(build(WheelBuilder, source, tmp_path)) == modules(wheel)


@pytest.mark.parametrize("path", sorted((AIRFLOW / "dags" / "jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_jobs_of_the_example_dags_are_valid(path: Path):
    load_job(path)
