"""ANN indexes of vector columns: which one, building it, extending it, and what it costs in recall."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from operators.errors import NotFound, SpecError, did_you_mean, unknown_name

IndexType = Literal["auto", "none", "ivf_rq", "ivf_pq", "ivf_hnsw_sq", "ivf_flat"]

# Below this many vectors, exact search takes under 17 ms (384-d, 2 cores) and has no recall to lose.
# Measured by benchmarks/index_threshold.py; the table is in docs/tables.md.
ANN_MIN_ROWS = 20_000
# Quantisers need this many vectors to be trained on; a column with fewer is searched exactly, whatever was asked for.
TRAINING_ROWS = 256
# Search parameters; without refining, the recall of RQ and PQ is poor. Lance makes partitions of some 4,000 rows, so that
# a table below 160,000 is probed whole.
NPROBES = 40
REFINE_FACTOR = 10
# Under a filter: what it leaves of a neighbourhood is nearly equally far, so that quantised distances tell less.
# 100,000 x 384, a filter that keeps 10 %: recall@10 0.965 with 10, 0.995 with 50, 1.000 with 100, for 7 ms more.
FILTERED_REFINE_FACTOR = 100
# Each extension of an index adds a segment, which every search visits; from this many on they are merged.
MAX_SEGMENTS = 8


@dataclass(frozen=True)
class IndexInfo:
    """An index of a table. A search scans the rows that are not indexed.

    Rows without a vector are counted too: telling them apart would read the whole column.
    """

    column: str
    name: str
    type: str  # Lance's name, in lower case: "ivf_rq", "btree", …
    metric: str | None  # None for an index that is not of vectors
    rows_indexed: int
    rows_unindexed: int
    segments: int


@dataclass(frozen=True)
class IndexReport:
    """How a vector column is searched from now on. `seconds` is the building alone."""

    column: str
    type: str  # "exact", or the index's
    rows: int  # vectors in the column, nulls left out
    recall: float | None  # @10 against exact search (see `measure_recall`); None for exact search
    seconds: float


def nearest(
    column: str, vector: np.ndarray, k: int, metric: str, exact: bool = False, kept: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Lance's `nearest` for one vector (dim,), or for many (n, dim) at once: the one place that sets search parameters.

    `kept` is what a filter keeps: rows, of how many. Few are compared exactly; among more, the neighbours that the filter
    keeps lie further off, so that as many more partitions are probed as it leaves rows out, and more candidates compared.
    """
    query = {"column": column, "q": vector, "k": k, "metric": metric, "use_index": True}
    if exact or (kept is not None and kept[0] < ANN_MIN_ROWS):
        return {**query, "use_index": False}
    if kept is None:
        return {**query, "minimum_nprobes": NPROBES, "refine_factor": REFINE_FACTOR}
    rows, total = kept
    return {**query, "minimum_nprobes": math.ceil(NPROBES * total / rows), "refine_factor": FILTERED_REFINE_FACTOR}


