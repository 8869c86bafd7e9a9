"""Full-text and scalar indexes that a job declares: built once, extended by later runs, rebuilt where they were declared otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from latentlake.indexes import MAX_SEGMENTS, IndexInfo, describe_index
from operators.errors import SpecError, did_you_mean

Language = Literal[
    "Arabic", "Danish", "Dutch", "English", "Finnish", "French", "German", "Greek", "Hungarian", "Italian", "Norwegian",
    "Portuguese", "Romanian", "Russian", "Spanish", "Swedish", "Tamil", "Turkish",
]  # fmt: skip
ScalarType = Literal["btree", "bitmap", "label_list"]


@dataclass(frozen=True)
class ColumnIndex:
    """An index that is wanted: its type as Lance has it, and what it is built with."""

    column: str
    type: str  # "inverted", "btree", "bitmap" or "label_list"
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Its name in the table."""
        return f"{self.column}_{'text' if self.type == 'inverted' else self.type}_idx"


def text_index(column: str, language: str, stemming: bool, phrase: bool) -> ColumnIndex:
    """A full-text index. `language` is that of stemming and of stop words; `phrase` keeps where words stand."""
    options = (("language", language), ("stem", stemming), ("with_position", phrase))
    return ColumnIndex(column, "inverted", options)


def check_column(wanted: ColumnIndex, schema: pa.Schema) -> None:
    """Raise `SpecError` where a table of this schema cannot have an index."""
    if wanted.column not in schema.names:
        raise SpecError(
            f"no column '{wanted.column}' to index.{did_you_mean(wanted.column, schema.names)}\n"
            f"  Columns: {', '.join(schema.names)}"
        )
    kind = schema.field(wanted.column).type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    fitting = (
        text if wanted.type == "inverted" else listed if wanted.type == "label_list" else not pa.types.is_nested(kind)
    )
    if not fitting:
        needs = {"inverted": "texts", "label_list": "lists"}.get(wanted.type, "single values")
        raise SpecError(f"column '{wanted.column}' holds {kind}; an index of type {wanted.type} is for {needs}.")


def lacks(dataset: Any, wanted: Sequence[ColumnIndex]) -> bool:
    """Whether a dataset (pylance) has not all of these indexes, as they are wanted."""
    there = {description.name: description for description in dataset.describe_indices()}
    return any(one.name not in there or is_other(there[one.name], one) for one in wanted)


def update_column_index(dataset: Any, wanted: ColumnIndex) -> None:
    """Build an index, or take the rows that it lacks into it; `dataset` (pylance) moves to the version that has it.

    Where nothing has to be done, nothing is committed.
    """
    found = next((d for d in dataset.describe_indices() if d.name == wanted.name), None)
    if found is None or is_other(found, wanted):
        options = dict(wanted.options)
        kind = wanted.type.upper()
        dataset.create_scalar_index(wanted.column, kind, name=wanted.name, replace=found is not None, **options)
        return
    info: IndexInfo = describe_index(dataset, found)
    if info.rows_unindexed:
        merged = {"num_indices_to_merge": info.segments} if info.segments >= MAX_SEGMENTS else {}
        dataset.optimize.optimize_indices(index_names=[wanted.name], **merged)


def is_other(found: Any, wanted: ColumnIndex) -> bool:
    """Whether an index (Lance's description) was built with other options than are wanted."""
    details = found.details or {}
    return any(details.get(name) != value for name, value in wanted.options)
