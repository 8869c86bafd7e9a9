"""What the tests of jobs share."""

from __future__ import annotations

from contextlib import nullcontext

import pytest


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs do their work in this process, without Ray."""
    import run_maker

    monkeypatch.setattr("pipelines.run.running_ray", lambda profile: nullcontext())
    monkeypatch.setattr("pipelines.embed.embed_shards", run_maker.embed_here)
    monkeypatch.setattr("pipelines.embed.merge_columns", run_maker.merge_here)
    monkeypatch.setattr("pipelines.run.actor_lives", lambda names: {})