def choose_index(rows: int, dimension: int, metric: str, type: IndexType) -> dict[str, Any] | None:
    """Arguments of Lance's `create_index` for a column of `rows` vectors; None: exact search is better, or wanted.

    "auto" is IVF_RQ, which builds six times faster than IVF_PQ at a better recall, once there are `ANN_MIN_ROWS`; for a
    dimension it cannot do (not a multiple of 8), IVF_FLAT. How many partitions is left to Lance, whose own target holds as
    a table grows (finer ones cost recall, most of all under filters; benchmarks/ann_defaults.py). Raises `UnknownName`, and `SpecError`
    for a type the dimension rules out.
    """
    if type not in get_args(IndexType):
        raise unknown_name("index type", type, get_args(IndexType))
    if type == "none" or rows < (ANN_MIN_ROWS if type == "auto" else TRAINING_ROWS):
        return None
    if metric == "hamming":
        if type not in ("auto", "ivf_flat"):
            raise SpecError(f"bits are indexed by ivf_flat alone, not by {type}.")
        type = "ivf_flat"
    if type == "auto":
        type = "ivf_rq" if dimension % 8 == 0 else "ivf_flat"
    if type == "ivf_rq":
        if dimension % 8:
            raise SpecError(f"ivf_rq needs a dimension divisible by 8, not {dimension}; use ivf_flat or ivf_pq.")
        return {"index_type": "IVF_RQ", "metric": metric, "num_bits": 1}
    if type == "ivf_pq":
        parts = max(n for n in range(1, max(1, dimension // 8) + 1) if dimension % n == 0)
        return {"index_type": "IVF_PQ", "metric": metric, "num_sub_vectors": parts}
    if type == "ivf_hnsw_sq":
        return {"index_type": "IVF_HNSW_SQ", "metric": metric}
    return {"index_type": "IVF_FLAT", "metric": metric}


def build_index(dataset: Any, column: str, provenance_metric: str, type: IndexType = "auto") -> IndexReport:
    """Bring the index of a vector column up to date; `dataset` (pylance) moves to the version that has it.

    Builds one where there is none and `choose_index` wants one. One that is there is extended by the rows it lacks, and
    rebuilt where it is of another type or metric than asked for, or lacks more rows than it has: its partitions were
    trained on too little. "none" drops it. Where nothing has to be done, nothing is committed.
    """
    started = time.perf_counter()
    field = vector_field(dataset, column)
    rows = count_vectors(dataset, column)
    choice = choose_index(rows, field.type.list_size, provenance_metric, type)
    found = next((info for info in describe_indexes(dataset) if info.column == column and info.metric), None)
    if found is not None and (type == "none" or not rows):
        dataset.drop_index(found.name)
    elif found is None or is_stale(found, provenance_metric, type):
        if choice is not None:
            dataset.create_index(
                column, name=found.name if found else f"{column}_idx", replace=found is not None, **choice
            )
    elif tail_has_vectors(dataset, found):  # Lance may crash on a tail without any, so that one is left alone
        merged = found.segments if found.segments >= MAX_SEGMENTS else None
        options = {} if merged is None else {"num_indices_to_merge": merged}
        dataset.optimize.optimize_indices(index_names=[found.name], **options)
    seconds = time.perf_counter() - started
    built = next((info.type for info in describe_indexes(dataset) if info.column == column and info.metric), None)
    recall = measure_recall(dataset, column, provenance_metric) if built else None
    return IndexReport(column, built or "exact", rows, recall, seconds)


def merge_index(dataset: Any, found: IndexInfo) -> None:
    """Make the segments of an index one, which takes in the rows that it lacks; `dataset` moves to the version that has it."""
    lacks_rows = tail_has_vectors(dataset, found) if found.metric else found.rows_unindexed > 0
    if found.segments > 1 or lacks_rows:
        dataset.optimize.optimize_indices(index_names=[found.name], num_indices_to_merge=found.segments)


def is_stale(found: IndexInfo, metric: str, type: IndexType) -> bool:
    """Whether an index has to be rebuilt instead of extended."""
    return found.metric != metric or type not in ("auto", found.type) or found.rows_unindexed > found.rows_indexed


def measure_recall(dataset: Any, column: str, metric: str, k: int = 10, queries: int = 100, seed: int = 0) -> float:
    """Recall@k of search as we do it against exact search, from 0 to 1; 1.0 for a column without vectors.

    The queries are rows sampled from the table, each left out of its own hits; a row as near as the k-th of the exact
    search counts as a hit. Rows of the table flatter the index: real queries lie further from the data and miss more.
    """
    ids, vectors = sample_vectors(dataset, column, queries, seed)
    if metric == "cosine":
        kept = np.linalg.norm(vectors, axis=1) > 0
        ids, vectors = ids[kept], vectors[kept]
    if not len(ids):
        return 1.0
    hits = expected = 0
    pairs = zip(
        ids,
        find_neighbours(dataset, nearest(column, vectors, k + 1, metric, exact=True)),
        find_neighbours(dataset, nearest(column, vectors, k + 1, metric)),
        strict=True,
    )
    for own, (exact_ids, exact_distances), (found_ids, found_distances) in pairs:
        wanted = exact_distances[exact_ids != own][:k]
        if not len(wanted):
            continue
        found = found_distances[found_ids != own][:k]
        tolerance = 1e-5 * max(1.0, abs(float(wanted[-1])))  # of rounding: the two searches add up in another order
        hits += min(len(wanted), int((found <= wanted[-1] + tolerance).sum()))
        expected += len(wanted)
    return hits / expected if expected else 1.0


def sample_vectors(dataset: Any, column: str, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row ids, uint64 (n,), and vectors, float32 (n, dim) or bits uint8 (n, dim / 8), of at most `rows` rows at random that have one."""
    field = vector_field(dataset, column)
    ids = np.random.default_rng(seed).permutation(read_row_ids(dataset))[: 4 * rows]
    found = read_vectors(dataset, column, ids)
    if found.num_rows < rows:  # few vectors among many rows: only reading the whole column tells which
        ids = np.random.default_rng(seed).permutation(read_row_ids(dataset, has_vector(column)))
        found = read_vectors(dataset, column, ids[:rows])
    chosen = np.sort(np.random.default_rng(seed).permutation(found.num_rows)[:rows])
    found = found.take(chosen)
    kind = np.uint8 if field.type.value_type == pa.uint8() else np.float32
    vectors = [np.asarray(chunk.flatten()).astype(kind) for chunk in found[column].chunks]
    return found["_rowid"].to_numpy(), np.concatenate([np.zeros(0, kind), *vectors]).reshape(-1, field.type.list_size)


def read_row_ids(dataset: Any, where: str | None = None) -> np.ndarray:
    """Lance's row ids of all rows, or of those that the filter keeps, uint64 (n,)."""
    return dataset.scanner(columns=[], filter=where, with_row_id=True).to_table()["_rowid"].to_numpy()


def read_vectors(dataset: Any, column: str, ids: np.ndarray) -> pa.Table:
    """`column` and `_rowid` of those of the rows `ids` that have a vector."""
    where = f"_rowid IN ({', '.join(str(row) for row in ids) or 'NULL'}) AND {has_vector(column)}"
    return dataset.scanner(columns=[column], filter=where, with_row_id=True).to_table()


def find_neighbours(dataset: Any, query: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each vector of `query`, the ids (uint64) and distances (float32) of the rows nearest to it, nearest first."""
    found = dataset.scanner(columns=["_distance"], nearest=query, with_row_id=True).to_table()
    index, ids, distances = (found[name].to_numpy() for name in ("query_index", "_rowid", "_distance"))
    places = [np.flatnonzero(index == number) for number in range(len(query["q"]))]
    return [(ids[place], distances[place]) for place in places]


def describe_indexes(dataset: Any) -> list[IndexInfo]:
    """The indexes of a dataset (pylance), in Lance's order."""
    return [describe_index(dataset, description) for description in dataset.describe_indices()]


def describe_index(dataset: Any, description: Any) -> IndexInfo:
    """What Lance says of one index, and how many rows it covers."""
    unindexed = sum(fragment.count_rows() for fragment in find_tail(dataset, description))
    metric = (description.details or {}).get("metric_type")
    return IndexInfo(
        column=description.field_names[0],
        name=description.name,
        type=description.index_type.lower(),
        metric=metric.lower() if metric else None,
        rows_indexed=dataset.count_rows() - unindexed,
        rows_unindexed=unindexed,
        segments=len(description.segments),
    )


def find_tail(dataset: Any, description: Any) -> list[Any]:
    """The fragments that an index does not cover."""
    covered = {fragment for segment in description.segments for fragment in segment.fragment_ids}
    return [fragment for fragment in dataset.get_fragments() if fragment.fragment_id not in covered]


def tail_has_vectors(dataset: Any, found: IndexInfo) -> bool:
    """Whether an index lacks rows that have a vector."""
    description = next(d for d in dataset.describe_indices() if d.name == found.name)
    tail = find_tail(dataset, description)
    return bool(tail) and count_vectors(dataset, found.column, tail) > 0


def count_vectors(dataset: Any, column: str, fragments: Sequence[Any] | None = None) -> int:
    """Number of rows whose `column` is not null, in `fragments` or the whole dataset."""
    return int(
        dataset.scanner(columns=[], filter=has_vector(column), fragments=fragments, with_row_id=True).count_rows()
    )


def has_vector(column: str) -> str:
    """SQL that keeps the rows whose `column` is not null."""
    return f"`{column}` IS NOT NULL"


def vector_field(dataset: Any, column: str) -> pa.Field:
    """Field of a vector column. Raises `NotFound`."""
    names = [field.name for field in dataset.schema if pa.types.is_fixed_size_list(field.type)]
    if column not in names:
        raise NotFound(
            f"no vector column '{column}'.{did_you_mean(column, names)}\n  Vector columns: {', '.join(names) or 'none'}"
        )
    return dataset.schema.field(column)
