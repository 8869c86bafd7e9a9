"""Queries of a new model, sent across a bridge to the column of an old one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latentlake.bridges.fitting import space_of
from latentlake.bridges.maps import apply_map
from latentlake.bridges.store import Bridge, read_bridge
from latentlake.query import Kind, check_vector
from latentlake.searching.asked import embed_queries
from latentlake.searching.place import Place
from latentlake.storage import Storage
from operators.errors import FingerprintMismatch, SpecError


def bridged(place: Place, lake: Storage, column: str | Sequence[str] | None, new_column: str) -> Place:
    """The place, with its queries embedded by the model of `new_column` and mapped into the space of `column`.

    Raises `SpecError` (not one column), `NotFound` (no such bridge), `Unreadable`, `FingerprintMismatch` (it was fitted for
    other models than the table has now).
    """
    columns = list(place.provenances) if column is None else [column] if isinstance(column, str) else list(column)
    if len(columns) != 1:
        raise SpecError(
            f"a bridge leads to one column; name it with `column=`, of {', '.join(columns) or 'none'}, or ask several columns "
            "each in a search of its own."
        )
    place.provenance(columns[0])
    bridge = read_bridge(lake, place.name, columns[0], new_column)
    check_models(bridge, place, lake)
    return replace(place, bridges={columns[0]: bridge})


def embed_across(place: Place, column: str, queries: Sequence[Any], kinds: Sequence[Kind]) -> list[np.ndarray]:
    """The vector of each query as `column` is searched with it: embedded for the new column, and mapped. Raises `SpecError`."""
    if not len(queries):
        return []
    bridge, stored = place.bridges[column], place.provenance(column)
    new = bridge.new
    asked = replace(place, provenances={**place.provenances, bridge.new_column: new}, bridges={})
    vectors = np.stack(embed_queries(asked, bridge.new_column, queries, kinds))
    mapped = space_of(stored).scale(apply_map(bridge.arrays, space_of(new).prepare(vectors)))
    return [check_vector(vector, column, stored) for vector in mapped]


def check_models(bridge: Bridge, place: Place, lake: Storage) -> None:
    """Raise `FingerprintMismatch` unless the columns of the table are still those that the bridge was fitted for."""
    held = [(bridge.column, bridge.fingerprint), (bridge.new_column, bridge.new_fingerprint)]
    for column, fingerprint in held[:1] if bridge.column == bridge.new_column else held:
        now = place.provenances[column].fingerprint if column in place.provenances else None
        if now not in (None, fingerprint) or (now is None and column == bridge.column):
            raise FingerprintMismatch(
                f"the bridge from '{bridge.new_column}' to '{bridge.column}' was fitted when column '{column}' held vectors of "
                f"{fingerprint[:8]}…; at version {place.dataset.version} it holds {'none' if now is None else f'those of {now[:8]}…'}.\n"
                f"  Fit it again: latentlake align {lake.uri} {place.name} --from {bridge.column} --to "
                f"{bridge.new_column}"
            )
