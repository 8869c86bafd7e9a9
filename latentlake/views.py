"""How rows look: a table of text that fits its width, and HTML for notebooks, with pictures.

What a table says is data: every cell is escaped, none becomes a link, and pictures are read from disk and object stores
only.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pyarrow as pa

from latentlake.storage import OBJECT_STORES, open_storage, scheme_of
from latentlake.stored import PART_TYPES
from operators.batch import make_batch
from operators.decode import find_decoder

DISTANCE = "_distance"  # lower is nearer
SCORE, BM25 = "_score", "_bm25"  # higher is better
PLAIN_WIDTH = 100  # characters per line where there is no terminal
SHOWN_CHARACTERS = 200
GAP = 2  # between two columns of text
LEAST_WIDTH = 12  # of a column of text that is worth cutting
THUMBNAIL_PX = 128  # the longer side, at most
THUMBNAIL_MIN_PX = 96  # a smaller picture is enlarged to this
# An image file larger than this is not read for a thumbnail.
THUMBNAIL_MAX_BYTES = 32 * 2**20
GALLERY = "display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start"
FIGURE = "margin:0;max-width:160px;overflow-wrap:anywhere;font-size:85%"


def show_cell(value: Any) -> str:
    """One line of at most 200 characters, without control characters (they could steer a terminal)."""
    if value is None:
        return ""
    text = f"{round(value, 4) + 0.0:.4f}" if isinstance(value, float) else str(value)
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * SHOWN_CHARACTERS]).split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def shown_names(rows: pa.Table) -> list[str]:
    """Columns worth showing, in order: the score, the distance, the id, a text, then the others.

    Not shown are columns of nulls, object ids that equal the row ids, and token counts.
    """
    same = "id" in rows.column_names and "object_id" in rows.column_names and rows["id"].equals(rows["object_id"])
    names = [
        name
        for name in rows.column_names
        if not (rows.num_rows and rows[name].null_count == rows.num_rows)
        and not (same and name == "object_id")
        and not name.endswith(tuple(PART_TYPES))
    ]
    first = (SCORE, DISTANCE, "id", "text")
    return sorted(names, key=lambda name: first.index(name) if name in first else len(first))


def text_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str], width: int) -> str:
    """A table of one line per row, none longer than `width` characters of a terminal.

    Cells are cut (…) to fit. A column for which too little is left is named below the table instead.
    """
    from rich.text import Text

    cells = {name: [Text(show_cell(row[name])) for row in rows] for name in names}
    heads = {name: Text(show_cell(head_of(name))) for name in names}
    wanted = {name: max([heads[name].cell_len, *(cell.cell_len for cell in cells[name])]) for name in names}
    widths = share_width(wanted, width)
    lines = []
    for line in [heads, *({name: cells[name][row] for name in names} for row in range(len(rows)))]:
        parts = [line[name].copy() for name in widths]
        for part, size in zip(parts, widths.values(), strict=True):
            part.truncate(size, overflow="ellipsis", pad=True)
        lines.append((" " * GAP).join(part.plain for part in parts).rstrip())
    hidden = [heads[name].plain for name in names if name not in widths]
    if hidden:
        note = Text(f"not shown: {', '.join(hidden)}")
        note.truncate(width, overflow="ellipsis")
        lines.append(note.plain)
    return "\n".join(lines)


def head_of(name: str) -> str:
    """A column's name as a table shows it: those that a search adds without the underscore."""
    return name[1:] if name in (SCORE, BM25) or name.startswith(DISTANCE) else name


