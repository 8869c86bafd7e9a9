"""The queries that an index is tuned and measured with: the user's, else logged ones, else rows that were moved."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentlake.provenance import Provenance
from latentlake.query import check_vector
from latentlake.recall import distances_between, sample_vectors
from latentlake.storage import Storage, open_storage
from operators.errors import SpecError, Unreadable

Source = Literal["file", "log", "rows"]
Kind = Literal["text", "file", "vector"]
KINDS: tuple[Kind, ...] = ("vector", "text", "file")  # columns of a file of queries; the first that it has counts

MAX_QUERIES = 1000  # half of them tune, the other half measure
MIN_QUERIES = 20
READ_AT_MOST = 100_000  # of a file; queries are drawn among them
NEAR = 10  # a moved row is as far from its place as this neighbour among `NEIGHBOURS` rows
NEIGHBOURS = 8192
QUERIES_FOLDER = "queries"  # in the table's folder of work
STATED = {
    "file": "queries of yours",
    "log": "queries that search logged",
    "rows": "estimated on rows: moved rows of the table served as queries",
}


@dataclass(frozen=True)
class Queries:
    """Vectors as the column is searched with, (n, length). No setting is chosen by those that measure."""

    tune: np.ndarray
    measure: np.ndarray
    source: Source


@dataclass(frozen=True)
class QueryFile:
    """What a file of queries holds, at most `MAX_QUERIES` of it."""

    kind: Kind
    values: list[Any]
    digest: str  # of the whole file: whether it is the one that was embedded before


def split(vectors: np.ndarray, source: Source, seed: int = 0) -> Queries:
    """Queries in two halves, at random."""
    order = np.random.default_rng(seed).permutation(len(vectors))
    half = len(vectors) // 2
    return Queries(vectors[order[:half]], vectors[order[half:]], source)


# the user's


def read_queries(uri: str | Path, options: dict[str, str] | None = None, seed: int = 0) -> QueryFile:
    """Queries of a Parquet or JSONL file, which has a column `vector`, `text` or `file`. Raises `SpecError`."""
    place = open_storage(str(uri), options)
    try:
        content = place.fs.cat_file(place.root)
    except OSError as failure:
        raise SpecError(f"the queries at '{uri}' cannot be read: {failure}") from failure
    try:
        rows = list(parquet_rows(content) if content[:4] == b"PAR1" else json_rows(content))
    except (ValueError, pa.ArrowInvalid) as failure:
        raise SpecError(f"'{uri}' is neither Parquet nor JSON lines: {failure}") from failure
    kind = next((name for name in KINDS if rows and name in rows[0]), None)
    if kind is None:
        raise SpecError(f"the queries at '{uri}' have no column `text`, `file` or `vector`.")
    values = [row[kind] for row in rows if row.get(kind) is not None]
    if len(values) < MIN_QUERIES:
        raise SpecError(f"'{uri}' holds {len(values)} queries; an index is tuned with {MIN_QUERIES} or more.")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(values))[:MAX_QUERIES])
    return QueryFile(kind, [values[at] for at in drawn], hashlib.sha256(content).hexdigest())


def parquet_rows(content: bytes) -> Iterator[dict[str, Any]]:
    """The first rows of a Parquet file, with what they ask."""
    file = pq.ParquetFile(io.BytesIO(content))
    names = [name for name in KINDS if name in file.schema_arrow.names]
    left = READ_AT_MOST
    for batch in file.iter_batches(columns=names) if names else ():
        yield from batch.slice(0, left).to_pylist()
        left -= batch.num_rows
        if left <= 0:
            return


def json_rows(content: bytes) -> Iterator[dict[str, Any]]:
    """The first lines of a JSONL file."""
    for line in content.decode().splitlines()[:READ_AT_MOST]:
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"a line is no object: {line[:60]}")
            yield row


def vectors_of(
    found: QueryFile, column: str, stored: Provenance, embed: Callable[[Sequence[str | bytes], str | None], np.ndarray]
) -> np.ndarray:
    """Vectors of a file's queries, as the column is searched with; `embed` makes them of texts or files (bytes). Raises `SpecError`."""
    if found.kind == "vector":
        made: Iterable[Any] = found.values
    elif found.kind == "text":
        made = embed([str(value) for value in found.values], "text")
    else:
        made = embed([read_file(value) for value in found.values], None)
    return np.stack([check_vector(vector, column, stored) for vector in made])


