"""How a vector column is searched since its index was tuned: kept in the metadata of the column's field, so by version."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa
from pydantic import TypeAdapter

from latentlake.formats import StoredFormat
from operators.errors import Unreadable

log = logging.getLogger(__name__)

IndexType = Literal["auto", "none", "ivf_rq", "ivf_pq", "ivf_sq", "ivf_hnsw_sq", "ivf_hnsw_flat", "ivf_flat"]
SEARCH_KEY = "latentlake.search"  # in a field's metadata
MOST_COMPARED = 2000  # rows that an index is asked for at once, which are then read one by one
FORMAT = StoredFormat("the search settings of a vector column")


@dataclass(frozen=True)
class Effort:
    """How hard an index is searched.

    `search_effort` is Lance's: 0 probes one partition, 1 all n, and between them n to its power, so that it holds as a table
    grows. `refine_factor` times k candidates are compared by their true vectors; None where the index's own distances are
    true. `ef` are the candidates that HNSW keeps.
    """

    search_effort: float
    refine_factor: int | None = None
    ef: int | None = None

    def scaled(self, k: int, tuned_k: int) -> Effort:
        """The effort for `k` rows, where it was tuned for `tuned_k`: HNSW keeps as many candidates per row that is wanted.

        Lance refuses an `ef` below the number of candidates that are refined.
        """
        if self.ef is None:
            return self
        ef = max(self.ef, math.ceil(self.ef * k / tuned_k), k * (self.refine_factor or 1))
        return Effort(self.search_effort, self.refine_factor, ef)


@dataclass(frozen=True)
class Measured:
    """What was measured with queries that no setting was chosen by. Times are in milliseconds, for one query."""

    recall: float  # @k, against exact search
    low: float  # 95 % interval of the recall
    high: float
    queries: int
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class FilteredSearch:
    """How a filter is met that keeps a share of the rows, and what that finds."""

    share: float
    effort: Effort | None  # None: the rows that the filter keeps are compared exactly
    measured: Measured


@dataclass(frozen=True)
class SearchSettings:
    """How a column is searched, and what that was measured to find."""

    index: str  # as Lance calls its type, "ivf_rq"; or "exact"
    effort: Effort | None  # None: exact search
    target_recall: float
    k: int
    measured: Measured
    measured_at: int  # version of the table
    queries_from: str  # "file", "log" or "rows": then the recall is estimated
    exact_rows: int = 0  # of a filter that keeps fewer rows, all are compared
    filtered: tuple[FilteredSearch, ...] = ()  # by falling share
    max_p95_ms: float | None = None
    build: Mapping[str, Any] = field(default_factory=dict)  # arguments of Lance's `create_index`
    build_s: float = 0.0
    choice_s: float = 0.0  # of choosing the kind, on a sample
    size_bytes: int = 0  # of the index
    partitions: int = 0  # of each segment, when it was measured
    segments: tuple[str, ...] = ()  # of the index, when it was measured: their ids
    rows: int = 0  # vectors, when it was measured
    asked: IndexType = "auto"  # the type that was asked for
    why: str = ""  # why this index, in words

    def to_json(self) -> str:
        """JSON that `from_json` reads."""
        return FORMAT.write(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> SearchSettings:
        """Read what `to_json`, of this release or an earlier one, wrote. Raises `Unreadable`."""
        values = {name: value for name, value in FORMAT.read(text).items() if name in cls.__dataclass_fields__}
        return FORMAT.check(SHAPE, values)

    def effort_for(self, k: int, kept: tuple[int, int] | None = None) -> Effort | None:
        """What a search for `k` rows takes; None: exact. `kept` is what its filter keeps: rows, of how many.

        Of the filters that were measured, the one counts that keeps next to less than this one.
        """
        effort = self.effort
        if kept is not None:
            rows, total = kept
            share = rows / max(1, total)
            measured = [found.effort for found in self.filtered if found.share <= share]
            if rows < self.exact_rows or (share < 1 and not measured):
                return self.comparing_all(rows, k)
            if share < 1:
                effort = measured[0]
        return None if effort is None else effort.scaled(k, self.k)

    def comparing_all(self, rows: int, k: int) -> Effort | None:
        """The effort at which an index hands out all `rows` that a filter keeps, for their true distances; None: exact search.

        An index looks at those rows alone, where exact search reads the whole column if the filter itself has no index. A graph
        may not reach them all.
        """
        if self.effort is None or "hnsw" in self.index or rows > MOST_COMPARED:
            return None
        return Effort(1.0, None if self.effort.refine_factor is None else max(1, math.ceil(rows / k)))


SHAPE = TypeAdapter(SearchSettings)


def read_settings(schema: pa.Schema, column: str) -> SearchSettings | None:
    """The search settings of a column; None where its index was never tuned.

    Settings that this release cannot read are left out with a warning, and the column is searched as one that was never tuned.
    """
    text = (schema.field(column).metadata or {}).get(SEARCH_KEY.encode())
    if text is None:
        return None
    try:
        return SearchSettings.from_json(text)
    except Unreadable as failure:
        log.warning("column '%s' is searched with default settings: %s", column, failure)
        return None


def write_settings(dataset: Any, column: str, settings: SearchSettings | None) -> None:
    """Keep the settings of a column, or none; `dataset` (pylance) moves to the version that has them."""
    text = None if settings is None else settings.to_json()
    dataset.update_field_metadata({column: {SEARCH_KEY: text}})
