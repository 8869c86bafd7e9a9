"""Two versions of a table, two of its columns, or two tables, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentlake.comparison.coverage import EXAMPLES, Coverage, count_vectors, joined, match_rows, read_places
from latentlake.comparison.drift import SAMPLE, Drift, drift, sample_of
from latentlake.comparison.neighbours import Changed, overlap_of
from latentlake.comparison.results import Comparison, Side
from latentlake.indexes import has_vector
from latentlake.provenance import Provenance, shown
from operators.errors import SpecError

if TYPE_CHECKING:
    from latentlake.evaluation import Suite
    from latentlake.evaluation.results import Difference
    from latentlake.table import Table

POOL = 20_000  # rows among which neighbours are looked for: of 384 numbers 31 MB a side
QUERIES = 500


@dataclass(frozen=True)
class Common:
    """Rows of both sides: ids (n,), stored vectors (n, …) of each, and segments (n,) where they were asked for."""

    ids: np.ndarray
    before: np.ndarray
    after: np.ndarray
    segments: np.ndarray | None


def compare(
    before: Table,
    after: Table,
    *,
    column: str | None = None,
    other_column: str | None = None,
    k: int = 10,
    queries: int = QUERIES,
    pool: int = POOL,
    segment: str | None = None,
    suite: str | Path | Mapping[str, Any] | Suite | None = None,
    seed: int = 0,
) -> Comparison:
    """What differs between a column of `before` and one of `after`: coverage, neighbours, drift, measures. See `Comparison`.

    `column` may be left out where the tables have one vector column in common; `other_column` is that of `after`, by default
    the same name. `segment` is a metadata column of both, by whose values neighbours and drift are told, too. With a `suite`
    both sides are evaluated on it, and compared query by query.

    Reads ids as a stream, and vectors of `pool` rows at most. Raises `NotFound`, `SpecError`, and what an evaluation raises.
    """
    if k < 1 or queries < 1 or pool <= k:
        raise SpecError(f"k is {k}, queries {queries} and pool {pool}: at least 1, 1, and more than k.")
    column = column or common_column(before, after, other_column)
    other_column = other_column or column
    sides = side_of(before, column), side_of(after, other_column)
    if same_version(before, after) and column == other_column:
        raise SpecError(
            f"both sides are column '{column}' of '{before.name}' at version {before.version}; name another version, "
            "column or table."
        )
    for table in (before, after) if segment is not None else ():
        table.vectors([str(segment)])  # raises `NotFound` before anything is read
    coverage, drawn = read_common(before, after, column, other_column, pool, segment, seed)
    overlap, note = None, ""
    if len(drawn.ids) > 1:
        overlap = overlap_of(
            drawn.ids,
            (drawn.before, sides[0].metric),
            (drawn.after, sides[1].metric),
            k=min(k, len(drawn.ids) - 1),
            queries=queries,
            segments=drawn.segments,
            seed=seed,
        )
        overlap = replace(overlap, changed=told(before, overlap.changed))
    else:
        note = f"no neighbours are compared: {len(drawn.ids)} rows have a vector on both sides."
    moved, why = drift_between((before, after), sides, coverage, segment, seed)
    return Comparison(
        before=sides[0],
        after=sides[1],
        models=differing(before.provenance(column), after.provenance(other_column)),
        coverage=coverage,
        neighbours=overlap,
        drift=moved,
        measures=() if suite is None else tuple(measure(before, after, column, other_column, suite, seed)),
        notes=tuple(one for one in (note, why) if one),
    )


def same_version(before: Table, after: Table) -> bool:
    """Whether both are one table at one version."""
    return (before.uri, before.version) == (after.uri, after.version)


def common_column(before: Table, after: Table, other: str | None) -> str:
    """The only vector column that both have. Raises `SpecError`, listing them."""
    found = [name for name in before.vector_columns if name in after.vector_columns]
    if len(found) == 1 and other is None:
        return found[0]
    raise SpecError(
        f"say which columns to compare: '{before.name}' has {', '.join(before.vector_columns) or 'none'}, and "
        f"'{after.name}' has {', '.join(after.vector_columns) or 'none'}.\n"
        "  `column=` names that of the first side, `other_column=` that of the second (`--columns FIRST SECOND`)."
    )


def side_of(table: Table, column: str) -> Side:
    """One side of a comparison. Raises `NotFound`, `Unreadable`."""
    stored = table.provenance(column)
    return Side(
        table=table.name,
        uri=table.uri,
        version=table.version,
        tag=table.tag,
        column=column,
        fingerprint=stored.fingerprint,
        dimension=stored.dimension,
        metric=stored.metric,
    )


def differing(one: Provenance, other: Provenance) -> dict[str, tuple[str, str]]:
    """Fields of two columns' identities that differ, with both values; "" where a column has no such field."""
    names = sorted({*one.identity} | {*other.identity})
    values = {
        name: tuple(shown(side.identity[name]) if name in side.identity else "" for side in (one, other))
        for name in names
    }
    return {name: (before, after) for name, (before, after) in values.items() if before != after}