def read_file(name: Any) -> bytes:
    """The content of a file that a query names. Raises `SpecError`."""
    try:
        return Path(str(name)).expanduser().read_bytes()
    except OSError as failure:
        raise SpecError(f"a query's file '{name}' cannot be read: {failure.strerror or failure}") from failure


# rows of the table


def move_rows(dataset: Any, column: str, metric: str, number: int = MAX_QUERIES, seed: int = 0) -> np.ndarray:
    """Rows moved off their places, as queries are: (n, length), fewer where the column has fewer; zero vectors are left out.

    A row moves along the difference of two others, so the way the data varies, as far as its tenth neighbour among
    `NEIGHBOURS` rows at random. Of bits, so many of those that differ are turned.
    """
    _, rows = sample_vectors(dataset, column, NEIGHBOURS, seed)
    rng = np.random.default_rng(seed)
    if metric == "cosine":
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows[norms[:, 0] > 0] / norms[norms > 0, None]
    if len(rows) < 3:
        return rows
    chosen = rng.choice(len(rows), min(number, len(rows)), replace=False)
    others = rng.integers(0, len(rows), (2, len(chosen)))
    if metric == "hamming":
        near = np.sort(distances_between(rows[chosen], rows, metric), axis=1)[:, min(NEAR, len(rows) - 1)]
        return turn_bits(rows[chosen], rows[others[0]] ^ rows[others[1]], near.astype(int), rng)
    squares = np.sort(np.maximum(0, distances_between(rows[chosen], rows, "l2")), axis=1)
    far = np.sqrt(squares[:, min(NEAR, len(rows) - 1)])
    way = rows[others[0]] - rows[others[1]]
    length = np.maximum(np.linalg.norm(way, axis=1), np.finfo(np.float32).tiny)
    return (rows[chosen] + way * (far / length)[:, None]).astype(np.float32)


def turn_bits(rows: np.ndarray, differing: np.ndarray, number: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of packed bits with at most `number` (n,) of the `differing` bits turned, which are drawn."""
    bits = np.unpackbits(differing, axis=1).astype(bool)
    rank = np.where(bits, rng.random(bits.shape), 2.0).argsort(axis=1).argsort(axis=1)
    return rows ^ np.packbits(bits & (rank < number[:, None]), axis=1)


# kept beside the table


def store_queries(
    folder: Storage, column: str, vectors: np.ndarray, source: Source, fingerprint: str, digest: str
) -> None:
    """Keep the queries of a column in the table's folder of work, so that the next version can be measured with them.

    Moved rows are not kept: they would outlive the rows that they were made of.
    """
    field = pa.field("vector", pa.list_(pa.from_numpy_dtype(vectors.dtype), vectors.shape[1]))
    told = {"source": source, "fingerprint": fingerprint, "digest": digest}
    schema = pa.schema([field], metadata=told)
    data = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.table([data], schema=schema))
    folder.child(QUERIES_FOLDER).put(f"{column}.arrow", sink.getvalue())


def stored_queries(folder: Storage, column: str, fingerprint: str, digest: str | None = None) -> Queries | None:
    """The queries that were kept for a column; None where there are none, or they are of another model, or another file.

    Raises `Unreadable` where they are not whole.
    """
    place = folder.child(QUERIES_FOLDER)
    try:
        content = place.fs.cat_file(place.path(f"{column}.arrow"))
    except FileNotFoundError:
        return None
    try:
        found = pa.ipc.open_file(io.BytesIO(content)).read_all()
        told = {key.decode(): value.decode() for key, value in (found.schema.metadata or {}).items()}
        source, kept = told["source"], (told["fingerprint"], told["digest"])
        vectors = found["vector"].combine_chunks()
    except (pa.ArrowInvalid, KeyError) as failure:
        raise Unreadable(
            f"the queries of column '{column}' at {place.uri} are not whole: {failure}\n  Remove the file: it is made again."
        ) from failure
    if kept[0] != fingerprint or digest not in (None, kept[1]) or source not in ("file", "log"):
        return None
    values = vectors.values.to_numpy().reshape(len(vectors), -1)
    return split(values, "file" if source == "file" else "log")
