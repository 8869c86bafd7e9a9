"""The seam every source kind implements: list objects, then read some of them.

A listing has one row an object:

    object_id  string   what the object is called: relative path, or the value of the id column
    uri        string   the file it lies in
    version    string   etag, or size and mtime, of that file; null where it cannot be told
    size       int64    bytes to read for it, as far as the listing knows
    position   int64    where it lies in the file (row or byte offset); null where it is the whole file
    error      string   why it can be no object to read ("duplicate id", …); null for all others

An entry whose error is `LEFT_OUT` is no object: a file that is left out by its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, ClassVar, TypeVar

import pyarrow as pa
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from latentlake.storage import Storage, open_storage
from operators.errors import SpecError
from pipelines.sources._names import LEAVE_OUT, own_names
from pipelines.values.types import parse_type

LISTING_SCHEMA = pa.schema(
    [
        pa.field("object_id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("version", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("position", pa.int64()),
        pa.field("error", pa.string()),
    ]
)
LISTING_ROWS = 50_000  # rows of one piece of a listing

T = TypeVar("T")

# The previous listing's rows, in pieces, of the file `uri` at `version`, or None: an unchanged file is not opened again.
KnownFile = Callable[[str, str], Iterator[pa.Table] | None]


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` successive items; the last may be shorter."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def as_listing(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of a listing as a table; keys that a row leaves out are null."""
    return pa.Table.from_pylist(rows, schema=LISTING_SCHEMA)


@dataclass(frozen=True)
class Objects:
    """What was read: contents in the order asked for (an exception where an object could not be read), and metadata."""

    contents: Sequence[bytes | str | Exception | None]
    metadata: pa.Table  # one row an object; no columns where the source has none
    # The metadata as it is in the source (`pipelines.values.hashing`), by which a change of it is told; None: as in `metadata`.
    canonical: Sequence[bytes] | None = None


class StatedColumn(BaseModel):
    """A metadata column whose type the job states, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    type: str


def read_column(entry: Any) -> Any:
    """An entry of `metadata`: a name, or `{column: NAME, type: TYPE}`. Raises `ValueError`."""
    if isinstance(entry, str | StatedColumn):
        return entry
    if not isinstance(entry, dict) or set(entry) != {"column", "type"}:
        raise ValueError("give a column's name, or {column: NAME, type: TYPE}")
    if not all(isinstance(value, str) for value in entry.values()):
        raise ValueError("`column` and `type` are names; put quotes around what is a number")
    try:
        parse_type(entry["type"])
    except SpecError as failure:
        raise ValueError(str(failure).removesuffix(".")) from failure
    return StatedColumn(**entry)


Column = Annotated[str | StatedColumn, BeforeValidator(read_column)]


def column_names(entries: Iterable[Column]) -> list[str]:
    """Names of metadata columns."""
    return [entry if isinstance(entry, str) else entry.column for entry in entries]


def column_types(entries: Iterable[Column]) -> dict[str, pa.DataType]:
    """Types of the metadata columns whose type is stated."""
    return {entry.column: parse_type(entry.type) for entry in entries if isinstance(entry, StatedColumn)}


class SourceConfig(BaseModel, ABC):
    """Where objects come from. `uri` is a path, `s3://…` or anything fsspec knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Whether a row's `uri` is the object's own address, to be kept in the table; else it is only where it was found.
    uri_is_object: ClassVar[bool] = False
    # Whether its files declare the types of their columns, so that a misfit shows before any value is read.
    declares_types: ClassVar[bool] = False
    # Fields that are younger than tables of the kind: at their default they are in no JSON, and so in no key made of it.
    younger_fields: ClassVar[frozenset[str]] = frozenset({"leave_out", "partitions"})

    kind: str
    uri: str
    storage_options: dict[str, str] = Field(default_factory=dict)
    leave_out: list[str] = Field(default=list(LEAVE_OUT))  # globs of names of files and folders that are no objects
    partitions: list[Column] = Field(default_factory=list)  # Hive's, that travel to the table as metadata does

    _own: str | None = PrivateAttr(None)
    _job_file: str | None = PrivateAttr(None)

    @field_validator("leave_out")
    @classmethod
    def names_alone(cls, globs: list[str]) -> list[str]:
        """Globs of one name each."""
        if wrong := [glob for glob in globs if "/" in glob or not glob]:
            raise ValueError(f"{wrong[0]!r} is no name of a file or folder; for paths there is `exclude`")
        return globs

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        for name in self.younger_fields:
            if name in values and values[name] == type(self).model_fields[name].get_default(call_default_factory=True):
                del values[name]
        return values

    def __eq__(self, other: object) -> bool:
        """Whether both read the same in the same way, whoever asks."""
        return type(self) is type(other) and vars(self) == vars(other)

    def from_file(self, path: str) -> SourceConfig:
        """The same source, of a job that was read from this file: the file is no object."""
        source = self.model_copy()
        source._job_file = path
        return source

    def beside(self, lake: Storage) -> SourceConfig:
        """The same source, of a job that writes to this lake: what lies in it is no object."""
        source = self.model_copy()
        names = [name for name in (self._own, own_names(self.storage, lake, self._job_file)) if name]
        source._own = (
            "|".join(f"(?:{name})" for name in dict.fromkeys(names)) if len(names) > 1 else next(iter(names), None)
        )
        return source

    @property
    def own(self) -> str | None:
        """A regular expression for the names of what is the job's own, and so neither listed nor gone; see `own_names`."""
        return self._own

    @property
    def storage(self) -> Storage:
        """The place that `uri` names."""
        return open_storage(self.uri, self.storage_options)

    @property
    def metadata_names(self) -> list[str]:
        """Names of the metadata columns, of a source that has a field `metadata`."""
        return column_names(getattr(self, "metadata", ()))

    @property
    def stated_types(self) -> dict[str, pa.DataType]:
        """Types of the metadata columns that the job states."""
        return column_types(getattr(self, "metadata", ()))

    @abstractmethod
    def list_objects(self, known: KnownFile) -> Iterator[pa.Table]:
        """Stream the listing in pieces. Raises `SourceError` when it cannot be complete."""

    @abstractmethod
    def read_objects(self, entries: pa.Table, fields: list[pa.Field]) -> Objects:
        """Read the objects of a slice of the listing, with the metadata columns `fields`.

        What cannot be read stands as an exception in its place. Raises `SourceError` if the whole source is out of reach.
        """

    def metadata_fields(self, listing: Iterator[pa.Table]) -> list[pa.Field]:
        """Names and types of the metadata columns; `listing` says where to look."""
        return []

    def identity(self) -> dict[str, Any]:
        """What of this source decides which contents an object has; where it lies does not."""
        return self.model_dump(mode="json", exclude={"uri", "storage_options"})
