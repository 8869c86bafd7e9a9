"""Batches for a model, formed by what a row costs rather than by a row count."""

from __future__ import annotations

import numpy as np


def form_batches(cost: np.ndarray, budget: int) -> list[np.ndarray]:
    """Group rows of similar cost, so that padding is not computed.

    `cost` is int64 (n,): tokens of a row, say. A batch costs its dearest row times its rows, which is what a padded
    batch computes, and at most `budget`; a row dearer than that stands alone. Returns index arrays that cover every row
    once, the dearest batch first: what is too large for the memory shows at once, and short batches fill the end.
    """
    order = np.argsort(cost, kind="stable")[::-1]
    batches, start = [], 0
    while start < len(order):
        rows = max(1, budget // max(1, int(cost[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches
