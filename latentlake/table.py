"""A table at one version: what it holds, where its vectors come from, and search.

Everything goes through pylance: it reads versions, tags, transaction properties and field metadata, which lancedb does
not, and it searches; lancedb would be a second handle, with an older Lance inside, that might see another version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latentlake.exploration.explorable import Explorable
from latentlake.filters import check_filter, explain_filter
from latentlake.formats import StoredFormat
from latentlake.handover import open_in_lancedb
from latentlake.indexes import IndexInfo, describe_indexes, nearest
from latentlake.provenance import Provenance, read_provenance, vector_columns
from latentlake.query import (
    Kind,
    QueryModels,
    check_fits,
    check_vector,
    choose_column,
    content_of,
    embed_alike,
    kind_of,
)
from latentlake.results import DISTANCE, Rows, SearchResult, frame_of, rows_of
from latentlake.storage import Storage
from latentlake.tuning.settings import read_settings
from latentlake.vectors import BATCH_ROWS, Vectors
from operators.errors import NotFound, SpecError, Unreadable, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentlake.comparison.results import Comparison
    from latentlake.evaluation import Evaluation, Suite
    from operators.embedders.base import Role

NAME = re.compile(r"[A-Za-z0-9_.-]+")
REJECTS_SUFFIX = "__rejects"
HASHES = ("content_hash", "object_hash")
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


class Table(Explorable):
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
        if column in self.unreadable:
            raise Unreadable(self.unreadable[column])
        if column not in self._provenances:
            raise NotFound(
                f"table '{self.name}' has no vector column '{column}'.{did_you_mean(column, self.vector_columns)}\n"
                f"  Vector columns: {', '.join(self.vector_columns) or 'none'}"
            )
        return self._provenances[column]

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
        for batch in self._dataset.scanner(columns=self._default_columns()).to_batches():
            yield from rows_of(pa.Table.from_batches([batch]))

    def head(self, n: int = 5) -> Rows:
        """The first `n` rows, without vectors and hashes."""
        return Rows(self.to_arrow(self._default_columns(), limit=n))

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
        query: str | Path | Image | np.ndarray | Sequence[float] | None = None,
        *,
        id: str | None = None,
        k: int = 10,
        column: str | None = None,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        exact: bool = False,
    ) -> SearchResult:
        """The `k` rows nearest to a query, nearest first, with their `_distance`.

        `query` is a text (a str always is), a file (`Path`), an image (PIL) or a vector; or `id` names a row, for more
        like it, itself left out. Text, files and images are embedded by the model that the column's provenance names, as a
        query; it is refused where its fingerprint is another. A vector is taken as it is.

        `column` may be left out where only one vector column fits. `where` is a SQL filter, applied before the search.
        `columns` are the result's; by default all but vectors and hashes. `exact` leaves an index unused, as does a filter
        that keeps few rows. Distances follow
        the column's metric: cosine, l2 (squared), dot (one minus the product) or hamming (bits that differ).

        Raises `SpecError`, `NotFound`, `FingerprintMismatch`, `ModelNotFound`.
        """
        if k < 1:
            raise SpecError(f"k is {k}; it must be 1 or more.")
        if (query is None) == (id is None):
            raise SpecError("give a query or `id=`, and not both.")
        names = self._known(columns) if columns is not None else self._default_columns()
        check_filter(self._dataset, where)  # before a model is loaded
        kind = "row" if id is not None else kind_of(query)
        column = choose_column(kind, query, self._provenances, column, self.name)
        stored = self.provenance(column)
        if id is None:
            vector, asked_with = self._embed(query, kind, column, stored), shown_query(query, kind)
        else:
            vector, uri = self._vector_of(id, column, stored)
            asked_with = (id, uri)
        # One row more for a row that has to be left out of its own hits.
        kept = None if where is None or exact else (self.count(where), self._dataset.count_rows())
        settings = read_settings(self.schema, column)
        asked = nearest(column, vector, k if id is None else k + 1, stored.metric, exact, kept, settings)
        found = self._nearest(asked, where, [*names, "id"])
        if id is not None:
            found = found.filter(pc.not_equal(found["id"], id)).slice(0, k)
        return SearchResult(found.select([*names, DISTANCE]), stored.modality, self._storage.options, asked_with)

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
    ) -> Evaluation:
        """Run the tasks of a suite, a file or a mapping, on this version; see `latentlake.evaluation.evaluate`."""
        from latentlake.evaluation import evaluate

        return evaluate(self, suite, columns=columns, resamples=resamples, confidence=confidence, seed=seed)

    def compare(
        self,
        other: Table | int | str | None = None,
        *,
        column: str | None = None,
        other_column: str | None = None,
        k: int = 10,
        segment: str | None = None,
        suite: str | Path | Mapping[str, Any] | Suite | None = None,
        seed: int = 0,
    ) -> Comparison:
        """This table, as what was before, beside another table, version or tag, or another of its columns.

        See `latentlake.comparison.compare.compare`, which has more options.
        """
        from latentlake.comparison.compare import compare

        after = self if other is None else other if isinstance(other, Table) else self.checkout(other)
        return compare(
            self, after, column=column, other_column=other_column, k=k, segment=segment, suite=suite, seed=seed
        )

    def _embed(self, query: Any, kind: Kind, column: str, stored: Provenance) -> np.ndarray:
        check_fits(kind, column, stored)
        if kind == "vector":
            return check_vector(query, column, stored)
        modality = kind if kind in ("text", "image") else None
        vector = self._models.embed(self.name, column, stored, content_of(query, kind), modality)
        return check_vector(vector, column, stored)

    def _nearest(self, query: Mapping[str, Any], where: str | None, names: Sequence[str]) -> pa.Table:
        wanted = [*dict.fromkeys(names), DISTANCE]
        with explain_filter(where):
            return self._dataset.scanner(columns=wanted, nearest=query, filter=where, prefilter=True).to_table()

    def _vector_of(self, id: str, column: str, stored: Provenance) -> tuple[np.ndarray, str | None]:
        """The vector of the row `id`, and the address of its object if the table has it. Raises `NotFound`, and `SpecError` where the row has none."""
        quoted = id.replace("'", "''")
        names = [column, *(["uri"] if "uri" in self.schema.names else [])]
        rows = self._dataset.to_table(columns=names, filter=f"id = '{quoted}'", limit=1)
        if not rows.num_rows:
            raise NotFound(f"table '{self.name}' has no row '{id}' at version {self.version}.")
        vector = rows[column][0].as_py()
        if vector is None:
            raise SpecError(f"row '{id}' has no vector in column '{column}'; `rejects()` may say why.")
        return check_vector(vector, column, stored), rows["uri"][0].as_py() if "uri" in names else None

    def _default_columns(self) -> list[str]:
        return [name for name in self.schema.names if name not in self._vectors and name not in HASHES]

    def _known(self, columns: Sequence[str]) -> list[str]:
        """`columns` without repetition. Raises `NotFound` for one that the table does not have."""
        names = [name for name in dict.fromkeys(columns) if name != DISTANCE]
        for name in names:
            if name not in self.schema.names:
                raise NotFound(
                    f"table '{self.name}' has no column '{name}'.{did_you_mean(name, self.schema.names)}\n"
                    f"  Columns: {', '.join(self.schema.names)}"
                )
        return names

    def _properties(self, version: int) -> dict[str, str]:
        transaction = read_transaction(self._dataset, version)
        return dict((transaction and transaction.transaction_properties) or {})

    def __repr__(self) -> str:
        tag = f", tag={self.tag!r}" if self.tag else ""
        return f"Table({self.name!r}, version={self.version}{tag}, vector_columns={self.vector_columns})"


def shown_query(query: Any, kind: Kind) -> tuple[str, Any]:
    """What a result says it was searched with: a text, and the picture of an image or a file."""
    if kind == "text":
        return query, None
    if kind == "file":
        return str(query), str(Path(query).expanduser().absolute())
    return ("image", query) if kind == "image" else (f"vector of {np.size(query)} numbers", None)


def read_summary(text: str | None) -> dict[str, Any] | None:
    """The summary of its run that a commit carries; None where there is none that can be read: others commit too."""
    try:
        return None if text is None else SUMMARY.read(text)
    except Unreadable:
        return None


def is_internal(name: str) -> bool:
    """Whether LatentLake keeps the table `name` for itself."""
    return name.startswith("_") or name.endswith(REJECTS_SUFFIX)


def check_table_name(name: str) -> None:
    """Raise `SpecError` unless `name` can be a user's table."""
    if not NAME.fullmatch(name):
        raise SpecError(f"table name '{name}': use letters, digits, '_', '.' and '-' only.")
    if is_internal(name):
        raise SpecError(
            f"table name '{name}' is internal: names may not begin with '_' or end with '{REJECTS_SUFFIX}'."
        )


