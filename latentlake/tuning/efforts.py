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

Try = Callable[[Effort, float], Trial]  # with the milliseconds above which the effort cannot be the cheapest
SLOWER = 1.25  # times as slow as the fastest that meets: what is slower is not tried to its end
# Place in a line of the rest: nearly all indexes find there what they find at its end, in a third of the time.
ENOUGH = 6


def is_graph(index: str) -> bool:
    """Whether an index walks a graph in each partition."""
    return "hnsw" in index


def tune_effort(
    index: str,
    partitions: int,
    k: int,
    target: float,
    attempt: Try,
    fewest: float | None = None,
    max_p95_ms: float | None = None,
    limit_ms: float = math.inf,
) -> list[Trial]:
    """Trials of the efforts that may be the cheapest to meet the target; see `cheapest`.

    First the fewest partitions that have to be probed, with all else at its most, unless they are known (`fewest`, a search
    effort); then, there and at more partitions, how little of the rest will do. What takes longer than the fastest that was
    found by then, or than `limit_ms`, is given up early.
    """
    memory: dict[Effort, Trial] = {}

    def tried(effort: Effort, limit_ms: float = math.inf) -> Trial:
        if effort not in memory:
            memory[effort] = attempt(effort, limit_ms)
        return memory[effort]

    def raced(effort: Effort) -> Trial:
        best = cheapest(list(memory.values()), target, max_p95_ms)
        wanted = best is not None and (max_p95_ms is None or best.p95_ms <= max_p95_ms)
        return tried(effort, min(limit_ms, SLOWER * best.quiet_ms) if best and wanted else limit_ms)

    steps: Sequence[float] = SEARCH_EFFORTS if partitions > 1 else (1.0,)
    rest = inner_lines(index, k, 1.0)
    if rest and len(steps) > 1:
        first, last = fewest_steps(steps, rest[-1], target, tried, fewest), len(steps) - 1
        # Few partitions and many candidates may be slower than the other way round.
        places = [last] if first is None else sorted({first, min(first + 1, last), (first + last) // 2, last})
        steps = [steps[place] for place in places]
    lines = [line for step in steps for line in inner_lines(index, k, step)] or [[Effort(step) for step in steps]]
    for line in lines:
        first_that_meets(line, target, raced)
    return list(memory.values())


def fewest_steps(
    steps: Sequence[float],
    rest: Sequence[Effort],
    target: float,
    attempt: Callable[[Effort], Trial],
    known: float | None,
) -> int | None:
    """Place of the lowest search effort that meets the target with enough of the rest; None where none does."""
    if known is not None:
        return steps.index(known)
    enough = rest[min(ENOUGH, len(rest) - 1)]
    if not meets(attempt(enough), target):
        enough = rest[-1]
    return first_that_meets([replace(enough, search_effort=step) for step in steps], target, attempt)


def inner_lines(index: str, k: int, step: float) -> list[list[Effort]]:
    """Efforts at one share of the partitions, in lines along which recall rises; none where nothing else can be set."""
    if is_graph(index):
        refines = (None,) if index in TRUE_DISTANCES else GRAPH_REFINES
        sizes = [math.ceil(k * times) for times in EFS]
        return [[Effort(step, refine, ef) for ef in sizes if ef >= k * (refine or 1)] for refine in refines]
    if index in TRUE_DISTANCES:
        return []
    return [[Effort(step, refine) for refine in REFINE_FACTORS]]


def first_that_meets(line: Sequence[Effort], target: float, attempt: Callable[[Effort], Trial]) -> int | None:
    """Place of the first effort of a line that meets the target, or is too slow to be tried to its end.

    None where the last one is neither: both recall and time rise along a line. From its beginning, in growing steps, then by
    bisection: the first efforts cost least, and most of what meets is among them.
    """

    def ends(effort: Effort) -> bool:
        trial = attempt(effort)
        return trial.slow or meets(trial, target)

    low, high, step = 0, 0, 1
    while not ends(line[high]):
        if high == len(line) - 1:
            return None
        low, high, step = high + 1, min(high + step, len(line) - 1), 2 * step
    while low < high:
        middle = (low + high) // 2
        if ends(line[middle]):
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
    meeting = [trial for trial in trials if not trial.slow and meets(trial, target)]
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