def share_width(wanted: Mapping[str, int], width: int) -> dict[str, int]:
    """Width of each column that is shown, by name, of those that are `wanted`.

    In their order, each takes up to two thirds of what is left. A column that would get too little is not shown, nor are
    those after it. What remains goes to the columns that were cut.
    """
    widths: dict[str, int] = {}
    left = width
    for at, (name, size) in enumerate(wanted.items()):
        if widths and left < min(size, LEAST_WIDTH):
            break
        share = left if at == len(wanted) - 1 else max(left * 2 // 3, min(left, LEAST_WIDTH))
        widths[name] = max(min(size, share), 1)
        left -= widths[name] + GAP
    left += GAP
    for name in widths:
        more = max(min(wanted[name] - widths[name], left), 0)
        widths[name] += more
        left -= more
    return widths


def html_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str], query: str | None) -> str:
    """Rows as an HTML table, below the query."""
    lines = [] if query is None else [f"<p><b>query</b> {escape(query)}</p>"]
    lines += ["<table>", "<tr>" + "".join(f"<th>{escape(show_cell(name))}</th>" for name in names) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{escape(show_cell(row[name]))}</td>" for name in names) + "</tr>")
    return "\n".join([*lines, "</table>"])


def html_gallery(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    query: tuple[str, Any] | None,
    storage_options: Mapping[str, str],
) -> str:
    """Pictures of rows with a `uri`, each with its cells below it; first the query, if there is one.

    `query` is its text and what `thumbnail_html` takes, or None if it has no picture.
    """
    figures = []
    if query is not None:
        label, picture = query
        figures.append(
            figure_html("" if picture is None else thumbnail_html(picture, storage_options), ["query", label])
        )
    for row in rows:
        told = [name for name in names if name != "uri" and row[name] is not None]
        lines = [("" if name in (DISTANCE, "id") else f"{show_cell(name)}: ") + show_cell(row[name]) for name in told]
        figures.append(figure_html(thumbnail_html(row["uri"], storage_options), lines or [show_cell(row["uri"])]))
    return "\n".join([f'<div style="{GALLERY}">', *figures, "</div>"])


def figure_html(picture: str, lines: Sequence[str]) -> str:
    """A picture with lines of text below it."""
    caption = "<br>".join(escape(line) for line in lines if line)
    return f'<figure style="{FIGURE}">{picture}<figcaption>{caption}</figcaption></figure>'


def thumbnail_html(picture: Any, storage_options: Mapping[str, str]) -> str:
    """An `<img>` that holds the picture itself; where it cannot be read, a placeholder that says why.

    `picture` is the URI of a file, or a PIL image.
    """
    try:
        image = read_image(picture, storage_options) if isinstance(picture, str | None) else picture
        data = base64.b64encode(make_thumbnail(image)).decode()
    except Exception as failure:  # a result is shown whatever its pictures do; the placeholder tells
        return f'<span title="{escape(show_cell(f"{type(failure).__name__}: {failure}"))}">no picture</span>'
    return f'<img src="data:image/jpeg;base64,{data}" alt="">'


def read_image(uri: str | None, storage_options: Mapping[str, str]) -> Any:
    """The PIL image at `uri`, on disk or in an object store. Raises whatever keeps it from being read."""
    if not uri or scheme_of(uri) not in {"file", *OBJECT_STORES}:
        raise ValueError("the row names no file on disk or in an object store")
    storage = open_storage(uri, {} if scheme_of(uri) == "file" else storage_options)
    found = storage.fs.info(storage.root)
    if found["type"] != "file" or found["size"] > THUMBNAIL_MAX_BYTES:
        raise ValueError("no file, or one too large for a thumbnail")
    batch = find_decoder("image").decode(make_batch([uri], [storage.fs.cat_file(storage.root)]))
    if batch["error"][0] is not None:
        raise ValueError(batch["error"][0])
    return batch["image"][0]


def make_thumbnail(image: Any) -> bytes:
    """JPEG of a PIL image: its longer side is 96 to 128 pixels; a smaller picture is enlarged by a whole factor."""
    from PIL import Image

    small = image.convert("RGB") if image.mode != "RGB" else image.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    factor = -(-THUMBNAIL_MIN_PX // max(small.size))
    if factor > 1:
        small = small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return file.getvalue()
