"""Many searches at once: one call of the model, one scan per column, one read of the rows that were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latentlake.query import kind_of
from latentlake.results import SearchResult
from latentlake.searching.asked import choose_columns, embed_queries, shown_query
from latentlake.searching.candidates import scope_of, take_in_order
from latentlake.searching.fulltext import find_words
from latentlake.searching.many import find_near_many
from latentlake.searching.place import Place
from latentlake.searching.request import POOL, Request
from latentlake.searching.search import add_scores, check_request, check_weights, fuse, modality_of, words_of


def search_many(place: Place, shared: Request, queries: Sequence[Any]) -> list[SearchResult]:
    """What `search` finds for each query, in their order; `shared` has the options of all. See `Table.search_many`."""
    requests = [replace(shared, query=query) for query in queries]
    names = check_request(place, shared)
    words = [words_of(place, request) for request in requests]
    kinds = [kind_of(query) for query in queries] if shared.mode != "text" else []
    columns = choose_columns(place, shared.column, kinds, queries, False) if kinds else []
    check_weights(shared, columns)
    if not requests:
        return []
    scope = scope_of(place, shared)
    size = shared.pool if shared.pooled else shared.k
    parts = [
        find_near_many(place, column, np.stack(embed_queries(place, column, queries, kinds)), size, scope)
        for column in columns
    ]
    if shared.mode != "vector":
        many = -(-size // POOL) * POOL
        parts.append([find_words(place.dataset, query, many, shared.where) for query in words])
    found = [fuse(shared, ranked) for ranked in zip(*parts, strict=True)]
    pages = [hits.take(np.arange(min(shared.k, len(hits.rows)))) for hits in found]
    # Of all rows at once, each read once, whatever number of queries have found it.
    rows, places = np.unique(np.concatenate([page.rows for page in pages]), return_inverse=True)
    table = take_in_order(place.dataset, rows, names)
    ends = np.cumsum([len(page.rows) for page in pages])
    modality = modality_of(place, columns)
    results = []
    for query, page, end in zip(queries, pages, ends, strict=True):
        hits = add_scores(table.take(places[end - len(page.rows) : end]), page, shared)
        shown = shown_query(query, kind_of(query)) if isinstance(query, str) or kinds else (type(query).__name__, None)
        results.append(SearchResult(hits, modality, place.storage_options, shown))
    return results