def read_common(
    before: Table, after: Table, column: str, other_column: str, pool: int, segment: str | None, seed: int
) -> tuple[Coverage, Common]:
    """Coverage, and rows at random that both sides have with vectors."""
    extra = [] if segment is None else [segment]
    if same_version(before, after):
        names = list(dict.fromkeys(["id", column, other_column, *extra]))
        parts = list(before.vectors(names, sample=pool, seed=seed).arrays())
        rows = {name: joined([part[name] for part in parts]) for name in names}
        coverage, vectors = coverage_of_columns(before, column, other_column, seed), [rows[column], rows[other_column]]
    else:
        coverage, places = match_rows(before, after, column, other_column, rows=pool, seed=seed)
        *vectors, rows = read_places(before, after, column, other_column, places, extra)
    return coverage, Common(rows["id"], vectors[0], vectors[1], None if segment is None else rows[segment].astype(str))


def coverage_of_columns(table: Table, column: str, other_column: str, seed: int) -> Coverage:
    """Coverage of two columns of one version: its rows are the same, its vectors need not be."""
    rows = table.count()
    counted = [count_vectors(table, name, seed) for name in (column, other_column)]
    lacking = [
        table.to_arrow(["id"], f"{has_vector(one)} AND NOT {has_vector(other)}", limit=EXAMPLES)["id"].to_pylist()
        for one, other in ((column, other_column), (other_column, column))
    ]
    return Coverage(
        rows_before=rows,
        rows_after=rows,
        common=rows,
        only_before=0,
        only_after=0,
        changed=0,
        vectors_before=counted[0][0],
        vectors_after=counted[1][0],
        vectors_estimated=counted[0][1] or counted[1][1],
        ids_only_before=tuple(lacking[0]),
        ids_only_after=tuple(lacking[1]),
    )


def told(table: Table, changed: Sequence[Changed]) -> tuple[Changed, ...]:
    """The rows whose neighbours changed, with the text and the address that the table has of them."""
    names = [name for name in ("text", "uri") if name in table.schema.names]
    if not names or not changed:
        return tuple(changed)
    quoted = ", ".join("'" + row.id.replace("'", "''") + "'" for row in changed)
    found = {row["id"]: row for row in table.to_arrow(["id", *names], f"id IN ({quoted})").to_pylist()}
    return tuple(replace(row, **{name: found[row.id][name] for name in names}) for row in changed)


def drift_between(
    tables: tuple[Table, Table], sides: tuple[Side, Side], coverage: Coverage, segment: str | None, seed: int
) -> tuple[Drift | None, str]:
    """Drift of the columns, and a note on it; None where they have no space in common, or a side has no vectors."""
    one, other = sides
    if (one.dimension, one.metric) != (other.dimension, other.metric):
        return None, "no drift: the columns have other dimensions or metrics, so their vectors cannot be compared."
    if not (coverage.vectors_before and coverage.vectors_after):
        return None, "no drift: one side has no vectors."
    samples = [
        sample_of(table, side.column, segment=segment, sample=SAMPLE, seed=seed)
        for table, side in zip(tables, sides, strict=True)
    ]
    note = "the columns are of two models: drift says how far their spaces differ, not their data."
    return drift(*samples, seed=seed), "" if one.fingerprint == other.fingerprint else note


def measure(
    before: Table,
    after: Table,
    column: str,
    other_column: str,
    suite: str | Path | Mapping[str, Any] | Suite,
    seed: int,
) -> list[Difference]:
    """Every figure of the suite that both sides have, with the paired interval of its difference."""
    from latentlake.evaluation import evaluate
    from latentlake.evaluation.results import compare as differences

    one = evaluate(before, suite, columns=[column], seed=seed)
    other = evaluate(after, suite, columns=[other_column], seed=seed)
    known = {result.key for result in other.results}
    pairs = [
        (result.key, key)
        for result in one.results
        if (key := (result.task, result.measure, other_column, result.mode)) in known
    ]
    return differences(one, other, pairs=pairs, seed=seed)
