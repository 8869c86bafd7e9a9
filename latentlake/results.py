"""What a search found, for programs, terminals and notebooks.

What a table says is data: every cell is escaped, no link is ever made of one, and pictures are read only from disk and
object stores.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from latentlake.storage import OBJECT_STORES, open_storage, scheme_of
from operators.batch import make_batch
from operators.decode import find_decoder
from operators.errors import MissingExtra

if TYPE_CHECKING:
    from rich.table import Table

DISTANCE = "_distance"
SHOWN_ROWS = 50
SHOWN_CHARACTERS = 200
THUMBNAIL_PX = 128
# An image file larger than this is not read for a thumbnail.
THUMBNAIL_MAX_BYTES = 32 * 2**20


class SearchResult:
    """Rows nearest first, with `_distance`. Shows itself in terminals (rich) and notebooks, images as thumbnails."""

    def __init__(
        self, table: pa.Table, modality: str = "text", storage_options: Mapping[str, str] | None = None
    ) -> None:
        """`storage_options` reach the objects that thumbnails are made of."""
        self._table = table
        self._modality = modality
        self._storage_options = storage_options or {}

    def to_arrow(self) -> pa.Table:
        """The rows as Arrow."""
        return self._table

    def to_pandas(self) -> Any:
        """The rows as a pandas data frame. Raises `MissingExtra` where pandas is not installed."""
        try:
            import pandas  # type: ignore[import-untyped]  # noqa: F401
        except ImportError as failure:
            raise MissingExtra("`to_pandas` needs pandas: pip install pandas") from failure
        return self._table.to_pandas()

    def to_list(self) -> list[dict[str, Any]]:
        """The rows as dicts. A time that Python does not know (the year 12000, an unknown zone) is a text."""
        return rows_of(self._table)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_list())

    def __repr__(self) -> str:
        lines = [f"{show_cell(row)}" for row in self._shown()]
        return "\n  ".join([f"SearchResult of {len(self)} rows", *lines, *self._left_out()])

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(caption="\n".join(self._left_out()) or None)
        for name in self._names():
            table.add_column(Text(show_cell(name)), overflow="fold")
        for row in self._shown():
            # `Text`, because a str in a rich table is markup.
            table.add_row(*(Text(show_cell(row[name])) for name in self._names()))
        return table

    def _repr_html_(self) -> str:
        pictures = self._modality == "image" and "uri" in self._table.column_names
        head = [*([""] if pictures else []), *self._names()]
        lines = ["<table>", "<tr>" + "".join(f"<th>{escape(show_cell(name))}</th>" for name in head) + "</tr>"]
        for row in self._shown():
            cells = [thumbnail_html(row["uri"], self._storage_options)] if pictures else []
            cells += [escape(show_cell(row[name])) for name in self._names()]
            lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        lines += ["</table>", *(f"<p>{escape(line)}</p>" for line in self._left_out())]
        return "\n".join(lines)

    def _names(self) -> list[str]:
        """Columns in the order they are shown in, the distance first; those that tell a reader nothing are left out.

        These are columns of nulls, object ids that are the row ids, and token counts. `to_arrow` has them all.
        """
        rows = self._table
        same = "id" in rows.column_names and "object_id" in rows.column_names and rows["id"].equals(rows["object_id"])
        names = [
            name
            for name in rows.column_names
            if not (rows.num_rows and rows[name].null_count == rows.num_rows)
            and not (same and name == "object_id")
            and not name.endswith(("_tokens", "_truncated"))
        ]
        return sorted(names, key=lambda name: name != DISTANCE)

    def _shown(self) -> list[dict[str, Any]]:
        return rows_of(self._table.slice(0, SHOWN_ROWS))

    def _left_out(self) -> list[str]:
        return [f"… and {len(self) - SHOWN_ROWS} more rows"] if len(self) > SHOWN_ROWS else []


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


def show_cell(value: Any) -> str:
    """One line of at most 200 characters, without control characters (they could steer a terminal)."""
    if value is None:
        return ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * SHOWN_CHARACTERS]).split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def thumbnail_html(uri: str | None, storage_options: Mapping[str, str]) -> str:
    """An `<img>` that holds the picture itself; where it cannot be read, a placeholder that says why."""
    try:
        data = base64.b64encode(make_thumbnail(uri, storage_options)).decode()
    except Exception as failure:  # a result is shown whatever its pictures do; the placeholder tells
        return f'<span title="{escape(show_cell(f"{type(failure).__name__}: {failure}"))}">no picture</span>'
    return f'<img src="data:image/jpeg;base64,{data}" alt="">'


def make_thumbnail(uri: str | None, storage_options: Mapping[str, str]) -> bytes:
    """JPEG of at most 128 x 128 pixels of the image at `uri`. Raises whatever keeps it from being read."""
    if not uri or scheme_of(uri) not in {"file", *OBJECT_STORES}:
        raise ValueError("the row names no file on disk or in an object store")
    storage = open_storage(uri, {} if scheme_of(uri) == "file" else storage_options)
    found = storage.fs.info(storage.root)
    if found["type"] != "file" or found["size"] > THUMBNAIL_MAX_BYTES:
        raise ValueError("no file, or one too large for a thumbnail")
    batch = find_decoder("image").decode(make_batch([uri], [storage.fs.cat_file(storage.root)]))
    if batch["error"][0] is not None:
        raise ValueError(batch["error"][0])
    image = batch["image"][0]
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()
