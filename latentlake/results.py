"""Rows of a table, and what a search found: as data, in terminals and in notebooks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa

from latentlake.views import (
    BM25,
    DISTANCE,
    PLAIN_WIDTH,
    SCORE,
    html_gallery,
    html_table,
    show_cell,
    shown_names,
    text_table,
)
from operators.errors import MissingExtra

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["BM25", "DISTANCE", "SCORE", "Rows", "SearchResult", "frame_of", "rows_of"]

SHOWN_ROWS = 50


class Rows:
    """Rows of a table. `rows[0]` is a dict and `rows[:2]` are rows; they print as a table, and as HTML in a notebook."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def to_arrow(self) -> pa.Table:
        """The rows as Arrow."""
        return self._table

    def to_pandas(self) -> Any:
        """The rows as a pandas data frame. Raises `MissingExtra` if pandas is not installed."""
        return frame_of(self._table)

    def to_list(self) -> list[dict[str, Any]]:
        """The rows as dicts. A time that Python does not know (the year 12000, an unknown zone) is a text."""
        return rows_of(self._table)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_list())

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> Rows: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | Rows:
        if isinstance(place, slice):
            return self._like(self._table.take(pa.array(range(len(self))[place], pa.int64())))
        row = range(len(self))[place]  # raises IndexError, and counts from the end where negative
        return rows_of(self._table.slice(row, 1))[0]

    def _like(self, table: pa.Table) -> Rows:
        return Rows(table)

    def to_text(self, width: int) -> str:
        """The first 50 rows as a table of one line per row, none longer than `width` characters."""
        if not len(self):
            return "no rows"
        return "\n".join([text_table(self._shown(), shown_names(self._table), width), *self._more()])

    def __str__(self) -> str:
        return self.to_text(shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns)

    __repr__ = __str__

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text  # because a str is markup

        yield Text(self.to_text(options.max_width))

    def _repr_html_(self) -> str:
        return "\n".join([self._html(), *(f"<p>{line}</p>" for line in self._more())])

    def _html(self) -> str:
        return html_table(self._shown(), shown_names(self._table), None)

    def _shown(self) -> list[dict[str, Any]]:
        return rows_of(self._table.slice(0, SHOWN_ROWS))

    def _more(self) -> list[str]:
        return [f"… and {len(self) - SHOWN_ROWS} more rows"] if len(self) > SHOWN_ROWS else []


class SearchResult(Rows):
    """Rows nearest first, with `_distance`. In a notebook, images are a gallery with the query first."""

    def __init__(
        self,
        table: pa.Table,
        modality: str = "text",
        storage_options: Mapping[str, str] | None = None,
        query: tuple[str, Any] | None = None,
    ) -> None:
        """`storage_options` reach the objects that thumbnails are made of.

        `query` is what was searched for: its text, and its picture (a PIL image or a URI) if it has one.
        """
        super().__init__(table)
        self._modality = modality
        self._storage_options = storage_options or {}
        self._query = query

    def _like(self, table: pa.Table) -> SearchResult:
        return SearchResult(table, self._modality, self._storage_options, self._query)

    def _html(self) -> str:
        names = shown_names(self._table)
        if self._modality == "image" and "uri" in self._table.column_names and len(self):
            return html_gallery(self._shown(), names, self._query, self._storage_options)
        return html_table(self._shown(), names, None if self._query is None else show_cell(self._query[0]))


def frame_of(table: pa.Table) -> Any:
    """An Arrow table as a pandas data frame. Raises `MissingExtra`."""
    try:
        import pandas  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as failure:
        raise MissingExtra("`to_pandas` needs pandas: pip install pandas") from failure
    return table.to_pandas()


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as dicts; a value that Python cannot hold is as Arrow writes it."""
    try:
        return table.to_pylist()
    except (OverflowError, ValueError):  # one value in one column
        columns = [[value_of(column, row) for row in range(table.num_rows)] for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def value_of(column: pa.ChunkedArray, row: int) -> Any:
    """One value; see `rows_of`."""
    try:
        return column[row].as_py()
    except (OverflowError, ValueError):
        return " ".join(str(column.slice(row, 1).combine_chunks()).split()).removeprefix("[ ").removesuffix(" ]")
