"""Spans of tokens, int64 (n, 3): start and end in characters, and the number of the word.

Tokenizers change a text before they cut it, and a character may become several: "İ" in lower case is "i" with a dot above,
"½" in NFKC three. Spans are of the text as it was.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np


def spans_before_lowering(spans: np.ndarray, text: str) -> np.ndarray:
    """Spans in `text` of tokens whose spans in `text.lower()` are given."""
    lengths = np.fromiter((len(letter.lower()) for letter in text), dtype=np.int64, count=len(text))
    if not len(spans) or int(lengths.sum()) == len(text):
        return spans
    letters = np.repeat(
        np.arange(len(text)), lengths
    )  # the letter of the text that each one of the lowered text comes of
    starts, ends = spans[:, 0], spans[:, 1]
    first = letters[np.minimum(starts, len(letters) - 1)]
    behind = np.where(ends > starts, letters[np.maximum(ends, 1) - 1] + 1, first)
    return join_words(np.stack([first, behind, spans[:, 2]], axis=1))


def join_words(spans: np.ndarray) -> np.ndarray:
    """Spans with words that share a character made one, so that no cut between words goes through a character."""
    if len(spans) < 2:
        return spans
    reach = np.maximum.accumulate(spans[:, 1])
    inside = (spans[1:, 0] < reach[:-1]) & (spans[1:, 2] != spans[:-1, 2])
    if not inside.any():
        return spans
    begins = np.concatenate([[False], (spans[1:, 2] != spans[:-1, 2]) & ~inside])
    return np.column_stack([spans[:, :2], spans[0, 2] + np.cumsum(begins)])


def spans_of(tokens: Iterable[tuple[int, int, int]]) -> np.ndarray:
    """Start, end and word of each token as an array, int64 (n, 3), without a list of them all."""
    flat = array("q")
    for token in tokens:
        flat.extend(token)
    return np.array(flat, dtype=np.int64).reshape(-1, 3)
