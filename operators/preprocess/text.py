"""Operators on text: clean, truncate, filter and chunk."""

from __future__ import annotations

import io
import re
from typing import Annotated

import numpy as np
from pydantic import Field

from operators.batch import Batch, RowError, RowFiltered, live_rows, map_rows
from operators.errors import SpecError
from operators.fan_out import Piece, fan_out, span
from operators.limits import MAX_CHARS, MAX_ROWS
from operators.preprocess import Tokenizer, operator

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=1)] | None

CHARACTERS = span("characters")
LINE_BREAK = re.compile(r"\r\n?")
FEWER_CHUNKS = "raise max_tokens, lower overlap, or split the object"
AT_ONCE = 2**20  # characters that are cleaned at once
BETWEEN_LETTERS = re.compile(r"\S(?=\S)")  # where a text may be parted without an effect on its whitespace
SPACES = re.compile(r"[^\S\n]+")
SPACES_AT_BREAK = re.compile(r" ?\n ?")
BLANK_LINES = re.compile(r"\n{3,}")


@operator("text")
def clean_text(batch: Batch, *, fix_encoding: bool = True, collapse_whitespace: bool = True) -> Batch:
    """Repair mojibake, and make whitespace plain.

    `fix_encoding`: `ftfy.fix_text` with its defaults, which also straightens curly quotes, resolves ligatures and HTML
    entities, removes control characters and normalises to NFC (https://ftfy.readthedocs.io).
    `collapse_whitespace`: a run of spaces and tabs becomes one space, lines lose theirs at both ends, three line breaks
    and more become two, so that paragraphs stay apart. The ends of the text are stripped.
    """

    def clean(text: str) -> str:
        if fix_encoding:
            text = fix_by_lines(text)
        return collapse(text) if collapse_whitespace else text

    return map_rows(batch, clean, column="text", into="text", stage="clean_text")


@operator("text")
def truncate_text(batch: Batch, *, max_chars: Count) -> Batch:
    """Keep the first `max_chars` characters."""
    return map_rows(batch, lambda text: text[:max_chars], column="text", into="text", stage="truncate_text")


@operator("text", at_query=False)
def drop_short_text(batch: Batch, *, min_chars: Count) -> Batch:
    """Filter rows whose text has fewer than `min_chars` characters."""

    def keep_long(text: str) -> str:
        if len(text) < min_chars:
            raise RowFiltered(f"{len(text)} character{'s' if len(text) != 1 else ''}, fewer than {min_chars}")
        return text

    return map_rows(batch, keep_long, column="text", into="text", stage="drop_short_text")


@operator("text", at_query=False, positions=CHARACTERS)
def chunk_text(
    batch: Batch,
    *,
    column: str,
    max_tokens: CountOrNone = None,
    overlap: Annotated[int, Field(ge=0)] = 0,
    tokenizer: Tokenizer,
) -> Batch:
    """Fan each object out to windows of at most `max_tokens` tokens of the vector column `column`.

    Windows overlap by `overlap` tokens and break between words; see `token_windows`. A window becomes a row (see `fan_out`)
    whose `text` is the slice from `start` to `end` of the text that came in: `text == original[start:end]`. Characters
    outside any token, at the ends of a window, are left out. A text without tokens is rejected as `chunk_text: empty`, one
    of more chunks than `MAX_ROWS`, or that hold more than `MAX_CHARS`, too.

    Raises `SpecError` for sizes that cannot be, and for rows that have been fanned out already.
    """
    size = chunk_size(column, max_tokens, overlap, tokenizer)
    live = live_rows(batch).tolist()
    spans = dict(zip(live, tokenizer.spans([batch["text"][row] for row in live]), strict=True))

    def cut(row: int) -> list[Piece]:
        text = batch["text"][row]
        return [(text[start:end], (start, end)) for start, end in chunk_places(spans[row], size, overlap)]

    return fan_out(batch, cut, column="text", stage="chunk_text", positions=CHARACTERS)


def fix_by_lines(text: str) -> str:
    """What `ftfy.fix_text` makes of a text, but for its list of all lines: some of them at a time."""
    from ftfy import TextFixerConfig, fix_text

    config, made, start = TextFixerConfig(explain=False), io.StringIO(), 0
    while start < len(text):
        end = text.rfind("\n", start, start + AT_ONCE) + 1 or text.find("\n", start + AT_ONCE) + 1 or len(text)
        part, start = text[start:end], end
        made.write(fix_text(part, config))
        if "<" in part:  # from there on ftfy takes a text for HTML, whose entities stay
            config = config._replace(unescape_html=False)
    return made.getvalue()