def open_lance(storage: Storage, version: int | None = None, block_size: int | None = None, session: Any = None) -> Any:
    """The Lance dataset at a place, at its newest version or at `version`; None where there is none.

    Lance joins reads that stand less than `block_size` bytes apart, and reads what lies between them too; by default 64 KB in
    an object store. What it reads of indexes and of files' metadata it keeps in `session`, or with the dataset.
    """
    import lance

    from latentlake.retries import retried

    options = {"version": version, "block_size": block_size, "session": session}
    try:
        return retried(lance.LanceDataset)(storage.lance_uri, **options, **storage.lance_arguments)
    except ValueError as failure:
        if "was not found" in str(failure):
            return None
        raise


def read_transaction(dataset: Any, version: int) -> Any:
    """The transaction that made a version; None where it was cleaned up, or pylance cannot read it.

    That is so of a compaction of indexed rows (pylance 14.0.2: `RewrittenIndex.__init__() missing 3 …`).
    """
    from latentlake.retries import is_transient

    try:
        return dataset.read_transaction(version)
    except (TypeError, ValueError, OSError) as failure:
        if is_transient(failure):
            raise
        return None


def checkout(dataset: Any, name: str, wanted: int | str) -> Any:
    """The dataset of table `name` at a version or a tag. Raises `NotFound`, naming what there is."""
    if isinstance(wanted, str):
        tags = sorted(dataset.tags.list())
        if wanted not in tags:
            raise NotFound(
                f"table '{name}' has no tag '{wanted}'.{did_you_mean(wanted, tags)}\n  Tags: {', '.join(tags) or 'none'}"
            )
        return dataset.checkout_version(wanted)
    try:
        return dataset.checkout_version(wanted)
    except (ValueError, OSError, OverflowError) as failure:
        numbers = [int(found["version"]) for found in dataset.versions()]
        if wanted in numbers:
            raise
        raise NotFound(
            f"table '{name}' has no version {wanted}; there are {len(numbers)}, from {min(numbers)} to {max(numbers)}.\n"
            "  `versions()` lists them; a cleaned-up version is gone for good."
        ) from failure
