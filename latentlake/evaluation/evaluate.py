"""A suite run on one version of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentlake.evaluation.base import Measured, Subject, TaskSpec
from latentlake.evaluation.results import Evaluation, Key, Result
from latentlake.evaluation.statistics import CONFIDENCE, RESAMPLES, Sample, interval_of
from latentlake.evaluation.suite import Suite, load_suite
from latentlake.query import taken
from latentlake.table import Table
from operators.errors import SpecError


def evaluate(
    table: Table,
    suite: str | Path | Mapping[str, Any] | Suite,
    *,
    columns: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Evaluation:
    """Run every task of a suite on the vector columns that it fits, or on those of them that are named. Writes nothing.

    Intervals hold `confidence` of `resamples` bootstrap resamples. Raises `InvalidSpec` (the suite), `NotFound`, `SpecError`,
    `MissingExtra`, and what embedding a query raises.
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise SpecError(
            f"resamples is {resamples} and confidence {confidence}: they must be 1 or more, and between 0 and 1."
        )
    loaded = load_suite(suite)
    for column in columns or ():
        table.provenance(column)
    results: dict[Key, Result] = {}
    samples: dict[Key, Sample] = {}
    notes: list[str] = []
    for task, column in planned(loaded, table, columns):
        given = task.measures_given()
        for measured in task.run(Subject(table, column, seed, notes)):
            assert not given or measured.measure in given, f"{task.kind} does not say that it gives {measured.measure}"
            key = task.title, measured.measure, measured.column or column, measured.mode
            if key in results:
                continue  # by words, which is the same whatever the vector column
            results[key] = to_result(key, measured, resamples, confidence, seed)
            if measured.sample is not None:
                samples[key] = measured.sample
    settings = settings_of(table, loaded, columns, resamples, confidence, seed)
    return Evaluation(
        table.name,
        table.version,
        loaded.name,
        loaded.hash(),
        settings,
        list(results.values()),
        samples,
        tuple(notes),
    )


def planned(suite: Suite, table: Table, asked: Sequence[str] | None) -> list[tuple[TaskSpec, str]]:
    """What is run on which vector column, in the suite's order. Raises `SpecError` where nothing is, `NotFound`."""
    found = [(task, column) for task in suite.tasks for column in columns_of(task, table, asked)]
    if not found:
        raise SpecError(
            f"no task of suite '{suite.name}' fits {' or '.join(asked or ())}; name other columns, or none."
        )
    return found


def settings_of(
    table: Table,
    suite: Suite,
    columns: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Any]:
    """What decides the figures of an evaluation, beside the version and the suite. Arguments are those of `evaluate`."""
    used = {column for _, column in planned(suite, table, columns)}
    return {
        "columns": {column: table.provenance(column).fingerprint for column in sorted(used)},
        "indexes": sorted(f"{info.column}: {info.type}" for info in table.indexes() if info.column in used),
        "resamples": resamples,
        "confidence": confidence,
        "seed": seed,
    }


def columns_of(task: TaskSpec, table: Table, asked: Sequence[str] | None) -> Iterator[str]:
    """The vector columns that a task is run on. Raises `SpecError` where it fits none, `NotFound`."""
    named = task.columns or table.vector_columns
    fitting = [name for name in named if not task.takes or task.takes & taken(table.provenance(name))]
    if not fitting:
        raise SpecError(
            f"task '{task.title}' ({task.kind}) needs a vector column that is searched with {' or '.join(sorted(task.takes))}.\n"
            f"  Table '{table.name}' has: {', '.join(f'{n} ({table.provenance(n).modality})' for n in named) or 'none'}"
        )
    yield from (name for name in fitting if asked is None or name in asked)


def to_result(key: Key, measured: Measured, resamples: int, confidence: float, seed: int) -> Result:
    """A figure with its interval."""
    task, measure, column, mode = key
    sample = measured.sample
    if sample is None:
        return Result(task, measure, column, mode, measured.value, None, None, measured.n)
    figure, n = sample.figure, len(sample.data)
    low, high = interval_of(figure, n, sample.groups, resamples, confidence, seed)
    return Result(task, measure, column, mode, sample.value, low, high, n)
