"""What a kind of task is made of. Each is a module of `latentlake.evaluation.tasks`, registered by its file's name, with a class `Task`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from latentlake.evaluation.statistics import Sample
from latentlake.provenance import Provenance
from latentlake.table import Table
from operators.embedders.base import Role
from operators.errors import SpecError

ID_COLUMN = "id"


class DataPath(str):
    """Path of a file or folder that a suite reads; relative to the suite's file. Its content, and not its name, is what counts."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def resolve(value: str | Path, info: ValidationInfo) -> DataPath:
            folder = (info.context or {}).get("folder", Path())
            return cls(Path(folder) / Path(value).expanduser())

        strings = core_schema.union_schema([core_schema.str_schema(min_length=1), core_schema.is_instance_schema(Path)])
        return core_schema.with_info_after_validator_function(
            resolve, strings, serialization=core_schema.to_string_ser_schema()
        )

    def digest(self) -> str:
        """SHA-256 of the file, or of the files below the folder with their places in it. Raises `SpecError`."""
        path = Path(self)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        whole = hashlib.sha256()
        for file in files:
            try:
                with file.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
            except OSError as failure:
                raise SpecError(f"cannot read '{file}' of the suite: {failure.strerror or failure}") from failure
            whole.update(f"{file.relative_to(path)} {digest}\n".encode())
        return whole.hexdigest()


@dataclass(frozen=True)
class Measured:
    """One figure of a task: `value`, of `n` units; or `sample`, from which both follow, with an interval."""

    measure: str
    sample: Sample | None = None
    value: float = float("nan")
    n: int = 0
    mode: str = ""
    column: str | None = None  # that it is of, where it is not the subject's


@dataclass(frozen=True)
class Subject:
    """A vector column of a table at a version: what a task is run on. `note` collects what readers of its figures should know."""

    table: Table
    column: str
    seed: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def stored(self) -> Provenance:
        """Provenance of the column."""
        return self.table.provenance(self.column)

    def embed(self, contents: Sequence[Any], role: Role = "query") -> np.ndarray:
        """Vectors float32 (n, dim) of texts, files or images by the column's own model. Raises what `Table.search` raises."""
        return self.table.embed(contents, self.column, role=role)

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)


class TaskSpec(BaseModel):
    """A task of a suite: frozen, and no key is taken that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    takes: ClassVar[frozenset[str]] = frozenset()  # modalities one of which a column must be searched with; empty: any

    gives: ClassVar[tuple[str, ...]] = ()  # measures of its figures; none: the data says

    kind: str
    name: str = ""  # what its results are called; the kind, where it is left out
    columns: tuple[str, ...] = Field(default=(), description="vector columns; all that fit, where none is named")

    @property
    def title(self) -> str:
        """The name of its results."""
        return self.name or self.kind

    def measures_given(self) -> tuple[str, ...]:
        """Measures that its figures can carry, known before it is run; none where the data says."""
        return self.gives

    def settings(self) -> dict[str, Any]:
        """What decides its figures: its fields, with the content of files in place of their paths."""
        return {name: with_digests(value) for name, value in self if name not in ("columns",)}

    def run(self, subject: Subject) -> Iterator[Measured]:
        """The figures of one column. Raises `SpecError`."""
        raise NotImplementedError


def with_digests(value: Any) -> Any:
    """A value of a spec for a hash: a path is the digest of what it names."""
    if isinstance(value, DataPath):
        return value.digest()
    if isinstance(value, BaseModel):
        return {name: with_digests(inner) for name, inner in value}
    if isinstance(value, Mapping):
        return {name: with_digests(inner) for name, inner in value.items()}
    return [with_digests(inner) for inner in value] if isinstance(value, list | tuple) else value
