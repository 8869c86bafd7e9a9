from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.batching import form_batches


@given(st.lists(st.integers(0, 1000), max_size=200), st.integers(1, 3000))
def test_every_row_once_within_the_budget(costs: list[int], budget: int) -> None:
    cost = np.array(costs, dtype=np.int64)
    batches = form_batches(cost, budget)
    assert sorted(int(row) for rows in batches for row in rows) == list(range(len(costs)))
    for rows in batches:
        assert len(rows) == 1 or cost[rows].max() * len(rows) <= budget
    dearest = [int(cost[rows].max()) for rows in batches]
    assert dearest == sorted(dearest, reverse=True)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=100), st.integers(50, 500))
def test_batches_are_as_large_as_the_budget_lets_them(costs: list[int], budget: int) -> None:
    cost = np.array(costs, dtype=np.int64)
    for rows in form_batches(cost, budget)[:-1]:
        assert cost[rows].max() * (len(rows) + 1) > budget


def test_a_row_dearer_than_the_budget_stands_alone() -> None:
    assert form_batches(np.array([5, 99, 5, 5]), 10)[0].tolist() == [1]


def test_no_rows() -> None:
    assert form_batches(np.array([], dtype=np.int64), 10) == []
