"""One search, from its options to its rows: find the parts, fuse, group, thin out, rank again, cut the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latentlake.columns import default_columns, known_columns
from latentlake.filters import check_filter
from latentlake.results import BM25, DISTANCE, SCORE, SearchResult
from latentlake.searching.asked import Asked, read_request, shown_query
from latentlake.searching.candidates import (
    Scope,
    find_near,
    scan_near,
    scope_of,
    take_in_order,
    vectors_in_order,
)
from latentlake.searching.diversity import diversify, likeness_of
from latentlake.searching.fulltext import (
    TEXT,
    check_indexes,
    check_words,
    choose_text_columns,
    find_words,
    has_phrase,
    is_fuzzy,
    make_query,
)
from latentlake.searching.fusion import Ranking, fuse_ranks, fuse_scores
from latentlake.searching.place import Place
from latentlake.searching.request import POOL, Request
from latentlake.searching.reranking import score_pairs
from operators.errors import SpecError, did_you_mean

GROWTH = 4  # by how much more rows are looked at where groups, or a range of distances, leave too few


@dataclass(frozen=True)
class Hits:
    """Rows in their order, uint64 (n,), their scores, float64 (n,), where these made the order, and the parts they come from."""

    rows: np.ndarray
    scores: np.ndarray | None
    parts: Sequence[Ranking]

    def take(self, places: np.ndarray) -> Hits:
        """The rows at these places, in this order."""
        return replace(self, rows=self.rows[places], scores=None if self.scores is None else self.scores[places])


def search(place: Place, request: Request) -> SearchResult:
    """The rows that `request` asks for, with the columns that it wants and those of scores; see `Table.search`."""
    names = check_request(place, request)
    words = words_of(place, request)
    asked = read_request(place, request) if request.mode != "text" else text_alone(request)
    check_weights(request, list(asked.vectors))
    scope = scope_of(place, request)
    if request.mode == "vector" and not request.pooled and request.group_by is None:
        table = search_plainly(place, request, asked, scope, names)
    else:
        hits = rank(place, request, asked, words, scope)
        page = hits.take(np.arange(len(hits.rows))[request.offset : request.needed])
        table = add_scores(take_in_order(place.dataset, page.rows, names), page, request)
    return SearchResult(table, modality_of(place, list(asked.vectors)), place.storage_options, asked.shown)


def check_request(place: Place, request: Request) -> list[str]:
    """The columns of the result, once the request's columns and its filter are known to be sound: before a model is loaded."""
    schema = place.dataset.schema
    if request.group_by is not None:
        known_columns(schema, [request.group_by], place.name)
    names = default_columns(schema) if request.columns is None else known_columns(schema, request.columns, place.name)
    check_filter(place.dataset, request.where)
    return names


def modality_of(place: Place, columns: Sequence[str]) -> str:
    """Modality of the objects that a result shows."""
    return place.provenance(columns[0]).modality if columns else TEXT


def text_alone(request: Request) -> Asked:
    """What a search by words asks with."""
    shown = request.query if isinstance(request.query, str) else type(request.query).__name__
    return Asked({}, np.zeros(0, np.uint64), shown_query(shown, "text"))


def words_of(place: Place, request: Request) -> Any:
    """Lance's query for the words of a request; None where it has none. Raises `SpecError` for what cannot be found."""
    if request.rerank is not None:
        check_words(request.words)
    if request.mode == "vector":
        return None
    columns = choose_text_columns(place.dataset, request.text_column)
    words = request.query if request.mode == "text" else request.words
    query = make_query(words, columns, request.match, request.fuzzy)
    phrase, fuzzy = has_phrase(words, request.match), is_fuzzy(words, request.match, request.fuzzy)
    check_indexes(place.dataset, columns, phrase, fuzzy)
    return query


def check_weights(request: Request, columns: Sequence[str]) -> None:
    """Raise `SpecError` for a weight of something that is no part of the search."""
    parts = [*columns, *([TEXT] if request.mode == "hybrid" else [])]
    for part in request.weights or {}:
        if part not in parts:
            raise SpecError(f"no part '{part}' has a weight.{did_you_mean(part, parts)} Parts: {', '.join(parts)}.")


def search_plainly(place: Place, request: Request, asked: Asked, scope: Scope, names: Sequence[str]) -> pa.Table:
    """The rows nearest to one vector, in one scan."""
    ((column, vector),) = asked.vectors.items()
    found = scan_near(place, column, vector, request.needed, scope, asked.left_out, names)
    return found.slice(request.offset).select([*names, DISTANCE])


