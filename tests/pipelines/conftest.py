"""Places for the sources of the tests."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from source_maker import Store


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return Store(str(tmp_path / "in put é"), {})
    endpoint = request.getfixturevalue("s3_endpoint")
    name = f"{tmp_path.parent.name} é/{tmp_path.name}"
    return Store(f"s3://objects/{name}", {"aws_endpoint": endpoint}, boto3.client("s3", endpoint_url=endpoint))


@pytest.fixture
def disk(tmp_path: Path) -> Store:
    (tmp_path / "in").mkdir()
    return Store(str(tmp_path / "in"), {})
