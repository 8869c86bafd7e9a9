"""The gates that a suite measures: least figures (`min_ndcg`, `min`), and the most that one may drop (`max_drop`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from latentlake.evaluation import Evaluation, Result, Suite, canonical_measure, compare, load_suite
from operators.errors import LatentLakeError
from pipelines.job.spec import GateSpec
from pipelines.publish.gates import Gate
from pipelines.publish.subject import Subject

NDCG = "nDCG@10"
AS_READERS = (
    "vector",
    "",
)  # modes of a result that a measure means where it names none: as readers search, or no search at all
WORST = 5  # queries that are named
EVERY = "every measure"
# Measures that say how vectors are spread, and ranks: more of them is not better.
NOT_BETTER = frozenset(
    [
        "alignment",
        "effective rank",
        "hubness",
        "isotropy",
        "mean cosine",
        "median rank",
        "near-duplicate rate",
        "norm",
        "norm spread",
        "uniformity",
    ]
)
OF = {"min_ndcg": "suite", "min": "suite", "max_drop": "suite", "max_drift": "vectors"}


def suite_gates(gates: GateSpec, subject: Subject) -> list[Gate]:
    """The gates of a suite. One that cannot be asked does not hold, and says what would help."""
    floors, drops = floors_of(gates), drops_of(gates)
    if gates.suite is None:
        return []
    try:
        suite = load_suite(gates.suite)
        after = subject.made.of(subject.table, suite, subject.columns)
    except (LatentLakeError, OSError) as failure:
        asked = [(name, measure, least) for (name, measure), least in floors.items()]
        asked += [("max_drop", measure, most) for measure, most in drops.items()]
        told = f"version {subject.table.version} cannot be measured by the suite '{gates.suite}'"
        return [not_asked(*key, told, str(failure)) for key in asked]
    found = [gate for key, least in floors.items() for gate in floor_gates(*key, least, after)]
    return found + (list(drop_gates(drops, after, suite, subject)) if drops else [])


def floors_of(gates: GateSpec) -> dict[tuple[str, str], float]:
    """Least figures, by the gate's key and the measure."""
    least = {} if gates.min_ndcg is None else {("min_ndcg", NDCG): gates.min_ndcg}
    return {**least, **{("min", measure): value for measure, value in gates.min.items()}}


def drops_of(gates: GateSpec) -> dict[str, float]:
    """Largest drops by measure."""
    if gates.max_drop is None:
        return {}
    return dict(gates.max_drop) if isinstance(gates.max_drop, Mapping) else {EVERY: gates.max_drop}


def matching(results: Iterable[Result], measure: str) -> list[Result]:
    """Results of a measure, as readers search. `PART/MEASURE` means those of a task, a column or a mode; also of several.

    A measure that says nothing of the mode leaves out searches past the index, of the text alone, and such.
    """
    *parts, name = measure.split("/")
    if measure == EVERY:
        wanted = [r for r in results if r.measure not in NOT_BETTER]
    else:
        wanted = [r for r in results if r.measure == canonical_measure(name)]
    wanted = [r for r in wanted if all(part in (r.task, r.column, r.mode) for part in parts)]
    named = [r for r in wanted if r.mode in parts]
    return named or [r for r in wanted if r.mode in AS_READERS]


def floor_gates(gate: str, measure: str, least: float, found: Evaluation) -> Iterator[Gate]:
    """One gate for each result of a measure."""
    results = matching(found.results, measure)
    if not results:
        yield not_asked(gate, measure, least, no_measure(found, measure))
    for result in results:
        short = least - result.value
        yield Gate(
            name=gate,
            moment="tag",
            of="suite",
            value=result.value,
            limit=least,
            held=short <= 0,
            why=f"{named(result)} is {result.value:.4f}{interval(result.low, result.high)}"
            + (f", {short:.4f} too low" if short > 0 else ""),
            asks=f"; gates.{gate} asks for {least:.4f}.",
            remedy="Compare the versions, fix the job or its source, or lower the gate; the next run gates this version again.",
            column=result.column,
            measured_at=found.version,
            measure=result.measure,
            suite_hash=found.suite_hash,
            worst=lowest(found, result) if short > 0 else (),
        )


