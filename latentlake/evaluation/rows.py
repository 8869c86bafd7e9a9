"""Rows that tasks look at: their vectors as numbers, and what is known of each, drawn at random and bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, model_validator

from latentlake.evaluation.base import DataPath, Subject
from latentlake.evaluation.files import pick, read_records
from latentlake.indexes import has_vector
from latentlake.keys import scan_keys
from latentlake.searching.fulltext import is_text
from latentlake.table import Table
from latentlake.vectors import array_of
from operators.errors import NotFound, SpecError, did_you_mean

NAMES = ("id", "object_id", "name", "file")
VALUES = ("label", "text", "caption", "value", "class", "group")


class Facts(BaseModel):
    """Where what is known of a row stands: in a `column`, in the name of the `folder` that a column of paths names, or in a `file`.

    The file is a table of `id` (or `object_id`) and `label` (or `text`, `caption`, `value`); `by` is the column that its ids are of.
    A name alone is a column's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str | None = None
    folder: str | None = None
    file: DataPath | None = None
    by: str = "object_id"

    @model_validator(mode="before")
    @classmethod
    def short(cls, value: Any) -> Any:
        """A name alone is a column's."""
        return {"column": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def one(self) -> Self:
        """One of the three."""
        if sum(place is not None for place in (self.column, self.folder, self.file)) != 1:
            raise ValueError("give one of `column`, `folder` and `file`")
        return self

    @property
    def source(self) -> str:
        """The table's column that they are read by."""
        return self.column or self.folder or self.by

    def mapping(self) -> dict[str, list[Any]] | None:
        """What the file says, by id; None where there is no file. Raises `SpecError`."""
        if self.file is None:
            return None
        columns = read_records(self.file)
        known: dict[str, list[Any]] = {}
        for name, value in zip(
            pick(columns, NAMES, self.file, "ids"), pick(columns, VALUES, self.file, "values"), strict=True
        ):
            known.setdefault(str(name), []).append(value)
        return known

    def of(self, values: pa.Array, known: Mapping[str, list[Any]] | None) -> list[list[Any]]:
        """What is known of rows, by the values of `source`: a list per row, empty where nothing is."""
        found = values.to_pylist()
        if known is not None:
            return [known.get(str(value), []) for value in found]
        if self.folder is not None:
            found = [PurePosixPath(str(value)).parent.name or None for value in found]
        return [[] if value is None else [value] for value in found]


@dataclass(frozen=True)
class Drawn:
    """Rows drawn at random: `ids`, object (n,); `vectors`, float32 (n, dim); `facts` and `groups`, object (n,), where asked for."""

    ids: np.ndarray
    vectors: np.ndarray
    facts: np.ndarray
    groups: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)


def draw_rows(subject: Subject, rows: int, facts: Facts | None = None, groups: str | None = None) -> Drawn:
    """At most `rows` rows with a vector, and with a fact where `facts` are asked for; each fact is a list (see `Facts.of`).

    They are drawn at random, the same for one seed, and no other vector is read. Raises `NotFound` and `SpecError` (there are none).
    """
    known = None if facts is None else facts.mapping()
    sources = [name for name in (None if facts is None else facts.source, groups) if name is not None]
    check_columns(subject, sources)
    pieces = []
    left = rows
    for batch in stream_rows(subject, rows, facts, known, sources):
        found = facts.of(batch[facts.source], known) if facts is not None else [[None]] * batch.num_rows
        kept = np.array([place for place, value in enumerate(found) if value][:left], dtype=np.int64)
        batch = batch.take(pa.array(kept))
        if not batch.num_rows:
            continue
        left -= batch.num_rows
        pieces.append(
            (
                objects(batch["id"].to_pylist()),
                as_numbers(array_of(batch[subject.column], True)),
                objects([found[place] for place in kept.tolist()]),
                objects(batch[groups].to_pylist()) if groups else objects([]),
            )
        )
    if not pieces:
        what = "a vector" if facts is None else f"both a vector and something in '{facts.source}' (or in the file)"
        raise SpecError(f"no row of table '{subject.table.name}' has {what} for column '{subject.column}'.")
    ids, vectors, values, grouped = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return Drawn(ids, vectors, values, grouped if groups else None)


def stream_rows(
    subject: Subject, rows: int, facts: Facts | None, known: Mapping[str, Any] | None, sources: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Batches of rows at random that may have facts: `id`, the vector column and `sources`."""
    columns = list(dict.fromkeys(["id", subject.column, *sources]))
    if known is None or facts is None:
        where = None if facts is None else f"`{facts.source}` IS NOT NULL"
        if where is not None and subject.table.count(where) == len(subject.table):
            where = None  # a sample under a filter holds the places of all rows that it keeps
        yield from subject.table.vectors(columns, where, sample=rows, seed=subject.seed)
        return
    check_texts(subject.table, facts.by)
    names = np.array(sorted(known), dtype=object)
    chosen = np.random.default_rng(subject.seed).permutation(len(names))[:rows]
    dataset = subject.table.to_lance()
    for batch in scan_keys(dataset, facts.by, names[chosen].tolist(), columns, has_vector(subject.column)):
        yield batch.select(columns)


def check_columns(subject: Subject, names: Sequence[str]) -> None:
    """Raise `NotFound` for a column that the table does not have."""
    for name in names:
        if name not in subject.table.columns:
            raise NotFound(
                f"table '{subject.table.name}' has no column '{name}'.{did_you_mean(name, subject.table.columns)}\n"
                f"  Columns: {', '.join(subject.table.columns)}"
            )


def check_texts(table: Table, column: str) -> None:
    """Raise `SpecError` for a column that names are looked up in, and that does not hold texts."""
    if not is_text(kind := table.schema.field(column).type):
        raise SpecError(f"column '{column}' of table '{table.name}' holds {kind}; names are looked up in texts alone.")


def as_numbers(vectors: np.ndarray) -> np.ndarray:
    """Stored vectors as float32 (n, dim); bits become 1 and -1, so that their cosine follows the share of bits that agree."""
    if vectors.dtype == np.uint8:
        return np.unpackbits(vectors, axis=1).astype(np.float32) * 2 - 1
    return vectors.astype(np.float32)


def objects(values: Sequence[Any]) -> np.ndarray:
    """Values as an array (n,) of objects, also where each is a list."""
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def only(facts: np.ndarray) -> np.ndarray:
    """The first fact of each row, object (n,)."""
    return objects([values[0] for values in facts])
