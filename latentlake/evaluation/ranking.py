"""Documents found for many queries, best first: as readers search, or exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from latentlake.indexes import nearest
from latentlake.results import DISTANCE, SearchResult
from latentlake.searching.request import POOL, Fusion, Match, Mode
from latentlake.table import Table
from latentlake.tuning.settings import read_settings

QUERY_BATCH = 64  # queries searched at once


def has_index(table: Table, column: str) -> bool:
    """Whether searching the column goes through an index."""
    return any(info.column == column and info.metric for info in table.indexes())


def nearest_rows(
    table: Table, column: str, vectors: np.ndarray, rows: int, names: Sequence[str], exact: bool = False
) -> pa.Table:
    """The `rows` nearest rows of each vector (n, dim), as readers search or exactly: the columns `names`, and `query_index`."""
    settings = read_settings(table.schema, column)
    query = nearest(column, vectors, rows, table.provenance(column).metric, exact, settings=settings)
    return table.to_lance().scanner(columns=[*names, DISTANCE], nearest=query).to_table()


@dataclass(frozen=True)
class Way:
    """How queries are searched: `Table.search_many`'s options. `name` is the mode that results carry."""

    name: str
    mode: Mode = "vector"
    exact: bool = False
    text_column: str | None = None
    match: Match = "any"
    fusion: Fusion = "rrf"


def rank_documents(
    table: Table, column: str, queries: Sequence[Any], depth: int, documents: str, way: Way
) -> list[list[str]]:
    """Of each query, the `depth` best documents, best first: values of the column `documents`, each once.

    A document of several rows stands where its best row does; more rows are asked for until there are enough documents.
    """
    found: list[list[str]] = [[] for _ in range(len(queries))]
    left, rows = list(range(len(queries))), depth
    while left:
        short = []
        for start in range(0, len(left), QUERY_BATCH):
            chosen = left[start : start + QUERY_BATCH]
            asked = [queries[number] for number in chosen]
            for number, page in zip(chosen, search_by(table, column, asked, rows, documents, way), strict=True):
                found[number] = distinct(page.to_arrow()[documents].to_pylist(), depth)
                if len(found[number]) < depth and len(page) >= rows:
                    short.append(number)
        left, rows = short, rows * 4
    return found


def search_by(
    table: Table, column: str, queries: Sequence[Any], rows: int, documents: str, way: Way
) -> list[SearchResult]:
    """The `rows` best rows of each query, with the column `documents`."""
    search = partial(table.search_many, queries, k=rows, columns=[documents])
    if way.mode == "vector":
        return search(column=column, exact=way.exact)
    if way.mode == "text":
        return search(mode="text", text_column=way.text_column, match=way.match)
    return search(
        mode="hybrid",
        column=column,
        exact=way.exact,
        text_column=way.text_column,
        match=way.match,
        fusion=way.fusion,
        pool=max(POOL, rows),  # a search's own, unless more rows are asked for
    )


def distinct(names: Sequence[str | None], depth: int) -> list[str]:
    """The first `depth` different names; a row without one is left out."""
    return [str(name) for name in dict.fromkeys(names) if name is not None][:depth]
