"""What the tests of clusters share: the schemas of KubeRay's objects."""

from __future__ import annotations

from pathlib import Path

import pytest
from crds import Schemas


@pytest.fixture(scope="session")
def schemas(data: Path) -> Schemas:
    """Schemas of KubeRay 1.7, which stand beside the test data."""
    folder = data.parent / "schemas" / "kuberay"
    if not folder.is_dir():
        pytest.skip(f"no schemas of KubeRay at {folder}")
    return Schemas(folder)
