"""Fan-out: one object becomes several rows, each with its place in the object.

Whoever fans out declares the columns it writes, typed by what they count: an operator by `@operator(positions=…)`, a decoder by
its `POSITIONS`. The table's schema, the chain and the reserved names learn them from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from operators.batch import Batch, RowError, live_rows, object_array, take_rows
from operators.errors import SpecError

Unit = Literal["row", "characters", "tokens", "page", "time_ms", "frame"]
STORED = {
    "row": "int32",
    "characters": "int64",
    "tokens": "int64",
    "page": "int32",
    "time_ms": "int64",
    "frame": "int64",
}


@dataclass(frozen=True)
class Position:
    """A column that says where in its object a row lies, counted from 0 in `unit`."""

    name: str
    unit: Unit

    @property
    def stored(self) -> str:
        """Type of the table's column: "int32" or "int64"."""
        return STORED[self.unit]


CHUNK = Position("chunk", "row")  # number of the row in its object; whoever fans out writes it
Piece = tuple[Any, tuple[int, ...]]  # a value, and its positions


def span(unit: Unit) -> tuple[Position, Position]:
    """Positions `start` (the first) and `end` (one past the last), in `unit`."""
    return Position("start", unit), Position("end", unit)


def fan_out(
    batch: Batch, cut: Callable[[int], Sequence[Piece]], *, column: str, stage: str, positions: Sequence[Position]
) -> Batch:
    """Fan each live row out to the pieces that `cut(row)` makes of it.

    A piece becomes a row with all columns of its object and: `id` = `object_id#k`, `chunk` = k, its value in `column`, and a
    column int64 for each of `positions`. A row of which `cut` makes nothing is rejected as `<stage>: empty`, one for which it
    raises `RowError` with what that says. Rejected and filtered rows pass once, with their id and zeros. Objects stay in
    their order. Raises `SpecError` for rows that have been fanned out already.
    """
    live = set(live_rows(batch).tolist())
    if any(batch["id"][row] != batch["object_id"][row] for row in live):
        raise SpecError(
            f"{stage}: the rows are parts of objects already.\n  Name one operator that fans out a job, not two."
        )
    errors, nowhere = batch["error"].copy(), (0,) * len(positions)
    rows: list[int] = []
    made: list[tuple[str, Any, int, tuple[int, ...]]] = []
    for row, (row_id, value) in enumerate(zip(batch["id"], batch[column], strict=True)):
        pieces: Sequence[Piece] = ()
        if row in live:
            try:
                pieces = cut(row)
                errors[row] = None if pieces else f"{stage}: empty"
            except RowError as failure:
                errors[row] = f"{stage}: {failure}"
        found = [(f"{row_id}#{k}", piece, k, places) for k, (piece, places) in enumerate(pieces)]
        made += found or [(row_id, value, 0, nowhere)]
        rows += [row] * max(1, len(found))
    ids, values, numbers, places = zip(*made, strict=True) if made else ((),) * 4
    table = np.array(places, dtype=np.int64).reshape(len(made), len(positions))
    return {
        **take_rows({**batch, "error": errors}, np.array(rows, dtype=np.int64)),
        "id": object_array(ids),
        column: object_array(values),
        CHUNK.name: np.array(numbers, dtype=np.int64),
        **{position.name: table[:, at] for at, position in enumerate(positions)},
    }