def rank(place: Place, request: Request, asked: Asked, words: Any, scope: Scope) -> Hits:
    """The rows of a request in their order, at least up to the last that is asked for."""
    wanted = size = request.pool if request.pooled else request.needed
    while True:
        parts = find_parts(place, asked, words, scope, size)
        hits = fuse(request, parts)
        if request.group_by is None:
            break
        hits = hits.take(first_of_each(take_in_order(place.dataset, hits.rows, [request.group_by])[request.group_by]))
        if len(hits.rows) >= wanted or len(parts) > 1 or len(parts[0].rows) < size:
            break
        size *= GROWTH
    hits = hits.take(np.arange(len(hits.rows))[:wanted])
    if request.mmr is not None:
        hits = hits.take(most_diverse(place, request.mmr, asked, hits))
    return hits if request.rerank is None else rank_again(place, request, hits)


def find_parts(place: Place, asked: Asked, words: Any, scope: Scope, size: int) -> list[Ranking]:
    """What each part of a search finds: of each vector column the nearest `size` rows, of words at least as many."""
    found = [find_near(place, column, vector, size, scope, asked.left_out) for column, vector in asked.vectors.items()]
    if words is not None:
        # In whole pools, so that pages are cut from one ranking: equal scores may come in any order at its end.
        ranking = find_words(place.dataset, words, -(-size // POOL) * POOL + len(asked.left_out), scope.where)
        found.append(ranking.without(asked.left_out))
    return found


def fuse(request: Request, parts: Sequence[Ranking]) -> Hits:
    """One ranking of several; of one its own, with its scores where higher ones are better."""
    if len(parts) == 1:
        return Hits(parts[0].rows, parts[0].values if parts[0].higher_is_better else None, parts)
    pooled = [part.first(request.pool) for part in parts]
    rows, scores = (fuse_ranks if request.fusion == "rrf" else fuse_scores)(pooled, request.weights or {})
    return Hits(rows, scores, pooled)


def first_of_each(groups: pa.ChunkedArray) -> np.ndarray:
    """Places, int64, of the first row of each group, in their order; a row without a group is one by itself."""
    seen: set[Any] = set()
    kept = []
    for at, group in enumerate(groups.to_pylist()):
        if group is None or group not in seen:
            kept.append(at)
        seen.add(group)
    return np.array(kept, dtype=np.int64)


def most_diverse(place: Place, balance: float, asked: Asked, hits: Hits) -> np.ndarray:
    """Places of hits in the order of `diversify`, by the vectors of the first column that is searched."""
    column, vector = next(iter(asked.vectors.items()))
    metric = place.provenance(column).metric
    vectors = vectors_in_order(place.dataset, hits.rows, column)
    likeness = likeness_of(vectors, vectors, metric)
    least = np.nanmin(likeness) if np.isfinite(likeness).any() else 0.0
    likeness = np.where(
        np.isfinite(likeness), likeness, least
    )  # a row without a vector, or a zero one, is like no other
    if hits.scores is None:
        relevance = likeness_of(vector[None], vectors, metric)[0]
    else:
        relevance = hits.scores / (hits.scores.max() if len(hits.scores) else 1.0)
    return diversify(np.where(np.isfinite(relevance), relevance, least), likeness, balance, len(hits.rows))


def rank_again(place: Place, request: Request, hits: Hits) -> Hits:
    """The hits as a cross-encoder ranks them, the best first."""
    (column, *_) = choose_text_columns(place.dataset, request.text_column)
    texts = take_in_order(place.dataset, hits.rows, [column])[column].to_pylist()
    scores = score_pairs(place.models.reranker(request.rerank), request.words, [text or "" for text in texts])
    return replace(hits, scores=scores).take(np.argsort(-scores, kind="stable"))


def add_scores(table: pa.Table, hits: Hits, request: Request) -> pa.Table:
    """The rows with `_score`, where it made their order, and the distances and BM25 of the parts; null where a part lacks a row."""
    vectors = [part for part in hits.parts if part.part != TEXT]
    columns: dict[str, pa.Array] = {}
    if hits.scores is not None:
        columns[SCORE] = pa.array(hits.scores, pa.float32())
    for part in vectors:
        columns[DISTANCE if len(vectors) == 1 else f"{DISTANCE}_{part.part}"] = values_of(part, hits.rows)
    if len(hits.parts) > len(vectors) and (vectors or request.rerank is not None):
        columns[BM25] = values_of(hits.parts[-1], hits.rows)
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def values_of(part: Ranking, rows: np.ndarray) -> pa.Array:
    """The values of a part for these rows, null where it lacks them."""
    there = dict(zip(part.rows.tolist(), part.values.tolist(), strict=True))
    return pc.cast(pa.array([there.get(row) for row in rows.tolist()], pa.float64()), pa.float32())
