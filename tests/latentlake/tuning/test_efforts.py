"""The search for the cheapest effort: giving up what is slow loses nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from latentlake.tuning.efforts import EFS, REFINE_FACTORS, SEARCH_EFFORTS, cheapest, first_that_meets, tune_effort
from latentlake.tuning.goal import Goal
from latentlake.tuning.settings import Effort
from latentlake.tuning.trials import Trial, falls_short
from latentlake.tuning.tune import find_effort

K, TARGET, DUE = 10, 0.9, 10**6
PLACES = {"ivf_rq": REFINE_FACTORS, "ivf_hnsw_flat": EFS, "ivf_flat": (None,)}


class Index:
    """Recall and time that rise with each parameter."""

    def __init__(self, kind: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        size = len(SEARCH_EFFORTS), len(PLACES[kind])
        self.kind, self.races = kind, True
        steps, rest = (np.sort(rng.uniform(0.3, 1, n)) ** rng.uniform(0.05, 1) for n in size)
        self.recall = np.minimum(1, np.outer(steps, rest) + rng.uniform(0, 0.2))
        self.ms = rng.uniform(0, 2) + np.add.outer(*(np.cumsum(rng.uniform(0, 1, n)) * rng.uniform(0, 3) for n in size))

    def attempt(self, effort: Effort, limit_ms: float) -> Trial:
        rest = effort.refine_factor if effort.ef is None else effort.ef / K
        at = SEARCH_EFFORTS.index(effort.search_effort), [*PLACES[self.kind]].index(rest)
        met, ms = round(self.recall[at] * DUE), self.ms[at]
        return Trial(effort, np.array([met]), np.array([DUE]), np.array([ms]), slow=self.races and ms > limit_ms)


@given(st.sampled_from(list(PLACES)), st.integers(0, 10**6), st.sampled_from([None, 0.3, 1.0]))
@settings(deadline=None)
def test_the_cheapest_is_found_whatever_is_given_up(kind: str, seed: int, fewest: float | None):
    found = []
    for races in (True, False):
        index = Index(kind, seed)
        index.races = races
        trials = tune_effort(kind, 20, K, TARGET, index.attempt, fewest)
        best = cheapest(trials, TARGET)
        found.append(None if best is None else (best.effort, best.quiet_ms))
    assert found[0] == found[1]


def test_what_is_slower_than_another_index_is_given_up():
    index = Index("ivf_rq", 1)
    trials = tune_effort("ivf_rq", 20, K, TARGET, index.attempt, limit_ms=0.0, fewest=1.0)
    assert cheapest(trials, TARGET) is None and all(trial.slow for trial in trials)


@given(st.integers(1, 12), st.integers(0, 12))
def test_the_first_of_a_line_that_meets_is_found(size: int, place: int):
    line = [Effort(1.0, None, ef) for ef in range(size)]
    asked = []

    def attempt(effort: Effort) -> Trial:
        asked.append(effort)
        return Trial(effort, np.array([DUE if line.index(effort) >= place else 0]), np.array([DUE]), np.array([1.0]))

    assert first_that_meets(line, TARGET, attempt) == (place if place < size else None)
    assert len(asked) <= len({*asked}) + 1 and asked[0] == line[0]


class Uneven:
    """A column whose recall is just enough with few candidates, and by two standard errors with more of them alone."""

    goal = Goal(0.95, K)

    def attempt(self, effort: Effort, *_: object, **__: object) -> Trial:
        met = np.full(40, 10) if (effort.refine_factor or 1) > 2 else np.array([*[10] * 33, *[8] * 7])
        return Trial(effort, met, np.full(40, 10), np.full(40, float(effort.refine_factor or 1)))


def test_an_effort_that_proves_too_low_is_raised():
    found = find_effort(Uneven(), SimpleNamespace(type="ivf_rq"), 1)  # type: ignore[arg-type]
    assert found is not None and found.effort == Effort(1.0, 3)


def test_only_what_is_far_below_the_target_is_given_up_early():
    due = np.full(8, 10)
    assert falls_short(np.full(8, 7), due, 0.95)
    assert not falls_short(np.full(8, 9), due, 0.95)
    assert not falls_short(np.full(8, 7), due, 0.0)
    assert not falls_short(np.zeros(8), np.zeros(8), 0.95)