def collapse(text: str) -> str:
    """Make whitespace plain, as `clean_text` says."""
    made, start = io.StringIO(), 0
    while start < len(text):
        cut = BETWEEN_LETTERS.search(text, start + AT_ONCE) if start + AT_ONCE < len(text) else None
        end = cut.end() if cut else len(text)
        part, start = SPACES.sub(" ", LINE_BREAK.sub("\n", text[start:end])), end
        made.write(BLANK_LINES.sub("\n\n", SPACES_AT_BREAK.sub("\n", part)))
    return made.getvalue().strip()


def chunk_size(column: str, max_tokens: int | None, overlap: int, tokenizer: Tokenizer) -> int:
    """The window of `chunk_text` in tokens. Raises `SpecError`, so that a plan can refuse what no row would pass."""
    size = max_tokens if max_tokens is not None else tokenizer.window
    if size is None:
        raise SpecError(f"chunk_text: the model of column '{column}' has no window to cut by.\n  Set `max_tokens`.")
    if overlap >= size:
        raise SpecError(
            f"chunk_text: an overlap of {overlap} tokens leaves no progress in windows of {size}.\n"
            f"  Set `overlap` to {size - 1} or less, or raise `max_tokens`."
        )
    return size


def chunk_places(tokens: np.ndarray, size: int, overlap: int) -> list[tuple[int, int]]:
    """Start and end, in characters, of the chunks of a text with `tokens`, int64 (n, 3) as of `Tokenizer.spans`.

    Raises `RowError` for too many, or too long ones.
    """
    windows = token_windows(tokens[:, :2], tokens[:, 2], size, overlap)
    places = [(int(tokens[lo, 0]), int(tokens[lo:hi, 1].max())) for lo, hi in windows]
    if (chars := sum(end - start for start, end in places)) > MAX_CHARS:
        raise RowError(f"its {len(places)} chunks hold {chars} characters, more than {MAX_CHARS}: {FEWER_CHUNKS}")
    return places


def token_windows(spans: np.ndarray, words: np.ndarray, size: int, overlap: int) -> list[tuple[int, int]]:
    """Cut tokens into windows `[lo, hi)` of at most `size`, which cover all of them.

    `spans` is int64 (n, 2), start and end in characters, `words` int64 (n,). Needs `overlap < size`. An edge stands at
    the start of a word; only a word longer than `size` is cut, between characters where its tokens allow. The next
    window starts `overlap` tokens before the last one ended or, at a word's start, earlier; later only where it would
    otherwise bring no new token.
    """
    count = len(words)
    if count == 0:
        return []
    # Two tokens may share a character (byte-level BPE), so not every place in a word is one between characters.
    word_edges = np.concatenate([[True], words[1:] != words[:-1], [True]])
    char_edges = np.concatenate([[True], spans[1:, 0] >= spans[:-1, 1], [True]]) | word_edges
    word_before, char_before = last_edges(word_edges), last_edges(char_edges)

    def end_of(lo: int) -> int:
        hi = lo + size
        if hi >= count:
            return count
        return next((int(edge) for edge in (word_before[hi], char_before[hi]) if edge > lo), hi)

    def start_after(lo: int, hi: int) -> int:
        edges, before = (word_edges, word_before) if word_edges[hi] else (char_edges, char_before)
        first = max(lo + 1, hi - overlap)
        if before[first] > lo:
            first = int(before[first])
        return next((start for start in range(first, hi) if edges[start] and end_of(start) > hi), hi)

    windows = [(0, end_of(0))]
    while (hi := windows[-1][1]) < count:
        start = start_after(windows[-1][0], hi)
        windows.append((start, end_of(start)))
        if len(windows) > MAX_ROWS:
            raise RowError(f"{count} tokens make more than {MAX_ROWS} chunks: {FEWER_CHUNKS}")
    return windows


def last_edges(edges: np.ndarray) -> np.ndarray:
    """For each place the last edge at or before it. `edges` is bool and begins with True."""
    return np.maximum.accumulate(np.where(edges, np.arange(len(edges)), 0))
