"""What an evaluation found: figures with their intervals, as data, as text and in notebooks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from latentlake.evaluation.statistics import CONFIDENCE, RESAMPLES, Sample, interval_of
from latentlake.views import PLAIN_WIDTH, html_table, text_table
from operators.errors import NotFound, SpecError, did_you_mean

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("measure", pa.string()),
        ("column", pa.string()),
        ("mode", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
    ]
)
Key = tuple[str, str, str, str]  # task, measure, column, mode


@dataclass(frozen=True)
class Result:
    """One figure. `low` and `high` bound it with the evaluation's confidence; None where resampling cannot tell.

    `n` is how many units it stands on: queries, pairs, rows. `mode` is how it was searched ("vector", "vector exact", "text",
    "hybrid"), and empty for a task that does not search.
    """

    task: str
    measure: str
    column: str
    mode: str
    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def key(self) -> Key:
        """What tells it from the others of an evaluation."""
        return self.task, self.measure, self.column, self.mode


@dataclass(frozen=True)
class Difference:
    """A figure of two evaluations: `value` is after minus before, bounded by the paired bootstrap where both kept their units."""

    task: str
    measure: str
    column: str
    mode: str
    before: float
    after: float
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Evaluation:
    """The results of a suite on one version of a table. `samples` keep what each was computed from, unit by unit."""

    table: str
    version: int
    suite: str
    suite_hash: str
    settings: Mapping[str, Any]  # what else decided the figures: columns' fingerprints and indexes, seeds, sizes
    results: Sequence[Result]
    samples: Mapping[Key, Sample] = field(default_factory=dict, repr=False)
    notes: Sequence[str] = ()  # what a reader of the figures should know, such as judged documents that are missing

    def find(
        self, measure: str, *, task: str | None = None, column: str | None = None, mode: str | None = None
    ) -> Result:
        """The only result of a measure, of a task, column and mode as far as given. Raises `NotFound`, `SpecError` (several)."""
        from latentlake.evaluation.measures import canonical_measure

        name = canonical_measure(measure)
        wanted = {"measure": name, "task": task, "column": column, "mode": mode}
        found = [
            r for r in self.results if all(value is None or getattr(r, part) == value for part, value in wanted.items())
        ]
        if len(found) == 1:
            return found[0]
        if not found:
            names = sorted({r.measure for r in self.results})
            raise NotFound(
                f"the evaluation has no such result: {described(wanted)}.{did_you_mean(name, names)}\n"
                f"  Measures: {', '.join(names) or 'none'}"
            )
        raise SpecError(
            f"the evaluation has {len(found)} results of {described(wanted)}; say which:\n  "
            + "\n  ".join(f"task '{r.task}', column '{r.column}', mode '{r.mode}'" for r in found)
        )

    def values(self, result: Result) -> pa.Table:
        """What a result was computed from: `id` of each unit, and its value, or values, as columns. Raises `NotFound`."""
        if result.key not in self.samples:
            raise NotFound(f"{result.measure} of task '{result.task}' has no value per unit.")
        sample = self.samples[result.key]
        names = ["value"] if sample.data.shape[1] == 1 else [f"value_{n}" for n in range(sample.data.shape[1])]
        return pa.table({"id": pa.array(sample.ids, pa.string()), **dict(zip(names, sample.data.T, strict=True))})

    def to_arrow(self) -> pa.Table:
        """One row per result."""
        return pa.Table.from_pylist([asdict(result) for result in self.results], schema=SCHEMA)

    def to_json(self) -> str:
        """All but the samples."""
        told = {name: getattr(self, name) for name in ("table", "version", "suite", "suite_hash", "settings")}
        return json.dumps({**told, "results": [asdict(r) for r in self.results], "notes": list(self.notes)})

    def to_cells(self) -> list[dict[str, str]]:
        """The results as cells of text, by the names of columns."""
        return [shown(result) for result in self.results]

    def to_text(self, width: int) -> str:
        """A table of one line per result, none longer than `width` characters."""
        head = f"{self.table}, version {self.version}: suite '{self.suite}'"
        rows = self.to_cells()
        table = text_table(rows, list(rows[0]), width) if rows else "no results"
        return "\n".join([head, table, *(f"note: {note}" for note in self.notes)])

    def __str__(self) -> str:
        return self.to_text(shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns)

    def _repr_html_(self) -> str:
        from html import escape

        rows = self.to_cells()
        head = f"<p>{escape(self.table)}, version {self.version}: suite <b>{escape(self.suite)}</b></p>"
        notes = [f"<p>{escape(note)}</p>" for note in self.notes]
        return "\n".join([head, html_table(rows, list(rows[0]), None) if rows else "<p>no results</p>", *notes])


def shown(result: Result) -> dict[str, str]:
    """A result as cells of text."""
    interval = "" if result.low is None or result.high is None else f"{result.low:.4f} to {result.high:.4f}"
    return {
        "task": result.task,
        "measure": result.measure,
        "column": result.column,
        "mode": result.mode,
        "value": f"{result.value:.4f}",
        "interval": interval,
        "n": str(result.n),
    }


def described(wanted: Mapping[str, str | None]) -> str:
    """What was looked for, for a message."""
    return ", ".join(f"{part} '{value}'" for part, value in wanted.items() if value is not None)


def compare(
    before: Evaluation,
    after: Evaluation,
    *,
    pairs: Sequence[tuple[Key, Key]] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[Difference]:
    """After minus before for every result that both have, over the units that both have, with paired intervals.

    `pairs` names the keys to compare instead, such as of two columns or two modes of one evaluation.
    """
    first, second = ({result.key: result for result in one.results} for one in (before, after))
    if pairs is None:
        pairs = [(key, key) for key in first if key in second]
    found = []
    for one, other in pairs:
        if one not in first or other not in second:
            raise NotFound(f"no result {one if one not in first else other} to compare.")
        samples = before.samples.get(one), after.samples.get(other)
        if samples[0] is not None and samples[1] is not None:
            a, b, value, low, high, n = paired(samples[0], samples[1], resamples, confidence, seed)
        else:
            a, b, low, high, n = first[one].value, second[other].value, None, None, second[other].n
            value = b - a
        found.append(Difference(*other, before=a, after=b, value=value, low=low, high=high, n=n))
    return found


def paired(
    before: Sample, after: Sample, resamples: int, confidence: float, seed: int
) -> tuple[float, float, float, float, float, int]:
    """Figures before and after, and their difference with its interval, over the units that both have; how many these are."""
    places = {name: place for place, name in enumerate(after.ids.tolist())}
    shared = [(place, places[name]) for place, name in enumerate(before.ids.tolist()) if name in places]
    if not shared:
        raise SpecError("the two evaluations have no query, pair or row in common; evaluate both with one suite.")
    one, other = np.array(shared).T
    first, second = before.restricted(one), after.restricted(other)
    figures = first.figure, second.figure
    low, high = interval_of(
        lambda weights: figures[1](weights) - figures[0](weights), len(one), first.groups, resamples, confidence, seed
    )
    a, b = first.value, second.value
    return a, b, b - a, low, high, len(one)
