"""ANN indexes of vector columns: which one, extending it, what it covers, and how it is searched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from latentlake.tuning.settings import Effort, IndexType, SearchSettings
from operators.errors import NotFound, SpecError, did_you_mean, unknown_name

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

# Builds an index of a column: dataset, column, name, arguments of Lance's `create_index`, vectors. It takes the place of one of that
# name, and the dataset moves to the version that has it.
Builder = Callable[[Any, str, str, Mapping[str, Any], int], None]


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


def nearest(
    column: str,
    vector: np.ndarray,
    k: int,
    metric: str,
    exact: bool = False,
    kept: tuple[int, int] | None = None,
    settings: SearchSettings | None = None,
) -> dict[str, Any]:
    """Lance's `nearest` for one vector (dim,), or for many (n, dim) at once: the one place that sets search parameters.

    `settings` are those that the column's index was tuned to (`read_settings`); without them the effort is a fixed one.
    `kept` is what a filter keeps: rows, of how many. Few are compared exactly; among more, the neighbours that the filter
    keeps lie further off, so that more partitions are probed, and more candidates compared.
    """
    query = {"column": column, "q": vector, "k": k, "metric": metric, "use_index": True}
    if exact:
        return {**query, "use_index": False}
    if settings is not None:
        return with_effort(column, vector, k, metric, settings.effort_for(k, kept))
    if kept is None:
        return {**query, "minimum_nprobes": NPROBES, "refine_factor": REFINE_FACTOR}
    rows, total = kept
    if rows < ANN_MIN_ROWS:
        return {**query, "use_index": False}
    return {**query, "minimum_nprobes": math.ceil(NPROBES * total / rows), "refine_factor": FILTERED_REFINE_FACTOR}


def with_effort(column: str, vector: np.ndarray, k: int, metric: str, effort: Effort | None) -> dict[str, Any]:
    """Lance's `nearest` with an effort; None: exact search."""
    query = {"column": column, "q": vector, "k": k, "metric": metric, "use_index": effort is not None}
    return query | {name: value for name, value in asdict(effort).items() if value is not None} if effort else query


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
    return {"index_type": type.upper(), "metric": metric}


def build_whole(dataset: Any, column: str, name: str, build: Mapping[str, Any], rows: int) -> None:
    """Build an index in this process; see `Builder`."""
    dataset.create_index(column, name=name, replace=True, **build)


def merge_index(dataset: Any, found: IndexInfo) -> None:
    """Make the segments of an index one, which takes in the rows that it lacks; `dataset` moves to the version that has it."""
    lacks_rows = tail_has_vectors(dataset, found) if found.metric else found.rows_unindexed > 0
    if found.segments > 1 or lacks_rows:
        dataset.optimize.optimize_indices(index_names=[found.name], num_indices_to_merge=found.segments)


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


def find_index(dataset: Any, column: str) -> IndexInfo | None:
    """The index of a vector column; None where there is none."""
    return next((info for info in describe_indexes(dataset) if info.column == column and info.metric), None)


def find_tail(dataset: Any, description: Any) -> list[Any]:
    """The fragments that an index does not cover."""
    covered = {fragment for segment in description.segments for fragment in segment.fragment_ids}
    return [fragment for fragment in dataset.get_fragments() if fragment.fragment_id not in covered]


def extend_index(dataset: Any, found: IndexInfo, vectors: int | None = None) -> None:
    """Take the rows that an index lacks into it, as one more segment; `dataset` moves to the version that has it.

    From `MAX_SEGMENTS` on they are made one. Nothing is done where the rows have no vectors: Lance may crash on such a tail.
    `vectors` is how many the column has, where that is known: if every row has one, they need not be looked at.
    """
    every = vectors == dataset.count_rows() and found.rows_unindexed > 0
    if every or tail_has_vectors(dataset, found):
        merged = found.segments if found.segments >= MAX_SEGMENTS else None
        options = {} if merged is None else {"num_indices_to_merge": merged}
        dataset.optimize.optimize_indices(index_names=[found.name], **options)


def index_segments(dataset: Any, column: str) -> set[str]:
    """Ids of the segments of the index of a vector column; empty where there is none."""
    found = [
        d for d in dataset.describe_indices() if d.field_names == [column] and (d.details or {}).get("metric_type")
    ]
    return {str(segment.uuid) for description in found for segment in description.segments}


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
