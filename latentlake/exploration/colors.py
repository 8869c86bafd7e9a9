"""Which color a row has: one per value of a column with few of them, a scale for numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa

from latentlake.views import show_cell

# The first six are Paul Tol's "bright", told apart also by most people who see colors differently: https://personal.sron.nl/~pault
COLORS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"),
    *("#332288", "#ee7733", "#44aa99", "#805030", "#99cc55", "#e6a0c4"),
)
PLAIN, OTHERS = "#4477aa", "#bbbbbb"
FEW_NUMBERS = 8  # a column of integers with so few values has a color per value


@dataclass(frozen=True)
class Coloring:
    """The values that rows are colored by. `values` None: all rows have one color."""

    name: str
    values: Sequence[Any] | None
    is_scale: bool
    rows: int

    @property
    def has_legend(self) -> bool:
        """Whether the groups have names worth showing."""
        return self.values is not None and not self.is_scale

    def groups(self) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
        """Name, rows (n,) and plotly's marker of each group of rows, the largest first; what has no color of its own is grey."""
        if self.values is None:
            yield "", np.arange(self.rows), {"color": PLAIN}
            return
        if self.is_scale:
            numbers = np.array([np.nan if value is None else float(value) for value in self.values])
            there = np.isfinite(numbers)
            if not there.all():
                yield "no value", np.flatnonzero(~there), {"color": OTHERS}
            scale = {
                "colorscale": "Viridis",
                "showscale": True,
                "colorbar": {"title": {"text": escape(show_cell(self.name))}},
            }
            yield show_cell(self.name), np.flatnonzero(there), {"color": numbers[there], **scale}
            return
        names = np.array([name_of(value) for value in self.values], dtype=object)
        ordered = [name for name, _ in Counter(names.tolist()).most_common() if name]
        own, rest = ordered[: len(COLORS)], set(ordered[len(COLORS) :])
        others = np.flatnonzero([name in rest or not name for name in names])
        if len(others):
            told = f"{len(rest)} others" if rest else "no value"
            yield told, others, {"color": OTHERS}
        for name, color in zip(own, COLORS, strict=False):
            yield name, np.flatnonzero(names == name), {"color": color}


def name_of(value: Any) -> str:
    """A value as a name in a legend; empty where there is none."""
    return show_cell(value)[:60]


def color_rows(name: str | None, column: pa.ChunkedArray | None, rows: int) -> Coloring:
    """How to color so many rows by a column, if one is given."""
    if name is None or column is None:
        return Coloring("", None, False, rows)
    values = column.to_pylist()
    kind = column.type
    is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    few = is_number and not pa.types.is_floating(kind) and len(set(values)) <= FEW_NUMBERS
    return Coloring(name, values, is_number and not few, rows)
