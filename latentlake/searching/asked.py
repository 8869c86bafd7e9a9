"""From what a reader asks with to one vector per column: a query, a row, or several examples and counter-examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentlake.provenance import Provenance
from latentlake.query import (
    MODALITIES,
    Kind,
    check_fits,
    check_vector,
    choose_column,
    content_of,
    examples_of,
    kind_of,
)
from latentlake.searching.place import Place
from latentlake.searching.request import Request
from operators.embedders.base import normalize_rows
from operators.errors import SpecError


@dataclass(frozen=True)
class Asked:
    """A vector for each column that is searched, the rows that are no hits (uint64), and how a result shows the query."""

    vectors: dict[str, np.ndarray]
    left_out: np.ndarray
    shown: tuple[str, Any]


def read_request(place: Place, request: Request) -> Asked:
    """What `request` asks with. Loads the models that it takes. Raises what `Table.search` does."""
    wanted = [*examples_of(request.query), *examples_of(request.unlike)]
    ids, unlike_ids = as_list(request.id), as_list(request.unlike_id)
    kinds = [kind_of(query) for query in wanted]
    columns = choose_columns(place, request.column, kinds, wanted, bool(ids or unlike_ids))
    for column in columns:
        place.provenance(column)
    uri = ["uri"] if "uri" in place.dataset.schema.names else []
    rows = place.rows_of([*ids, *unlike_ids], [*columns, *uri]) if ids or unlike_ids else {}
    positive = len(examples_of(request.query))
    vectors = {}
    for column in columns:
        stored = place.provenance(column)
        embedded = embed_queries(place, column, wanted, kinds)
        by_row = {id: row_vector(row, id, column, stored) for id, row in rows.items()}
        liked = [*embedded[:positive], *(by_row[id] for id in ids)]
        unlike = [*embedded[positive:], *(by_row[id] for id in unlike_ids)]
        vectors[column] = combine(liked, unlike, column, stored)
    left_out = np.array([row["_rowid"] for row in rows.values()], dtype=np.uint64)
    return Asked(vectors, left_out, shown_request(request, {id: row.get("uri") for id, row in rows.items()}))


def as_list(given: str | Sequence[str] | None) -> list[str]:
    """One, several or no names, as a list."""
    return [] if given is None else [given] if isinstance(given, str) else list(given)


def choose_columns(
    place: Place, given: str | Sequence[str] | None, kinds: Sequence[Kind], queries: Sequence[Any], by_row: bool
) -> list[str]:
    """The vector columns that are searched: those given, else the one that fits each query. Raises `SpecError`, `NotFound`."""
    if given is not None and not isinstance(given, str):
        if not given:
            raise SpecError("column names no column.")
        return list(dict.fromkeys(given))
    asked = list(zip(kinds, queries, strict=True))
    if by_row:
        asked.append(("row", None))
    found = dict.fromkeys(choose_column(kind, query, place.provenances, given, place.name) for kind, query in asked)
    if not found:
        raise SpecError("there is no example to search with.")
    if len(found) > 1:
        raise SpecError(f"the examples fit different columns ({', '.join(found)}); name one with `column=`.")
    return list(found)


def embed_queries(place: Place, column: str, queries: Sequence[Any], kinds: Sequence[Kind]) -> list[np.ndarray]:
    """The vector of each query as a column is searched with it; those of one kind are embedded together. Raises `SpecError`."""
    if column in place.bridges:
        from latentlake.bridges.crossing import embed_across

        return embed_across(place, column, queries, kinds)
    stored = place.provenance(column)
    vectors: list[Any] = [None] * len(queries)
    for kind in dict.fromkeys(kinds):
        check_fits(kind, column, stored)
        at = [number for number, other in enumerate(kinds) if other == kind]
        if kind == "vector":
            made: Any = [queries[number] for number in at]
        else:
            contents = [content_of(queries[number], kind) for number in at]
            modality = kind if kind in MODALITIES else None
            made = place.models.embed_many(place.name, column, stored, contents, modality)
        for number, vector in zip(at, made, strict=True):
            vectors[number] = check_vector(vector, column, stored)
    if place.models.log is not None:
        place.models.log.add(str(place.dataset.uri), column, stored.fingerprint, vectors)
    return vectors


def row_vector(row: dict[str, Any], id: str, column: str, stored: Provenance) -> np.ndarray:
    """The vector of a row. Raises `SpecError` where it has none."""
    if row[column] is None:
        raise SpecError(f"row '{id}' has no vector in column '{column}'; `rejects()` may say why.")
    return check_vector(row[column], column, stored)


def combine(liked: Sequence[np.ndarray], unlike: Sequence[np.ndarray], column: str, stored: Provenance) -> np.ndarray:
    """One vector for examples: their mean, in which those that are not wanted count negatively, as gensim's `most_similar` has it.

    Compared by cosine, each example counts as a direction; bits are votes. One example alone stays as it is. Raises `SpecError`.
    """
    if len(liked) == 1 and not unlike:
        return liked[0]
    if not liked:
        raise SpecError("`unlike` needs something that is wanted: a query or `id=`.")
    if unlike and stored.metric == "l2":
        raise SpecError(
            f"column '{column}' is compared by l2, in which taking one example from another leaves no place to search at.\n"
            "  Leave out `unlike`, or search a column that is compared by cosine or dot."
        )
    signs = np.array([1.0] * len(liked) + [-1.0] * len(unlike), dtype=np.float32)
    examples = np.stack([*liked, *unlike])
    if stored.dtype == "binary":
        votes = signs @ (np.unpackbits(examples, axis=1).astype(np.float32) * 2 - 1)
        return np.packbits(votes > 0)
    mean = (signs @ (normalize_rows(examples) if stored.metric == "cosine" else examples)) / np.float32(len(examples))
    if stored.metric == "cosine" and np.linalg.norm(mean) < 1e-6:
        raise SpecError("the examples cancel out: what is wanted and what is not point the same way.")
    return mean


def shown_request(request: Request, uris: dict[str, Any]) -> tuple[str, Any]:
    """What a result says it was searched with: a text, and the picture of an image, a file or a row."""
    liked, ids = examples_of(request.query), as_list(request.id)
    unlike = [*examples_of(request.unlike), *as_list(request.unlike_id)]
    if len(ids) == 1 and not liked and not unlike:
        return ids[0], uris.get(ids[0])
    if len(liked) == 1 and not ids and not unlike:
        return shown_query(liked[0], kind_of(liked[0]))
    told = ", ".join([*ids, *(shown_query(query, kind_of(query))[0] for query in liked)])
    less = [other if isinstance(other, str) else shown_query(other, kind_of(other))[0] for other in unlike]
    return f"{told} without {', '.join(less)}" if less else told, None


def shown_query(query: Any, kind: Kind) -> tuple[str, Any]:
    """What a result says of one query; see `shown_request`."""
    if kind == "text":
        return query, None
    if kind == "file":
        return str(query), str(Path(query).expanduser().absolute())
    if kind == "audio":
        return "sound", None
    return ("image", query) if kind == "image" else (f"vector of {np.size(query)} numbers", None)
