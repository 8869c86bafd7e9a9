"""Which rows two versions of a table, or two tables, have in common, and which have vectors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from latentlake.indexes import has_vector
from latentlake.vectors import PLACE, array_of
from operators.errors import LatentLakeError

if TYPE_CHECKING:
    from latentlake.table import Table

MEMORY_MB = 256  # of DuckDB; what does not fit goes to files in TMPDIR
THREADS = 2
EXAMPLES = 10
BATCH = 2048  # rows that are read at once
COUNTED_BYTES = 2 * 2**30  # of a vector column that is read to count its vectors; of a larger one a sample is
COUNTED_ROWS = 2000  # of that sample
COMMON = "b.id IS NOT NULL AND a.id IS NOT NULL"
JOIN = f"""
SELECT count(*) FILTER ({COMMON}), count(*) FILTER (a.id IS NULL), count(*) FILTER (b.id IS NULL),
  count(*) FILTER ({COMMON} AND b.content_hash IS DISTINCT FROM a.content_hash),
  min(b.id, $examples) FILTER (a.id IS NULL), min(a.id, $examples) FILTER (b.id IS NULL),
  arg_min({{b: b.{PLACE}, a: a.{PLACE}}}, hash(b.id || $seed), $rows)
    FILTER ({COMMON} AND (NOT $same_content OR b.content_hash IS NOT DISTINCT FROM a.content_hash))
FROM before_rows b FULL JOIN after_rows a ON b.id = a.id
"""


@dataclass(frozen=True)
class Coverage:
    """Rows by id: of both sides, and of one side only, with the first few of their ids. `changed`: common, of other content.

    `vectors_before` and `vectors_after` are rows with a vector, `vectors_estimated` where a sample says so (above 2 GiB).
    """

    rows_before: int
    rows_after: int
    common: int
    only_before: int
    only_after: int
    changed: int | None  # None: a side has no content hashes
    vectors_before: int
    vectors_after: int
    vectors_estimated: bool
    ids_only_before: tuple[str, ...]
    ids_only_after: tuple[str, ...]


@dataclass(frozen=True)
class Places:
    """Rows at random that both sides have, by their places in each, uint64 (n,): the n-th of one is the n-th of the other."""

    before: np.ndarray
    after: np.ndarray


def match_rows(
    before: Table,
    after: Table,
    column: str,
    other_column: str,
    *,
    rows: int,
    seed: int = 0,
    same_content: bool = False,
) -> tuple[Coverage, Places]:
    """Coverage of two tables, or versions, and at most `rows` of the rows that both have, or have with the same content.

    Reads ids and content hashes as streams, joined by DuckDB in 256 MB of memory and as much disk as they need.
    """
    changed = all("content_hash" in table.schema.names for table in (before, after))
    with join_of(before, after, changed) as database:
        arguments = {"examples": EXAMPLES, "seed": str(seed), "rows": rows, "same_content": same_content}
        (found,) = database.execute(JOIN, arguments).fetchall()
    common, only_before, only_after, differing, ids_before, ids_after, drawn = found
    counted = [count_vectors(before, column, seed), count_vectors(after, other_column, seed)]
    coverage = Coverage(
        rows_before=common + only_before,
        rows_after=common + only_after,
        common=common,
        only_before=only_before,
        only_after=only_after,
        changed=differing if changed else None,
        vectors_before=counted[0][0],
        vectors_after=counted[1][0],
        vectors_estimated=counted[0][1] or counted[1][1],
        ids_only_before=tuple(ids_before or ()),
        ids_only_after=tuple(ids_after or ()),
    )
    pairs = sorted((pair["b"], pair["a"]) for pair in drawn or ())
    places = np.array(pairs, dtype=np.uint64).reshape(-1, 2)
    return coverage, Places(places[:, 0], places[:, 1])


def read_places(
    before: Table, after: Table, column: str, other_column: str, places: Places, extra: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Of the rows at some places those that have a vector on both sides: their stored vectors, and `id` and `extra` of before."""
    names = list(dict.fromkeys(["id", *extra]))
    vectors: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for start in range(0, len(places.before), BATCH):
        chosen = slice(start, start + BATCH)
        one = before.to_lance().take(places.before[chosen], columns=[*names, column])
        other = after.to_lance().take(places.after[chosen], columns=[other_column])
        both = pa.array(one[column].is_valid().to_numpy() & other[other_column].is_valid().to_numpy())
        one, other = (side.filter(both).combine_chunks() for side in (one, other))
        for name in names:
            found[name].append(np.asarray(one[name].to_numpy()))
        for parts, chunks in zip(vectors, (one[column].chunks, other[other_column].chunks), strict=True):
            parts += [array_of(chunk, True) for chunk in chunks]
    return joined(vectors[0]), joined(vectors[1]), {name: joined(parts) for name, parts in found.items()}


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Parts of an array as one."""
    return np.concatenate(parts) if parts else np.zeros((0, 0))


@contextmanager
def join_of(before: Table, after: Table, changed: bool) -> Iterator[Any]:
    """A database that reads `before_rows` and `after_rows`: id, content hash and place of every row."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="latentlake-") as folder:
        options: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{MEMORY_MB}MiB",
            "temp_directory": f"{folder}/spilled",
            "threads": THREADS,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with duckdb.connect(f"{folder}/common.duckdb", config=options) as database:
            for name, table in (("before_rows", before), ("after_rows", after)):
                database.register(name, ids_of(table, changed))
            try:
                yield database
            except (duckdb.OutOfMemoryException, duckdb.IOException) as failure:
                raise LatentLakeError(
                    f"the rows of '{before.name}' and '{after.name}' cannot be compared: {str(failure).splitlines()[0]}\n"
                    f"  It takes {MEMORY_MB} MB of memory, and about 150 bytes a row in '{tempfile.gettempdir()}'; set "
                    "TMPDIR to a place with more room."
                ) from failure


def ids_of(table: Table, hashed: bool) -> pa.RecordBatchReader:
    """Id, content hash (null unless `hashed`) and place of every row, as a stream."""
    schema = pa.schema([("id", pa.string()), ("content_hash", pa.string()), (PLACE, pa.uint64())])
    names = ["id", *(["content_hash"] if hashed else []), PLACE]
    batches = table.to_lance().scanner(columns=names).to_batches()

    def columns(batch: pa.RecordBatch) -> list[pa.Array]:
        kept = batch["content_hash"] if hashed else pa.nulls(batch.num_rows, pa.string())
        return [batch["id"].cast(pa.string()), kept.cast(pa.string()), batch[PLACE]]

    return pa.RecordBatchReader.from_batches(
        schema, (pa.RecordBatch.from_arrays(columns(batch), schema=schema) for batch in batches)
    )


def count_vectors(table: Table, column: str, seed: int = 0) -> tuple[int, bool]:
    """Rows that have a vector, and whether that is an estimate, from rows at random: Lance reads a column to count it."""
    kind, rows = table.schema.field(column).type, table.count()
    if rows * kind.list_size * kind.value_type.bit_width // 8 <= COUNTED_BYTES:
        return table.count(has_vector(column)), False
    drawn = np.sort(np.random.default_rng(seed).choice(rows, COUNTED_ROWS, replace=False))
    found = table.to_lance().take(drawn, columns=[column])
    return round(rows * (1 - found[column].null_count / len(drawn))), True
