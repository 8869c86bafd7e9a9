"""The job as its file writes it: the models of its entries, and the JSON schema that editors check a file with.

A source is chosen by `kind`, an operator by `op`, a model family by `family`. `pipelines.job.jobfile` asks the registry
for the one model that an entry names; the schema is made of them all, as discriminated unions.
"""

from __future__ import annotations

import re
from copy import copy
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from latentlake.stored import StoredDtype
from operators.decode import find_decoder, modality_names, positions_of
from operators.embedders import config_class, family_names
from operators.errors import UnknownName
from operators.fan_out import CHUNK
from operators.preprocess import operators_by_name
from operators.presets import preset_names, read_presets
from pipelines.job.spec import (
    DeduplicateSpec,
    GateSpec,
    IndexSpec,
    LimitSpec,
    PoolSpec,
    PublishSpec,
    ScalarIndexSpec,
    Section,
    ShardSpec,
    TableSpec,
    TextIndexSpec,
)
from pipelines.sources import source_class, source_kinds

COLUMN_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")
TABLE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
OWN_COLUMNS = ("id", "object_id", "uri", "content_hash", "object_hash", "text", "image", "audio")


@cache
def reserved() -> frozenset[str]:
    """Names of the columns that a table may make itself, the positions of all that may fan an object out among them."""
    declared = [operator.positions for operator in operators_by_name().values()]
    declared += [positions_of(find_decoder(modality)) for modality in modality_names()]
    return frozenset({*OWN_COLUMNS, CHUNK.name, *(position.name for made in declared for position in made)})


def check_column(name: Any) -> Any:
    """The name of a vector column. Raises `ValueError`."""
    if not isinstance(name, str) or not COLUMN_NAME.fullmatch(name) or name in reserved():
        raise ValueError(
            f"{name!r} is not a valid column name: use a letter, then letters, digits and '_'; these are taken: {', '.join(sorted(reserved()))}"
        )
    return name


ColumnName = Annotated[str, BeforeValidator(check_column), Field(pattern=COLUMN_NAME.pattern)]


class EmbedKeys(BaseModel):
    """The keys of an entry of `embed` that are not options of its family."""

    model_config = ConfigDict(frozen=True)

    column: ColumnName
    dtype: StoredDtype = "float32"
    batch_cost: int | None = Field(default=None, ge=1)
    pool: Annotated[PoolSpec | None, BeforeValidator(lambda value: {} if value is None else value)] = PoolSpec()


def entry_model(name: str, parts: list[type[BaseModel]], **keys: Any) -> type[BaseModel]:
    """A model of an entry: the fields of `parts`, and `keys` in place of the fields of those names."""
    fields: dict[str, Any] = {
        key: (field.annotation, copy(field)) for part in parts for key, field in part.model_fields.items()
    }
    return create_model(name, __config__=ConfigDict(extra="forbid"), **{**fields, **keys})


def union(models: list[type[BaseModel]], discriminator: str) -> Any:
    """One of these models, chosen by the value of a key."""
    return Annotated[reduce(or_, models), Field(discriminator=discriminator)] if len(models) > 1 else models[0]


class JobFile(BaseModel):
    """The keys of a job file. What an entry of a registry decides is a plain mapping here; see `job_schema`."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=TABLE_NAME.pattern)]
    modality: str
    source: dict[str, Any]
    decode: dict[str, Any] | None = None
    preprocess: list[dict[str, Any]] | None = None
    embed: list[dict[str, Any]]
    table: TableSpec
    deduplicate: DeduplicateSpec | None = None
    index: list[IndexSpec] | None = None
    text_index: list[TextIndexSpec] | None = None
    scalar_index: list[ScalarIndexSpec] | None = None
    gates: GateSpec = GateSpec()
    publish: PublishSpec = PublishSpec()
    shard: ShardSpec = ShardSpec()
    limits: LimitSpec = LimitSpec()

    @classmethod
    def sections(cls) -> dict[str, type[Section]]:
        """The keys that hold one section each, with its model."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}


KEYS = tuple(JobFile.model_fields)


def job_schema() -> dict[str, Any]:
    """JSON schema of a job file, from the models that it is checked with. Imports every family, and loads no model.

    It leaves out a third party's family that cannot be imported.
    """
    families = [family for family in family_names() if can_be_imported(family)]
    presets = {family: tuple(n for n in preset_names() if read_presets()[n].family == family) for family in families}
    by_family = [entry_model(f, [config_class(f), EmbedKeys], family=(Literal[f], ...)) for f in families]
    by_preset = [
        entry_model(f"{family}_preset", [config_class(family), EmbedKeys], model=(Literal[names], ...))
        for family, names in presets.items()
        if names
    ]
    embeds = reduce(or_, by_preset, union(by_family, "family"))
    sources = [entry_model(kind, [source_class(kind)], kind=(Literal[kind], ...)) for kind in source_kinds()]
    steps = [entry_model(op, [found.params], op=(Literal[op], ...)) for op, found in operators_by_name().items()]
    options = [found.Options for name in modality_names() if hasattr(found := find_decoder(name), "Options")]
    chosen: dict[str, Any] = {
        "modality": (Literal[tuple(modality_names())], ...),
        "source": (union(sources, "kind"), ...),
        "decode": (reduce(or_, options, None), None),
        "preprocess": (list[union(steps, "op")] | None, None),  # type: ignore[misc]
        "embed": (Annotated[list[embeds], Field(min_length=1)], ...),  # type: ignore[valid-type]
    }
    schema = entry_model("Job", [JobFile], **chosen).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A LatentLake job"}


def can_be_imported(family: str) -> bool:
    """Whether the module of a registered family can be imported."""
    try:
        config_class(family)
    except (ImportError, AttributeError, UnknownName):
        return False
    return True
