"""What is asked of the search of a vector column."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """Recall@k, and perhaps a bound of the latency that one query in twenty may exceed."""

    target_recall: float
    k: int = 10
    max_p95_ms: float | None = None
