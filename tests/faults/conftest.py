"""Makers of the other tests, for tests of faults; and the matrix."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "pipelines")]

from matrix import (  # noqa: E402, F401 (found on the path set above; hooks are found by their names)
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_logreport,
    pytest_sessionstart,
    pytest_terminal_summary,
)
from worlds import Worlds  # noqa: E402


@pytest.fixture(autouse=True)
def all_is_released(request: pytest.FixtureRequest) -> Iterator[None]:
    """A case gives back what it holds of the session's Ray: the next ones would wait for it without end."""
    yield
    if "ray_session" in request.fixturenames:
        from ray_actors import check_released

        check_released()


@pytest.fixture(scope="session")
def worlds(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Sources, and lakes with clean runs on them, which the tests of a session share."""
    return Worlds(tmp_path_factory.mktemp)
