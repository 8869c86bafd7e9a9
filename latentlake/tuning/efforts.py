"""The lowest effort that meets a target: few trials, for recall rises with each of an index's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from latentlake.tuning.settings import Effort
from latentlake.tuning.trials import Trial

SEARCH_EFFORTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
REFINE_FACTORS = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80)
EFS = (1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)  # times k
# Distances of these are the vectors' own; those of the others are of what quantising left, and search tells true ones.
TRUE_DISTANCES = frozenset({"ivf_flat", "ivf_hnsw_flat"})
GRAPH_REFINES = (1, 2, 4)  # a graph over 8-bit numbers finds nearly what one over the vectors does

Try = Callable[[Effort], Trial]


def is_graph(index: str) -> bool:
    """Whether an index walks a graph in each partition."""
    return "hnsw" in index


def tune_effort(index: str, partitions: int, k: int, target: float, attempt: Try) -> list[Trial]:
    """Trials of the efforts that may be the cheapest to meet the target; see `cheapest`.

    First the fewest partitions that have to be probed, with all else at its most; then, there and at more partitions, how
    little of the rest will do.
    """
    memory: dict[Effort, Trial] = {}

    def tried(effort: Effort) -> Trial:
        if effort not in memory:
            memory[effort] = attempt(effort)
        return memory[effort]

    steps: Sequence[float] = SEARCH_EFFORTS if partitions > 1 else (1.0,)
    most = inner_lines(index, k, 1.0)
    if most and len(steps) > 1:
        line = [replace(most[-1][-1], search_effort=step) for step in steps]
        first, last = first_that_meets(line, target, tried), len(steps) - 1
        # Few partitions and many candidates may be slower than the other way round.
        places = [last] if first is None else sorted({first, min(first + 1, last), (first + last) // 2, last})
        steps = [steps[place] for place in places]
    lines = [line for step in steps for line in inner_lines(index, k, step)] or [[Effort(step) for step in steps]]
    for line in lines:
        first_that_meets(line, target, tried)
    return list(memory.values())


def inner_lines(index: str, k: int, step: float) -> list[list[Effort]]:
    """Efforts at one share of the partitions, in lines along which recall rises; none where nothing else can be set."""
    if is_graph(index):
        refines = (None,) if index in TRUE_DISTANCES else GRAPH_REFINES
        sizes = [math.ceil(k * times) for times in EFS]
        return [[Effort(step, refine, ef) for ef in sizes if ef >= k * (refine or 1)] for refine in refines]
    if index in TRUE_DISTANCES:
        return []
    return [[Effort(step, refine) for refine in REFINE_FACTORS]]


def first_that_meets(line: Sequence[Effort], target: float, attempt: Try) -> int | None:
    """Place of the first effort of a line that meets the target, by bisection; None where the last one does not."""
    if not meets(attempt(line[-1]), target):
        return None
    low, high = 0, len(line) - 1
    while low < high:
        middle = (low + high) // 2
        if meets(attempt(line[middle]), target):
            high = middle
        else:
            low = middle + 1
    return low


def meets(trial: Trial, target: float, errors: float = 1.0) -> bool:
    """Whether a trial meets the target by so many standard errors: other queries will be asked, and the luckiest trial is chosen."""
    missed = trial.due - trial.met
    due = max(1, trial.due.sum())
    spread = math.sqrt(float(((missed - (1 - trial.recall) * trial.due) ** 2).sum())) / due
    return trial.recall - errors * spread >= target


def cheapest(trials: Sequence[Trial], target: float, max_p95_ms: float | None = None) -> Trial | None:
    """The fastest trial that meets the target, of those within the latency if there are such; None where none meets it."""
    meeting = [trial for trial in trials if meets(trial, target)]
    within = [trial for trial in meeting if max_p95_ms is None or trial.p95_ms <= max_p95_ms]
    return min(within or meeting, key=lambda trial: trial.quiet_ms, default=None)


def raise_effort(effort: Effort, share: float, partitions: int, steps: int = 0) -> Effort:
    """The effort under a filter that keeps a share of the rows: as many more partitions as it leaves rows out; and `steps` above."""
    partly = -math.log(share) / math.log(partitions) if partitions > 1 else 1.0
    more = 2**steps
    return Effort(
        min(1.0, round(effort.search_effort + partly + 0.15 * steps, 3)),
        None if effort.refine_factor is None else min(200, 2 * effort.refine_factor * more),
        None if effort.ef is None else math.ceil(effort.ef * (1 + partly) * more),
    )