def drop_gates(drops: Mapping[str, float], after: Evaluation, suite: Suite, subject: Subject) -> Iterator[Gate]:
    """One gate for each result of each measure that may not drop by much, next to the version that the tag marks."""
    if subject.before is None or not set(subject.columns) & set(subject.before.vector_columns):
        new = "" if subject.before is None else ": all columns are new"
        for measure, most in drops.items():
            yield nothing_before("max_drop", most, subject, f"{measure} is compared with nothing{new}", measure)
        return
    try:
        before = subject.made.of(subject.before, suite, subject.columns)
    except (LatentLakeError, OSError) as failure:
        told = f"version {subject.before.version}, which the tag marks, cannot be measured by the suite '{suite.name}'"
        for measure, most in drops.items():
            yield not_asked("max_drop", measure, most, told, str(failure))
        return
    known = {result.key for result in before.results}
    for measure, most in drops.items():
        results = matching(after.results, measure)
        if not results:
            yield not_asked("max_drop", measure, most, no_measure(after, measure))
        elif results[0].measure in NOT_BETTER:
            yield not_asked(
                "max_drop", measure, most, f"more of '{results[0].measure}' is not better, so that no drop is bad"
            )
            continue
        for result in results:
            if result.key in known:
                yield drop_gate(most, before, after, result)
            elif result.column in subject.columns and result.column not in subject.before.vector_columns:
                why = f"column '{result.column}' is new: its {result.measure} is compared with nothing"
                yield nothing_before("max_drop", most, subject, why, result.measure, result.column)
            else:
                yield not_asked("max_drop", measure, most, f"version {before.version} has no {named(result)}")


def drop_gate(most: float, before: Evaluation, after: Evaluation, result: Result) -> Gate:
    """How far a result has dropped, over the queries that both versions were asked."""
    (found,) = compare(before, after, pairs=[(result.key, result.key)])
    low, high = (None, None) if found.low is None or found.high is None else (0 - found.high, 0 - found.low)
    drop = found.before - found.after
    moved = f"dropped by {drop:.4f}" if drop >= 0 else f"rose by {-drop:.4f}"
    return Gate(
        name="max_drop",
        moment="tag",
        of="suite",
        value=drop,
        limit=most,
        held=drop <= most,
        why=f"{named(result)} {moved}{interval(low, high)} next to version {before.version}: from {found.before:.4f} to {found.after:.4f}",
        asks=f"; gates.max_drop allows {most:.4f}.",
        remedy="Compare the versions, fix the job or its source, or raise the gate; the next run gates this version again.",
        column=result.column,
        measured_at=after.version,
        measure=result.measure,
        suite_hash=after.suite_hash,
        worst=most_dropped(before, after, result) if drop > most else (),
    )


def nothing_before(
    gate: str, limit: float, subject: Subject, what: str, measure: str | None = None, column: str | None = None
) -> Gate:
    """A gate that compares, of a version that there is nothing to compare with: it holds, and says so."""
    why = f"{what}: {subject.alone}" if subject.alone else what
    version = subject.table.version
    return Gate(gate, "tag", OF[gate], None, limit, True, why, ".", "", column, version, measure=measure)


def not_asked(
    gate: str, measure: str | None, limit: float, what: str, failure: str = "", column: str | None = None
) -> Gate:
    """A gate that cannot be asked: it does not hold. The first line of `failure` says why, the others what would help."""
    reason, _, remedy = failure.partition("\n")
    return Gate(
        name=gate,
        moment="tag",
        of=OF[gate],
        value=None,
        limit=limit,
        held=False,
        why=f"{what}: {reason}" if reason else what,
        asks=f"; gates.{gate} cannot be asked.",
        remedy=remedy.strip() or f"Check the suite, or leave gates.{gate} out; the next run gates this version again.",
        column=column,
        measure=measure,
    )


def no_measure(found: Evaluation, measure: str) -> str:
    """What is wrong with a measure that a suite does not have."""
    known = sorted({result.measure for result in found.results})
    return f"the suite '{found.suite}' has no '{measure}'; it has {', '.join(known) or 'no results'}"


def named(result: Result) -> str:
    """A result, for people."""
    mode = f", {result.mode}" if result.mode not in AS_READERS else ""
    return f"{result.measure} of '{result.column}' ({result.task}{mode})"


def interval(low: float | None, high: float | None) -> str:
    """An interval, for people; nothing where there is none."""
    return "" if low is None or high is None else f" ({low:.4f} to {high:.4f})"


def lowest(found: Evaluation, result: Result) -> tuple[Mapping[str, Any], ...]:
    """The units, such as queries, with the lowest values; none where a figure is not a mean of such."""
    sample = found.samples.get(result.key)
    if sample is None or sample.statistic != "mean":
        return ()
    order = np.argsort(sample.data[:, 0], kind="stable")[:WORST].tolist()
    return tuple({"query": str(sample.ids[at]), result.measure: float(sample.data[at, 0])} for at in order)


def most_dropped(before: Evaluation, after: Evaluation, result: Result) -> tuple[Mapping[str, Any], ...]:
    """The units whose values have dropped most; see `lowest`."""
    one, other = before.samples.get(result.key), after.samples.get(result.key)
    if one is None or other is None or one.statistic != "mean":
        return ()
    values = dict(zip(one.ids.tolist(), one.data[:, 0].tolist(), strict=True))
    pairs = [
        (name, values[name], value)
        for name, value in zip(other.ids.tolist(), other.data[:, 0].tolist(), strict=True)
        if name in values
    ]
    pairs.sort(key=lambda pair: pair[2] - pair[1])
    return tuple({"query": str(name), "before": old, "after": new} for name, old, new in pairs[:WORST])
