"""The queries that the indexes of a job's columns are tuned with: brought in before anything is embedded, kept for later versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from latentlake.indexes import count_vectors
from latentlake.provenance import Provenance, columns_of, read_provenance
from latentlake.storage import Storage
from latentlake.tuning.gather import Embed, Place, bring_queries, gather_queries
from latentlake.tuning.queries import Queries
from latentlake.tuning.settings import read_settings
from latentlake.tuning.upkeep import check_tuned
from operators.errors import SpecError
from pipelines.job.spec import JobSpec
from pipelines.planning.schema import vector_fields
from pipelines.publish.query_models import models_of
from pipelines.state.ledger import WORK_FOLDER


def place_of(lake: Storage, table: str) -> Place:
    """Where the queries of a table's columns are kept."""
    return Place(lake.child(WORK_FOLDER, table), lake.child(f"{table}.lance").lance_uri)


def prepare_queries(spec: JobSpec) -> None:
    """Read and embed the queries that the job names. `spec` must be resolved. Raises `SpecError`, and what models raise."""
    for embed in spec.embed:
        index = spec.index_of(embed.column)
        if index.goal is not None and index.queries is not None:
            stored = read_provenance(pa.schema(vector_fields(embed, spec, run_id="")[:1]), embed.column)
            try:
                bring_queries(
                    place_of(spec.table.lake, spec.table.name),
                    embed.column,
                    stored,
                    index.queries,
                    query_embedder(spec, embed.column, stored),
                )
            except SpecError as failure:
                raise SpecError(f"index of '{embed.column}': {failure}") from failure


def query_embedder(spec: JobSpec, column: str, stored: Provenance) -> Embed:
    """Embeds queries by the job's own model, which the job is trusted to name."""

    def embed_contents(contents: Sequence[str | bytes], modality: str | None) -> np.ndarray:
        return models_of(spec).embed_many(spec.table.name, column, stored, contents, modality)

    return embed_contents


def stored_queries_of(lake: Storage, table: str, column: str) -> Callable[[Any], Queries]:
    """Of a version of a table the queries that are kept of a column, or others (see `gather`)."""

    def gather(dataset: Any) -> Queries:
        return gather_queries(dataset, place_of(lake, table), column, columns_of(dataset.schema)[column])

    return gather


def check_tuned_columns(lake: Storage, table: str, dataset: Any) -> None:
    """Measure the tuned columns again whose index changed too much, and tune them again where they miss their goal.

    `dataset` moves to the version that has what was found. Columns that were never tuned are left alone.
    """
    for column, stored in columns_of(dataset.schema).items():
        settings = read_settings(dataset.schema, column)
        if settings is not None:
            rows = count_vectors(dataset, column)
            check_tuned(dataset, column, stored.metric, rows, settings, stored_queries_of(lake, table, column))
