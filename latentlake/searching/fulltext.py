"""Full-text search: BM25 by Lance's inverted index, or by a scan of the column where there is none.

As of pylance 14.0.2: a scan does not stem; fuzzy words are looked up in the index alone, so that rows which it lacks (or all,
where there is none) are missed without a word; `fast_search` misses such rows too, and is not used.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from latentlake.filters import explain_filter, reason_of
from latentlake.indexes import find_tail
from latentlake.searching.fusion import Ranking
from latentlake.searching.request import Match
from operators.errors import NotFound, SpecError, did_you_mean

logger = logging.getLogger(__name__)

TEXT = "text"  # the part of a search by words, and the column that a table of texts has
# A piece of a query in the language of `match='query'`: a sign, a phrase or a word, and letters that may differ.
PIECE = re.compile(r"""([+-]?)(?:"([^"]*)"|((?:(?!~\d?(?:\s|$))[^\s"])+))(~(\d?))?(?=\s|$)""")
DECLARE = "declare `text_index: [{column: %s%s}]` in the job, and run it."


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of a type holds texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def text_indexes(dataset: Any) -> dict[str, Any]:
    """Lance's descriptions of full-text indexes, by column."""
    return {d.field_names[0]: d for d in dataset.describe_indices() if d.index_type.lower() in ("inverted", "fts")}


def choose_text_columns(dataset: Any, given: str | Sequence[str] | None) -> list[str]:
    """The columns whose words are searched: those given, else all that have an index, else `text`. Raises `NotFound`, `SpecError`."""
    names = [field.name for field in dataset.schema if is_text(field.type)]
    if given is None:
        chosen = list(text_indexes(dataset)) or [TEXT]
        if chosen == [TEXT] and TEXT not in names:
            raise SpecError(
                f"no column has a full-text index; name one with `text_column=`: {', '.join(names) or 'none'}"
            )
        return chosen
    chosen = [given] if isinstance(given, str) else list(dict.fromkeys(given))
    for name in chosen:
        if name not in dataset.schema.names:
            raise NotFound(f"no column '{name}'.{did_you_mean(name, names)}\n  Columns of texts: {', '.join(names)}")
        if name not in names:
            raise SpecError(f"column '{name}' holds {dataset.schema.field(name).type}, not texts.")
    if not chosen:
        raise SpecError("text_column names no column.")
    return chosen


def make_query(words: Any, columns: Sequence[str], match: Match, fuzzy: int) -> Any:
    """Lance's query for words in columns, whose scores add up; one of Lance's own is taken as it is. Raises `SpecError`."""
    from lance.query import BooleanQuery, FullTextOperator, FullTextQuery, MatchQuery, Occur, PhraseQuery

    if isinstance(words, FullTextQuery):
        return words
    check_words(words)

    def over_columns(leaves: list[Any]) -> Any:
        return leaves[0] if len(leaves) == 1 else BooleanQuery([(Occur.SHOULD, leaf) for leaf in leaves])

    def any_word(text: str, edits: int = 0) -> Any:
        return over_columns([MatchQuery(text, column, fuzziness=edits) for column in columns])

    def phrase(text: str) -> Any:
        return over_columns([PhraseQuery(text, column) for column in columns])

    if match == "any":
        return any_word(words, fuzzy)
    if match == "phrase":
        return phrase(words)
    if match == "all":
        every = FullTextOperator.AND
        return over_columns([MatchQuery(words, column, fuzziness=fuzzy, operator=every) for column in columns])
    signs = {"+": Occur.MUST, "-": Occur.MUST_NOT, "": Occur.SHOULD}
    clauses = [
        (signs[sign], phrase(quoted) if quoted is not None else any_word(word, edits))
        for sign, quoted, word, edits in read_pieces(words)
    ]
    if all(occur is Occur.MUST_NOT for occur, _ in clauses):
        raise SpecError(f"the query {words!r} says only what is not wanted; add a word that is.")
    return BooleanQuery(clauses)


def check_words(words: Any) -> None:
    """Raise `SpecError` unless `words` is a text with something in it."""
    if not isinstance(words, str):
        raise SpecError(
            f"words are a str, or one of lance.query's queries, not {type(words).__name__}; give them as `text=`."
        )
    try:
        words.encode()
    except UnicodeEncodeError as failure:
        raise SpecError(f"the query's words are not Unicode: {failure}") from failure
    if not words.strip():
        raise SpecError("the query holds no words.")


def read_pieces(words: str) -> list[tuple[str, str | None, str, int]]:
    """Pieces of a query: sign ("+", "-", ""), phrase or None, word, and letters that may differ. Raises `SpecError`."""
    found, at = [], 0
    for piece in PIECE.finditer(words):
        if words[at : piece.start()].strip():
            break
        sign, quoted, word, tilde, edits = piece.groups()
        if tilde and (quoted is not None or int(edits or 1) > 2):
            raise SpecError(
                f"{piece[0]!r}: a word (not a phrase) may end in ~1 or ~2, for the letters that may differ."
            )
        found.append((sign, quoted, word or "", int(edits or 1) if tilde else 0))
        at = piece.end()
    if words[at:].strip():
        raise SpecError(f"cannot read the query from {words[at:].strip()!r} on; is a quote not closed?")
    return found


def is_fuzzy(words: Any, match: Match, fuzzy: int) -> bool:
    """Whether a query has words of which letters may differ."""
    return fuzzy > 0 or (match == "query" and isinstance(words, str) and any(piece[3] for piece in read_pieces(words)))


def has_phrase(words: Any, match: Match) -> bool:
    """Whether a query has a phrase."""
    phrases = match == "query" and isinstance(words, str) and any(p[1] is not None for p in read_pieces(words))
    return match == "phrase" or phrases


def check_indexes(dataset: Any, columns: Sequence[str], phrase: bool, fuzzy: bool) -> None:
    """Raise `SpecError`, with the remedy, where phrases or fuzzy words cannot be found; tell of rows that fuzzy words miss."""
    there = text_indexes(dataset)
    for column in columns:
        found = there.get(column)
        if phrase and found is not None and not (found.details or {}).get("with_position"):
            raise SpecError(
                f"the full-text index of column '{column}' does not know where words stand, which phrases need.\n  To have it, "
                + DECLARE % (column, ", phrase: true")
            )
        if fuzzy and found is None:
            raise SpecError(
                f"column '{column}' has no full-text index, and fuzzy words are found through one only.\n  To have it, "
                + DECLARE % (column, "")
            )
        missed = sum(fragment.count_rows() for fragment in find_tail(dataset, found)) if fuzzy else 0
        if missed:
            logger.warning("fuzzy words are not looked for in %d rows that the index of '%s' lacks", missed, column)


def find_words(dataset: Any, query: Any, n: int, where: str | None) -> Ranking:
    """The `n` rows with the best BM25, best first, equal ones by row id; also rows that an index lacks. `query` is Lance's."""
    try:
        with explain_filter(where):
            found = dataset.scanner(
                columns=["_score"], full_text_query=query, limit=n, filter=where, prefilter=True, with_row_id=True
            ).to_table()
    except ValueError as failure:
        raise SpecError(f"the words cannot be searched for: {reason_of(failure)}") from failure
    rows, scores = found["_rowid"].to_numpy(), found["_score"].to_numpy()
    order = np.lexsort((rows, -scores))
    return Ranking(TEXT, rows[order], scores[order], higher_is_better=True)
