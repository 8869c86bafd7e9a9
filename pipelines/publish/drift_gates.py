"""`max_drift`: how far the vectors of each column have moved, as a whole, from those of the version that the tag marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from latentlake.comparison.drift import SAMPLE, comparable, drift
from latentlake.table import Table
from operators.errors import LatentLakeError
from pipelines.publish.gates import Gate
from pipelines.publish.subject import Subject, fingerprint
from pipelines.publish.suite_gates import WORST, not_asked, nothing_before

OTHER_MODEL = """their distance means nothing.
  Compare what they find instead (max_drop), and leave this gate out for this version: --set gates.max_drift=null"""
ROWS = 500  # of a sample, at a time, whose distances are held


def drift_gates(most: float, subject: Subject) -> Iterator[Gate]:
    """`max_drift` of each vector column, by `Drift.mmd` of up to 2,000 rows of each version."""
    for column in subject.columns:
        if subject.before is None or column not in subject.before.vector_columns:
            what = f"the vectors of '{column}' are compared with nothing"
            what += "" if subject.before is None else ": the column is new"
            yield nothing_before("max_drift", most, subject, what, column=column)
        elif fingerprint(subject.before, column) != fingerprint(subject.table, column):
            what = f"the vectors of '{column}' are of another model, or made in another way, than those of version {subject.before.version}"
            yield not_asked("max_drift", None, most, what, OTHER_MODEL, column)
        else:
            try:
                yield drift_gate(most, subject.before, subject.table, column)
            except LatentLakeError as failure:
                yield not_asked(
                    "max_drift", None, most, f"the drift of '{column}' cannot be measured", str(failure), column
                )


def drift_gate(most: float, before: Table, after: Table, column: str) -> Gate:
    """`max_drift` of one column that both versions have, of one fingerprint."""
    (_, old), (ids, new) = sample_rows(before, column), sample_rows(after, column)
    found = drift(old, new)
    held = found.mmd <= most
    over = "" if held else f", {found.mmd - most:.4f} too far"
    return Gate(
        name="max_drift",
        moment="tag",
        of="vectors",
        value=found.mmd,
        limit=most,
        held=held,
        why=f"the vectors of '{column}' are {found.mmd:.4f} (MMD; p {found.p_value:.3f}) from those of version {before.version}{over}",
        asks=f"; gates.max_drift allows {most:.4f}.",
        remedy="Look at what is new in the source, or raise the gate; the next run gates this version again.",
        column=column,
        measured_at=after.version,
        worst=() if held else farthest(ids, new, old),
    )


def sample_rows(table: Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) and vectors, as their metric compares them, float64 (n, dim), of up to `SAMPLE` rows. Raises `SpecError`."""
    parts = list(table.vectors(["id", column], sample=SAMPLE).arrays())
    metric = table.provenance(column).metric
    vectors = [comparable(part[column], metric) for part in parts]
    ids = [part["id"] for part in parts]
    if not parts:
        raise LatentLakeError(f"version {table.version} has no vectors in it.")
    return np.concatenate(ids), np.concatenate(vectors)


def farthest(ids: np.ndarray, new: np.ndarray, old: np.ndarray) -> tuple[Mapping[str, Any], ...]:
    """The rows of `new` whose nearest row of `old` is farthest away."""
    squares = np.einsum("nd,nd->n", old, old)
    nearest = []
    for start in range(0, len(new), ROWS):
        rows = new[start : start + ROWS]
        distances = np.einsum("nd,nd->n", rows, rows)[:, None] + squares[None] - 2 * rows @ old.T
        nearest.append(distances.min(axis=1))
    distances = np.sqrt(np.maximum(np.concatenate(nearest), 0))
    order = np.argsort(-distances, kind="stable")[:WORST].tolist()
    return tuple({"row": str(ids[at]), "distance to the nearest": float(distances[at])} for at in order)
