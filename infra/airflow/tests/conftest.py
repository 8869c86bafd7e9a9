"""Tests of the operators, in Airflow's own environment: see `make test-airflow`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent.parent / "tests" / "clusters"))  # for `answering`
# Before Airflow is imported: it reads, and writes, its home then.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="la", dir="/tmp")


def pytest_sessionfinish() -> None:
    shutil.rmtree(os.environ["AIRFLOW_HOME"], ignore_errors=True)
