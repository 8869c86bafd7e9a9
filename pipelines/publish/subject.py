"""A version of a table that is about to be tagged: what the gates before the tag are asked of, and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latentlake.lake import Lake
from latentlake.query import QueryModels
from latentlake.storage import Storage
from latentlake.table import Table
from pipelines.publish.evaluations import Evaluations


@dataclass(frozen=True)
class Subject:
    """A version, and the one that the tag marks now; None, and why, where there is nothing to compare with."""

    table: Table
    before: Table | None
    columns: tuple[str, ...]  # vector columns of the job, that gates are asked of
    alone: str
    made: Evaluations


def make_subject(
    lake: Storage,
    table: str,
    version: int,
    tag: str | None,
    columns: Sequence[str],
    models: QueryModels,
    others: QueryModels | None = None,
    made: Evaluations | None = None,
) -> Subject:
    """A version of a table as the gates see it, with the version that `tag` marks now. Raises `NotFound`.

    `models` embed queries; `others` those of the tagged version, where that was made by other models. `columns` are those of
    the job; none: all of the table. `made` has the evaluations that are known.
    """
    found, made = Lake(lake, models).open(table, version=version), made or Evaluations(lake)
    asked = tuple(column for column in columns or found.vector_columns if column in found.vector_columns)
    marked = found.tags().get(tag) if tag is not None else None
    if marked is None or marked == version:
        alone = f"tag '{tag}' marks " + ("no version yet" if marked is None else "this version already")
        return Subject(found, None, asked, alone if tag is not None else "the job puts no tag on its versions", made)
    before = Lake(lake, models).open(table, version=marked)
    if others is not None and any(fingerprint(before, c) not in (None, fingerprint(found, c)) for c in asked):
        before = Lake(lake, others).open(table, version=marked)
    return Subject(found, before, asked, "", made)


def fingerprint(table: Table, column: str) -> str | None:
    """Fingerprint of a vector column; None where the table has none of that name."""
    return table.provenance(column).fingerprint if column in table.vector_columns else None
