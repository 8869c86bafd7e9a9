"""Fitting a bridge for a table, and keeping it in the lake."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from latentlake.bridges.fitting import METHODS, fit, space_of
from latentlake.bridges.store import Bridge, write_bridge
from latentlake.comparison.coverage import joined, match_rows, read_places
from latentlake.provenance import Provenance
from operators.errors import FingerprintMismatch, NotFound, SpecError

if TYPE_CHECKING:
    from latentlake.storage import Storage
    from latentlake.table import Table

PAIRS = 20_000  # rows with both vectors that a bridge is fitted and measured on


def align(
    table: Table,
    lake: Storage,
    column: str,
    new_column: str,
    *,
    pairs: Table | None = None,
    sample: int = PAIRS,
    k: int = 10,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
) -> Bridge:
    """Fit a bridge from the space of `new_column` to that of `column`, measure it, and keep it in the lake, beside the table.

    It is fitted on at most `sample` rows with vectors in both columns. `pairs` is another table, or another version, that has
    `new_column`: with both columns, or with rows of the same id and content as `table`'s. Both columns may have one name, where
    the other version was rebuilt with another model. See `fitting.fit` for the rest.
    Raises `NotFound`, `SpecError`, `FingerprintMismatch` (the other table's `column` is of another model).
    """
    source = table if pairs is None else pairs
    stored, new = table.provenance(column), new_provenance(source, new_column, table)
    if stored.fingerprint == new.fingerprint:
        raise SpecError(
            f"columns '{column}' and '{new_column}' are of one model ({new.fingerprint[:8]}…): queries need no bridge."
        )
    old_vectors, new_vectors = read_pairs(table, source, column, new_column, sample, seed)
    spaces = space_of(new), space_of(stored)
    found = fit(spaces[0].prepare(new_vectors), spaces[1].prepare(old_vectors), spaces, k=k, methods=methods, seed=seed)
    bridge = Bridge(
        column=column,
        fingerprint=stored.fingerprint,
        new_column=new_column,
        new_fingerprint=new.fingerprint,
        new_provenance=new.to_json(),
        dimension=stored.dimension,
        kind=found.kind,
        setting=found.setting,
        recall=found.recall.value,
        low=found.recall.low,
        high=found.recall.high,
        measured=found.recall.rows,
        without=None if found.without is None else found.without.value,
        k=found.k,
        pairs=found.pairs,
        pool=found.pool,
        pairs_table=source.name,
        pairs_version=source.version,
        version=table.version,
        tried=tuple((one.kind, one.setting, one.recall) for one in found.tried),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        arrays=found.arrays,
    )
    write_bridge(lake, table.name, bridge)
    return bridge


def new_provenance(source: Table, new_column: str, table: Table) -> Provenance:
    """What made the new column. Raises `NotFound`, saying where else it may be."""
    try:
        return source.provenance(new_column)
    except NotFound as failure:
        raise NotFound(
            f"{failure}\n  While it is being made, embed some objects into a table of its own, and name that: "
            f"latentlake align {table.uri.rpartition('/')[0]} {table.name} --pairs OTHER_TABLE …"
        ) from failure


def read_pairs(
    table: Table, source: Table, column: str, new_column: str, sample: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Stored vectors of both columns, (n, …) each, of the same rows at random. Raises `FingerprintMismatch`."""
    if column in source.vector_columns and column != new_column:
        mine, theirs = table.provenance(column).fingerprint, source.provenance(column).fingerprint
        if mine != theirs:
            raise FingerprintMismatch(
                f"column '{column}' of '{source.name}' holds vectors of {theirs[:8]}…, that of '{table.name}' of {mine[:8]}….\n"
                "  Take pairs from a table whose column is of the same model, or has none of that name."
            )
        parts = list(source.vectors([column, new_column], sample=sample, seed=seed).arrays())
        return joined([part[column] for part in parts]), joined([part[new_column] for part in parts])
    _, places = match_rows(table, source, column, new_column, rows=sample, seed=seed, same_content=True)
    old, new, _ = read_places(table, source, column, new_column, places)
    return old, new
