"""Tokens of long texts, piece by piece: the tokenizers library takes up to a kilobyte for every token of a text that it is given.

Two successive pieces overlap, and the second one's tokens are taken from where they agree with the first one's. A tokenizer
looks at what stands nearby alone, at a word mostly, so that from there on they are the whole text's. A word of more than
`LONGEST_PIECE` characters without a token's end in it is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

PIECE = 1 << 16  # characters; shorter texts are given to the tokenizer whole,
TOGETHER = 1 << 18  # as many as have so many characters at once
LONGEST_PIECE = 1 << 20
MARGIN = 1 << 10  # characters at a piece's end whose tokens may depend on what follows
OVERLAP = 1 << 10  # characters that two pieces share, about
AGREEING = 8  # tokens on each side of a seam that have to be the same in both pieces


@dataclass(frozen=True)
class Tokens:
    """Successive tokens of a text: their ids, int32 (n,), and spans, int64 (n, 3): start, end, word."""

    ids: np.ndarray
    spans: np.ndarray

    @classmethod
    def of(cls, encoding: Encoding, offset: int = 0) -> Tokens:
        """Those of an encoding of a text that begins at the character `offset`."""
        spans = np.zeros((len(encoding.ids), 3), dtype=np.int64)
        if len(spans):
            spans[:, :2] = encoding.offsets
            spans[:, :2] += offset
            spans[:, 2] = [word or 0 for word in encoding.word_ids]
        return cls(np.array(encoding.ids, dtype=np.int32), spans)

    def __getitem__(self, part: slice) -> Tokens:
        return Tokens(self.ids[part], self.spans[part])

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def begins_word(self) -> np.ndarray:
        """Which tokens begin a word, bool (n,)."""
        return np.diff(self.spans[:, 2], prepend=-1) != 0


def in_groups_of_characters(texts: Sequence[str]) -> Iterator[list[int]]:
    """Indices of successive texts, a long one alone, others as many as have `TOGETHER` characters."""
    group: list[int] = []
    held = 0
    for at, text in enumerate(texts):
        if group and held + len(text) > TOGETHER:
            yield group
            group, held = [], 0
        group.append(at)
        held += len(text)
        if len(text) > PIECE:
            if group[:-1]:
                yield group[:-1]
            yield [at]
            group, held = [], 0
    if group:
        yield group


def token_pieces(tokenizer: Tokenizer, text: str) -> Iterator[Tokens]:
    """Tokens of a text without special tokens, in order, piece by piece; `tokenizer` neither cuts nor pads."""
    start, size, word = 0, PIECE, 0
    seam: Tokens | None = None  # the last piece's tokens behind `start`
    place = 0  # the first of them that is still to come
    unknown: int | None = None  # a token that stands for a word that was cut, and is not to be counted twice
    while True:
        stop = min(start + size, len(text))
        tokens = Tokens.of(tokenizer.encode(text[start:stop], add_special_tokens=False), start)
        begin = 0 if seam is None else agreeing_place(seam, place, tokens)
        if unknown is not None and tokens.ids[:1].tolist() == [unknown]:
            begin = 1
        if stop == len(text):
            yield numbered(tokens[begin:], word)
            return
        cut, again = places_to_cut(text, tokens, begin, start, stop - MARGIN)
        if cut is None and size < LONGEST_PIECE:
            size *= 2
            continue
        piece = numbered(tokens[begin:cut], word)
        yield piece
        if len(piece):
            word = int(piece.spans[-1, 2]) + (0 if cut is None else int(tokens.begins_word[cut]))
        if cut is None:
            # One word without an end: where it is one token, what follows of it is that token, too.
            unknown = int(tokens.ids[0]) if len(tokens) == 1 else unknown if not len(piece) else None
            start, seam, place = stop, None, 0
        else:
            whole = max(cut + 1, int(np.searchsorted(tokens.spans[:, 1], stop - MARGIN // 2)))
            start, seam, place, unknown = first_character(tokens, again), tokens[again:whole], cut - again, None
        size = PIECE


def numbered(tokens: Tokens, word: int) -> Tokens:
    """Tokens whose first word has this number."""
    spans = tokens.spans.copy()
    if len(spans):
        spans[:, 2] += word - spans[0, 2]
    return Tokens(tokens.ids, spans)


def places_to_cut(text: str, tokens: Tokens, begin: int, start: int, limit: int) -> tuple[int | None, int]:
    """The first new token of the next piece, and an earlier one at which its text begins; None if there is none.

    Where a word begins, if one does; before the character `limit`, and far enough behind `start` for an overlap. Not in white
    space, if there is anything else: at the ends of a text it may be dropped.
    """
    at, starts, ends = np.arange(len(tokens)), tokens.spans[:, 0], tokens.spans[:, 1]
    apart = np.ones(len(tokens), dtype=bool)  # tokens that share no character with the one before
    apart[1:] = starts[1:] >= ends[:-1]

    def last(places: np.ndarray) -> int | None:
        words = np.flatnonzero(places & tokens.begins_word)
        chosen = (words if len(words) else np.flatnonzero(places))[::-1].tolist()
        return next((k for k in chosen if text[starts[k] : ends[k]].strip()), chosen[0] if chosen else None)

    cut = last(apart & (at > begin) & (starts > start + OVERLAP) & (starts <= limit))
    if cut is None:
        return None, 0
    again = last(apart & (at > 0) & (starts <= starts[cut] - OVERLAP) & (np.roll(ends, 1) > start))
    return cut, cut if again is None else again


def first_character(tokens: Tokens, at: int) -> int:
    """Where a text is cut so that it begins with the token `at` (not the first): spaces before it may be part of it."""
    return int(min(tokens.spans[at, 0], tokens.spans[at - 1, 1]))


def agreeing_place(seam: Tokens, place: int, tokens: Tokens) -> int:
    """Index in `tokens` of the token that is `place` in `seam`; where they do not agree, of the first that begins no earlier."""
    wanted = seam.spans[place, 0]
    for at in np.flatnonzero((tokens.spans[:, 0] == wanted) & (tokens.ids == seam.ids[place])).tolist():
        back, ahead = min(AGREEING, place, at), min(AGREEING, len(seam) - place, len(tokens) - at)
        ours, theirs = tokens[at - back : at + ahead], seam[place - back : place + ahead]
        if np.array_equal(ours.ids, theirs.ids) and np.array_equal(ours.spans[:, :2], theirs.spans[:, :2]):
            return int(at)
    return int(np.searchsorted(tokens.spans[:, 0], wanted))
