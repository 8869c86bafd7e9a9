"""What the tests of jobs share."""

from __future__ import annotations

import pytest


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs do their work in this process, without Ray."""
    from run_maker import leave_ray_out

    leave_ray_out(monkeypatch)
