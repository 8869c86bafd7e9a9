"""Texts to token ids by open_clip's tokenizers: its own, which is pure Python, and those of transformers that it wraps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from operators.embedders._pieces import PIECE, token_pieces
from operators.embedders._spans import join_words, spans_before_lowering, spans_of
from operators.embedders._tokens import token_spans

SPARE = 64  # tokens behind the context that a text is cut at, so that the cut does not show in it
CACHED_WORDS = 1 << 16  # open_clip keeps the tokens of every word that it ever met


@lru_cache(maxsize=16)
def read_tokenizer(name: str) -> Any:
    """The tokenizer of a model, by open_clip's word for it."""
    import open_clip

    return open_clip.get_tokenizer(name)


def prepare_text(tokenizer: Any, text: str) -> tuple[np.ndarray, int]:
    """Ids of a text, int32 (context,), as `tokenizer` gives them, and how many it has, with its marks, before it is cut."""
    if hasattr(tokenizer, "tokenizer"):
        return wrapped_ids(tokenizer, text)
    if len(tokenizer.cache) > CACHED_WORDS:
        tokenizer.cache = dict(islice(tokenizer.cache.items(), len(tokenizer.all_special_ids)))  # what it began with
    context, count = int(tokenizer.context_length), 2
    ids = [tokenizer.sot_token_id]
    for word in tokenizer.pat.finditer(tokenizer.clean_fn(text)):
        pieces = pieces_of(tokenizer, word.group())
        count += len(pieces)
        if len(ids) < context:
            ids += [tokenizer.encoder[piece] for piece in pieces]
    row = np.zeros(context, dtype=np.int32)
    ids = [*ids[: context - 1], tokenizer.eot_token_id]
    row[: len(ids)] = ids
    return row, count


def wrapped_ids(tokenizer: Any, text: str) -> tuple[np.ndarray, int]:
    """See `prepare_text`; of a tokenizer of transformers."""
    if len(text) <= PIECE:
        whole = tokenizer.tokenizer(tokenizer.clean_fn(text), verbose=False)["input_ids"]
        return tokenizer([text]).numpy()[0].astype(np.int32), len(whole)
    cleaned, context = tokenizer.clean_fn(text), tokenizer.context_length
    count, end = len(tokenizer.tokenizer("", verbose=False)["input_ids"]), None
    for piece in token_pieces(backend_of(tokenizer), cleaned):
        if end is None and count + len(piece) > context + SPARE:
            end = int(piece.spans[max(0, context + SPARE - count), 1])
        count += len(piece)
    # What `tokenizer` does with a text that it has cleaned.
    made = tokenizer.tokenizer(
        [cleaned[:end]], return_tensors="np", max_length=context, padding="max_length", truncation=True
    )["input_ids"][0]
    if tokenizer.strip_sep_token:
        made = np.where(made == tokenizer.tokenizer.sep_token_id, 0, made)
    return made.astype(np.int32), count


def spans_of_texts(tokenizer: Any, texts: Sequence[str]) -> list[np.ndarray]:
    """Spans of each text's tokens, int64 (n, 3): start, end, word.

    open_clip's own tokenizer gives none: its pieces are laid over the bytes of each word.
    """
    if hasattr(tokenizer, "tokenizer"):
        return token_spans(backend_of(tokenizer), texts)
    return [join_words(spans_before_lowering(spans_of(piece_spans(tokenizer, text.lower())), text)) for text in texts]


def piece_spans(tokenizer: Any, text: str) -> Iterator[tuple[int, int, int]]:
    """Start, end and word of each token of a text in lower case, by open_clip's own tokenizer."""
    for number, match in enumerate(tokenizer.pat.finditer(text)):
        word = match.group()
        begins = np.cumsum([0, *(len(letter.encode()) for letter in word)])  # in bytes, of each letter
        cuts = np.cumsum([0, *(len(piece.removesuffix("</w>")) for piece in pieces_of(tokenizer, word))])
        starts = np.searchsorted(begins, cuts[:-1], "right") - 1
        ends = np.searchsorted(begins, cuts[1:], "left")
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            yield match.start() + start, match.start() + end, number


def pieces_of(tokenizer: Any, word: str) -> list[str]:
    """The byte pairs of a word, by open_clip's own tokenizer."""
    pieces: list[str] = tokenizer.bpe("".join(tokenizer.byte_encoder[byte] for byte in word.encode())).split(" ")
    return pieces


def backend_of(tokenizer: Any) -> Any:
    """The tokenizer of the tokenizers library that one of transformers runs on, without padding, and cutting nothing."""
    return unbound(tokenizer.tokenizer)


@lru_cache(maxsize=16)
def unbound(tokenizer: Any) -> Any:
    """A copy of the backend, for calls of `tokenizer` set padding and truncation on its own."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy
