"""Which queries tune a column: a file's, else those that were kept of it, else logged ones, else moved rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentlake.provenance import Provenance
from latentlake.query_log import default_log, logged_queries
from latentlake.storage import Storage
from latentlake.tuning.queries import (
    MAX_QUERIES,
    MIN_QUERIES,
    Queries,
    move_rows,
    read_queries,
    split,
    store_queries,
    stored_queries,
    vectors_of,
)

Embed = Callable[[Sequence[str | bytes], str | None], np.ndarray]


@dataclass(frozen=True)
class Place:
    """Where the queries of a table's columns come from, and are kept: its folder of work, and its address in a log of queries."""

    folder: Storage
    uri: str
    log: Path | None = None  # None: the one of this machine, see `query_log.default_log`


def bring_queries(place: Place, column: str, stored: Provenance, file: str | None, embed: Embed) -> Queries | None:
    """The queries of a column that are not rows of its table, kept for the next time; None where there are none.

    Those of a file are embedded once: as long as it is the same, what was kept serves. Raises `SpecError`.
    """
    if file is not None:
        read = read_queries(file)
        kept = stored_queries(place.folder, column, stored.fingerprint, read.digest)
        if kept is not None:
            return kept
        vectors = vectors_of(read, column, stored, embed)
        store_queries(place.folder, column, vectors, "file", stored.fingerprint, read.digest)
        return split(vectors, "file")
    kept = stored_queries(place.folder, column, stored.fingerprint)
    if kept is not None and kept.source == "file":
        return kept
    logged = logged_queries(place.log or default_log(), place.uri, column, stored.fingerprint)
    if logged is None or len(logged) < MIN_QUERIES:
        return kept
    newest = logged[-MAX_QUERIES:].astype(np.uint8 if stored.dtype == "binary" else np.float32)
    store_queries(place.folder, column, newest, "log", stored.fingerprint, "")
    return split(newest, "log")


def gather_queries(
    dataset: Any,
    place: Place | None,
    column: str,
    stored: Provenance,
    file: str | None = None,
    embed: Embed | None = None,
) -> Queries:
    """The queries that tune and measure a column; moved rows where there are no others. Raises `SpecError`."""
    found = None
    if place is not None:
        found = bring_queries(place, column, stored, file, embed or no_model)
    return found or split(move_rows(dataset, column, stored.metric), "rows")


def no_model(contents: Sequence[str | bytes], modality: str | None) -> np.ndarray:
    """Where no file of texts is given, no query is embedded."""
    raise AssertionError("queries are to be embedded, and no model is given")
