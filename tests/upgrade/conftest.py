"""Lakes of earlier releases, each as its release left it, and what the tests of jobs share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent.parent / "pipelines")]

from release_maker import RELEASES, Release, unpack  # noqa: E402 (the path is set above)


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Release:
    """A lake as a release left it, to be written to."""
    return unpack(request.param, tmp_path)
