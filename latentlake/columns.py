"""Which columns of a table a result has."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from latentlake.provenance import vector_columns
from latentlake.stored import MAP_KEY
from latentlake.views import BM25, DISTANCE, SCORE
from operators.errors import NotFound, did_you_mean

HASHES = ("content_hash", "object_hash")
SCORES = (DISTANCE, SCORE, BM25)  # columns that a search adds by itself


def default_columns(schema: pa.Schema) -> list[str]:
    """All columns but vectors, hashes and the coordinates of maps."""
    maps = (field.name for field in schema if MAP_KEY in (field.metadata or {}))
    left_out = {*vector_columns(schema), *HASHES, *maps}
    return [name for name in schema.names if name not in left_out]


def known_columns(schema: pa.Schema, columns: Sequence[str], table: str) -> list[str]:
    """`columns` without repetition, and without those that a search adds. Raises `NotFound` for one that the table does not have."""
    names = [name for name in dict.fromkeys(columns) if name not in SCORES]
    for name in names:
        if name not in schema.names:
            raise NotFound(
                f"table '{table}' has no column '{name}'.{did_you_mean(name, schema.names)}\n"
                f"  Columns: {', '.join(schema.names)}"
            )
    return names
