"""A table at one version: what it holds, where its vectors come from, and search.

Everything goes through pylance: it reads versions, tags, transaction properties and field metadata, which lancedb does
not, and it searches; lancedb would be a second handle, with an older Lance inside, that might see another version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from latentlake.columns import default_columns, known_columns
from latentlake.comparison.comparable import Comparable
from latentlake.exploration.explorable import Explorable
from latentlake.filters import check_filter, explain_filter
from latentlake.formats import StoredFormat
from latentlake.handover import open_in_lancedb
from latentlake.indexes import IndexInfo, describe_indexes
from latentlake.names import REJECTS_SUFFIX
from latentlake.opening import checkout, open_lance, read_transaction
from latentlake.provenance import Provenance, read_provenance, vector_columns
from latentlake.query import QueryModels, embed_alike
from latentlake.results import Rows, SearchResult, frame_of, rows_of
from latentlake.searching.place import Place
from latentlake.searching.request import POOL, Fusion, Match, Mode, Request
from latentlake.storage import Storage
from latentlake.vectors import BATCH_ROWS, Vectors
from operators.errors import SpecError, Unreadable

if TYPE_CHECKING:
    import numpy as np

    from latentlake.evaluation import Evaluation, Suite
    from latentlake.tag_log import TagMove
    from operators.embedders.base import Role

REJECTS_SCHEMA = pa.schema(
    [
        pa.field("object_id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("column", pa.string()),  # null: the object is rejected for every column
        pa.field("outcome", pa.string(), nullable=False),  # "rejected" | "filtered"
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("sniffed_type", pa.string()),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("version", pa.int64()),  # of the table, once published; null: the run published nothing
    ]
)
DUPLICATE_FIELDS = (  # of a table whose job has dropped duplicates: the row that stays, and its object ("": it was deleted)
    pa.field("duplicate_of", pa.string()),
    pa.field("duplicate_of_object", pa.string()),
)
SUMMARY = StoredFormat("the summary of a commit")


@dataclass(frozen=True)
class TableVersion:
    """One version of a table. `run_id` and `summary` are None if no run made it."""

    version: int
    timestamp: datetime  # UTC
    tags: tuple[str, ...]
    rows: int
    run_id: str | None
    summary: Mapping[str, Any] | None


class Table(Explorable, Comparable):
    """A table, pinned to the version it was opened at; `checkout` gives another. Made by `Lake.open`."""

    def __init__(self, name: str, dataset: Any, storage: Storage, models: QueryModels, tag: str | None = None) -> None:
        """`storage` is the lake's; `tag` is what was followed to `dataset`, if a tag was."""
        self.name = name
        self.tag = tag
        self._dataset = dataset
        self._storage = storage
        self._models = models

    @property
    def uri(self) -> str:
        """Address of the Lance dataset."""
        return str(self._dataset.uri)

    @property
    def version(self) -> int:
        """The version this table is pinned to."""
        return int(self._dataset.version)

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema; the field of a vector column carries its provenance."""
        return self._dataset.schema

    @cached_property
    def _provenances(self) -> dict[str, Provenance]:
        return {name: read_provenance(self.schema, name) for name in self._vectors if name not in self.unreadable}

    @cached_property
    def _vectors(self) -> list[str]:
        return vector_columns(self.schema)

    @cached_property
    def unreadable(self) -> dict[str, str]:
        """Vector columns whose provenance cannot be read, with the reason; they are not in `vector_columns`."""
        reasons = {}
        for name in self._vectors:
            try:
                read_provenance(self.schema, name)
            except Unreadable as failure:
                reasons[name] = str(failure)
        return reasons

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in the order of the schema."""
        return list(self.schema.names)

    @property
    def vector_columns(self) -> list[str]:
        """Names of the vector columns."""
        return list(self._provenances)

    def provenance(self, column: str) -> Provenance:
        """What made the vectors of `column`. Raises `NotFound`, `Unreadable`."""
        return self._place.provenance(column)

    def count(self, where: str | None = None) -> int:
        """Number of rows, of those that the SQL filter `where` keeps if it is given. Raises `SpecError` for a bad filter."""
        check_filter(self._dataset, where)
        with explain_filter(where):
            return int(self._dataset.count_rows(where))

    def count_rows(self, filter: str | None = None) -> int:
        """The same as `count`, by lancedb's name for it."""
        return self.count(filter)

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # a table without rows is a table

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every row as a dict, read in batches, without vectors and hashes."""
        for batch in self._dataset.scanner(columns=default_columns(self.schema)).to_batches():
            yield from rows_of(pa.Table.from_batches([batch]))

    def head(self, n: int = 5) -> Rows:
        """The first `n` rows, without vectors and hashes."""
        return Rows(self.to_arrow(default_columns(self.schema), limit=n))

    def to_pandas(
        self, columns: Sequence[str] | None = None, where: str | None = None, limit: int | None = None
    ) -> Any:
        """The same rows as `to_arrow`, as a pandas data frame. Raises `MissingExtra` where pandas is not installed."""
        return frame_of(self.to_arrow(columns, where, limit))

    def to_arrow(
        self, columns: Sequence[str] | None = None, where: str | None = None, limit: int | None = None
    ) -> pa.Table:
        """Rows as Arrow, all columns unless `columns` names some. Raises `NotFound` and `SpecError` (a bad filter)."""
        if limit is not None and limit < 0:
            raise SpecError(f"limit is {limit}; it must be 0 or more.")
        wanted = None if columns is None else self._known(columns)
        check_filter(self._dataset, where)
        with explain_filter(where):
            return self._dataset.to_table(columns=wanted, filter=where, limit=limit)

    def vectors(
        self,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        sample: int | None = None,
        *,
        seed: int = 0,
        batch_rows: int = BATCH_ROWS,
    ) -> Vectors:
        """A stream of vectors, of all vector columns and `id` unless `columns` names some, of rows that have them all.

        `sample`: so many rows at random, the same for one `seed`; fewer where there are fewer. Raises `NotFound` and
        `SpecError` (a bad filter, a number that cannot be).
        """
        if (sample is not None and sample < 0) or batch_rows < 1:
            raise SpecError(f"sample is {sample} and batch_rows is {batch_rows}; they must be 0 and 1 or more.")
        names = ["id", *self.vector_columns] if columns is None else self._known(columns)
        check_filter(self._dataset, where)
        kept = [name for name in names if name in self.vector_columns]
        return Vectors(self._dataset, names, kept, where, sample, seed, batch_rows)

    def to_lance(self) -> Any:
        """This table as pylance's own `LanceDataset`, at this version: a handle of yours, apart from ours."""
        return self._dataset.checkout_version(self.version)

    def to_lancedb(self) -> Any:
        """This table as lancedb's own table, checked out at this version. See `open_in_lancedb`.

        Raises `MissingExtra`, and `SpecError` where the older Lance inside lancedb cannot read it.
        """
        return open_in_lancedb(self._storage, self.name, self._dataset)

    def versions(self) -> list[TableVersion]:
        """Every version that can be checked out, oldest first; also those made since this table was opened."""
        tags = self.tags()
        return [
            TableVersion(
                version=(number := int(found["version"])),
                timestamp=found["timestamp"].astimezone(UTC),
                tags=tuple(sorted(tag for tag, target in tags.items() if target == number)),
                rows=int(found["metadata"]["total_rows"]),
                run_id=(properties := self._properties(number)).get("run_id"),
                summary=read_summary(properties.get("summary")),
            )
            for found in self._dataset.versions()
        ]

    def tags(self) -> dict[str, int]:
        """Version of each tag, as of now."""
        return {tag: int(found["version"]) for tag, found in sorted(self._dataset.tags.list().items())}

    def tag_log(self) -> list[TagMove]:
        """Every move of the table's tags, oldest first: which, from where to where, when, by whom, why."""
        from latentlake.tag_log import WORK_FOLDER, read_moves

        return read_moves(self._storage.child(WORK_FOLDER, self.name))

    def checkout(self, version_or_tag: int | str) -> Table:
        """This table at another version or tag, as a new `Table`. Raises `NotFound`."""
        tag = version_or_tag if isinstance(version_or_tag, str) else None
        return Table(self.name, checkout(self._dataset, self.name, version_or_tag), self._storage, self._models, tag)

    def rejects(self) -> pa.Table:
        """Objects that runs rejected or filtered, whatever version this is; `REJECTS_SCHEMA` says what the columns mean."""
        dataset = open_lance(self._storage.child(f"{self.name}{REJECTS_SUFFIX}.lance"))
        return REJECTS_SCHEMA.empty_table() if dataset is None else dataset.to_table()

    def indexes(self) -> list[IndexInfo]:
        """The indexes of this version."""
        return describe_indexes(self._dataset)

    def search(
        self,
        query: Any = None,
        *,
        id: str | Sequence[str] | None = None,
        unlike: Any = None,
        unlike_id: str | Sequence[str] | None = None,
        k: int = 10,
        offset: int = 0,
        column: str | Sequence[str] | None = None,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        exact: bool = False,
        mode: Mode = "vector",
        text: Any = None,
        text_column: str | Sequence[str] | None = None,
        match: Match = "any",
        fuzzy: int = 0,
        fusion: Fusion = "rrf",
        weights: Mapping[str, float] | None = None,
        pool: int = POOL,
        distance_range: tuple[float | None, float | None] | None = None,
        group_by: str | None = None,
        mmr: float | None = None,
        rerank: Any = None,
        bridge: str | None = None,
    ) -> SearchResult:
        """The `k` best rows for a query after the first `offset`, best first.

        `query` is a text (a str always is), a file (`Path`), an image (PIL), sound (samples, rate) or a vector; or `id` names
        a row, for more like it, itself left out. All but vectors are embedded by the model that the column's provenance
        names, as a query; it is refused where its fingerprint is another. A list of queries, or of ids, are examples: their
        mean is searched with, less what is `unlike` (queries) and `unlike_id` (rows).

        `column` may be left out where only one vector column fits; several are fused. `where` is a SQL filter, applied
        before the search. `columns` are the result's; by default all but vectors and hashes. `exact` leaves an index
        unused, as does a filter that keeps few rows. `distance_range` keeps rows with low <= `_distance` < high.

        `mode` "vector" ranks by distance, "text" by the words of the query (BM25), "hybrid" by both: `text` are its words
        where the query is none, `text_column` where they are looked for, `match` how ("any", "all", "phrase", or "query":
        +must -not "a phrase" word~1), `fuzzy` how many letters of a word may differ. Parts are fused by `fusion`: "rrf"
        (reciprocal ranks) or "scores" (normalised over the pool), with `weights` by vector column and "text", over the best
        `pool` rows of each. `group_by` keeps the best row of each value of a column, such as "object_id". `mmr`, 0 to 1,
        puts unlike rows first (1: the plain order). `rerank` is a cross-encoder, or its folder, that ranks the pool again.

        `bridge` names a column, perhaps still being made, by whose model queries are embedded, to be mapped into `column`; see
        `align`.

        Lower is better for `_distance`, which follows the column's metric: cosine, l2 (squared), dot (one minus the product) or hamming
        (bits that differ); higher for `_score`, which is there where it made the order, and `_bm25`. See docs/search.md.

        Raises `SpecError`, `NotFound`, `FingerprintMismatch`, `ModelNotFound`, `MissingExtra`.
        """
        from latentlake.searching.search import search

        return search(
            self._asked_by(bridge, column),
            Request(
                query=query,
                id=id,
                unlike=unlike,
                unlike_id=unlike_id,
                k=k,
                offset=offset,
                column=column,
                where=where,
                columns=columns,
                exact=exact,
                mode=mode,
                text=text,
                text_column=text_column,
                match=match,
                fuzzy=fuzzy,
                fusion=fusion,
                weights=weights,
                pool=pool,
                distance_range=distance_range,
                group_by=group_by,
                mmr=mmr,
                rerank=rerank,
                bridge=bridge,
            ),
        )

    def search_many(
        self,
        queries: Sequence[Any],
        *,
        k: int = 10,
        column: str | Sequence[str] | None = None,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        exact: bool = False,
        mode: Mode = "vector",
        text_column: str | Sequence[str] | None = None,
        match: Match = "any",
        fuzzy: int = 0,
        fusion: Fusion = "rrf",
        weights: Mapping[str, float] | None = None,
        pool: int = POOL,
        bridge: str | None = None,
    ) -> list[SearchResult]:
        """What `search` finds for each of many queries, in their order, in less time: they are embedded and searched together.

        The options, and what is raised, are those of `search`. An array (n, dim) is n vectors.
        """
        from latentlake.searching.batches import search_many

        shared = Request(
            query="",
            k=k,
            column=column,
            where=where,
            columns=columns,
            exact=exact,
            mode=mode,
            text_column=text_column,
            match=match,
            fuzzy=fuzzy,
            fusion=fusion,
            weights=weights,
            pool=pool,
            bridge=bridge,
        )
        return search_many(self._asked_by(bridge, column), shared, queries)

    def embed(self, queries: Sequence[Any], column: str, *, role: Role = "query") -> np.ndarray:
        """Vectors of texts, of files (`Path`) or of images by the model of `column`, float32 (n, dim), as `search` embeds them.

        They are of one kind. `role` chooses the model's prompt. Raises what `search` raises.
        """
        return embed_alike(self._models, self.name, column, self.provenance(column), queries, role)

    def evaluate(
        self,
        suite: str | Path | Mapping[str, Any] | Suite,
        *,
        columns: Sequence[str] | None = None,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
        record: bool = True,
    ) -> Evaluation:
        """Run the tasks of a suite, a file or a mapping, on this version, and `record` it in the lake; see `latentlake.evaluation`."""
        from latentlake.evaluation import evaluate, record_evaluation

        found = evaluate(self, suite, columns=columns, resamples=resamples, confidence=confidence, seed=seed)
        if record:
            record_evaluation(self._storage, found)
        return found

    def evaluations(self, version: int | None = None) -> list[Evaluation]:
        """What `evaluate` recorded of this table, of all its versions or of one, the latest last."""
        from latentlake.evaluation import read_evaluations

        return read_evaluations(self._storage, self.name, version)

    def warm_up(self, column: str | None = None) -> None:
        """Load what a first search would wait for: the models of the vector columns, or of one, and the indexes of the table.

        Raises what `search` raises of models.
        """
        from latentlake.searching.warming import warm_up

        warm_up(self._place, column)

    @cached_property
    def _place(self) -> Place:
        return Place(self.name, self._dataset, self._provenances, self.unreadable, self._models, self._storage.options)

    def _asked_by(self, bridge: str | None, column: str | Sequence[str] | None) -> Place:
        if bridge is None:
            return self._place
        key = (bridge, column if isinstance(column, str | None) else tuple(column))
        if key not in self._bridged:
            from latentlake.bridges.crossing import bridged

            self._bridged[key] = bridged(self._place, self._storage, column, bridge)
        return self._bridged[key]

    @cached_property
    def _bridged(self) -> dict[Any, Place]:
        return {}  # each bridge is read once

    def _known(self, columns: Sequence[str]) -> list[str]:
        return known_columns(self.schema, columns, self.name)

    def _properties(self, version: int) -> dict[str, str]:
        transaction = read_transaction(self._dataset, version)
        return dict((transaction and transaction.transaction_properties) or {})

    def __repr__(self) -> str:
        tag = f", tag={self.tag!r}" if self.tag else ""
        return f"Table({self.name!r}, version={self.version}{tag}, vector_columns={self.vector_columns})"


def read_summary(text: str | None) -> dict[str, Any] | None:
    """The summary of its run that a commit carries; None where there is none that can be read: others commit too."""
    try:
        return None if text is None else SUMMARY.read(text)
    except Unreadable:
        return None
