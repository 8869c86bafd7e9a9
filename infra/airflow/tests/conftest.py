"""Tests of the operators, in Airflow's own environment: see `make test-airflow`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent.parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "clusters")]  # for `doc_commands`, and for `answering`
# Before Airflow is imported: it reads, and writes, its home then.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="la", dir="/tmp")


def pytest_sessionfinish() -> None:
    shutil.rmtree(os.environ["AIRFLOW_HOME"], ignore_errors=True)
