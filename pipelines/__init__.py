"""Embedding jobs on Ray Data: from a spec to a published version of a table. From Python: `run_job` and its siblings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.jobs import plan_job, run_job, validate_job

__all__ = ["plan_job", "run_job", "validate_job"]


def __getattr__(name: str) -> Any:
    """Load what is exported when it is first asked for: `latentlake --help` needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from pipelines import jobs

    return getattr(jobs, name)
