"""Documents found for many queries, best first: as readers search, or exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from latentlake.indexes import nearest
from latentlake.results import DISTANCE
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


def rank_documents(
    table: Table, column: str, vectors: np.ndarray, depth: int, documents: str, exact: bool
) -> list[list[str]]:
    """Of each vector (n, dim), the `depth` nearest documents, nearest first: values of the column `documents`, each once.

    A document of several rows stands where its nearest row does; more rows are asked for until there are enough documents.
    """
    found: list[list[str]] = [[] for _ in range(len(vectors))]
    left, rows = np.arange(len(vectors)), depth
    while len(left):
        short = []
        for start in range(0, len(left), QUERY_BATCH):
            chosen = left[start : start + QUERY_BATCH]
            hits = nearest_rows(table, column, vectors[chosen], rows, [documents], exact)
            places, names = hits["query_index"].to_numpy(), hits[documents].to_pylist()
            for at, number in enumerate(chosen.tolist()):
                own = np.flatnonzero(places == at)
                found[number] = distinct([names[place] for place in own.tolist()], depth)
                if len(found[number]) < depth and len(own) >= rows:
                    short.append(number)
        left, rows = np.array(short, dtype=np.int64), rows * 4
    return found


def distinct(names: Sequence[str | None], depth: int) -> list[str]:
    """The first `depth` different names; a row without one is left out."""
    return [str(name) for name in dict.fromkeys(names) if name is not None][:depth]
