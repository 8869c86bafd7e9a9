"""The columns of a table: those that a job asks for, next to those that are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import lance
import pyarrow as pa

from latentlake.exploration.stored_maps import stored_maps
from latentlake.provenance import FIELD_KEY, Provenance, check_fingerprint, columns_of, fingerprint_of, identity_of
from latentlake.stored import PART_TYPES, UNIT_KEY, stored_type
from operators.errors import SchemaMismatch
from operators.fan_out import Position
from pipelines.job.spec import EmbedSpec, JobSpec
from pipelines.sources._partitions import partition_fields
from pipelines.sources.base import column_names, column_types
from pipelines.values.conversions import fits
from pipelines.values.types import stated_instead, unstorable

LIBRARIES = (
    *("latentlake", "ray", "pylance", "lancedb", "torch", "torchvision", "transformers", "sentence-transformers"),
    *("timm", "open-clip-torch", "model2vec", "onnxruntime", "openvino", "soundfile", "soxr", "av"),
)


def check_columns(spec: JobSpec, schema: pa.Schema) -> None:
    """Refuse to mix: every column of the job that the table has holds vectors of the same fingerprint."""
    if spec.table.mode == "rebuild":
        return
    stored = columns_of(schema)
    metadata = {*spec.source.metadata_names, *column_names(spec.source.partitions)}
    filled = {"id", "object_id", "content_hash", "object_hash", *metadata}
    if required := [field.name for field in schema if not field.nullable and field.name not in filled]:
        raise SchemaMismatch(
            f"column '{required[0]}' of table '{spec.table.name}' may not be null, and this job does not fill it.\n  Let it be null "
            "(Lance: `alter_columns`), drop it, or rebuild the table with `mode: rebuild`."
        )
    maps = {axis for found in stored_maps(schema).values() for axis in found.columns}
    if taken := sorted(maps & metadata):
        raise SchemaMismatch(
            f"metadata column '{taken[0]}' of the job is a map's in table '{spec.table.name}'.\n  Give it another name."
        )
    for index in spec.index:
        metric = spec.metric(index.column)
        if index.column in stored and metric != stored[index.column].metric:
            raise SchemaMismatch(
                f"column '{index.column}' of table '{spec.table.name}' is searched by {stored[index.column].metric}, the job says "
                f"{metric}.\n  Keep the metric, or rebuild the table with `mode: rebuild`."
            )
    for embed in spec.embed:
        if embed.column in stored:
            identity = identity_of(embed.config, spec.chain, embed.dtype)
            check_fingerprint(embed.column, spec.table.name, stored[embed.column], identity, "this job makes")
        elif embed.column in schema.names:
            raise SchemaMismatch(
                f"column '{embed.column}' of table '{spec.table.name}' holds no vectors; name another."
            )
        for column, provenance in stored.items():
            if embed.column not in stored and dict(provenance.chain) != spec.chain.to_json():
                raise SchemaMismatch(
                    f"column '{embed.column}' would be computed of other rows than '{column}' of table '{spec.table.name}': the "
                    "jobs decode or preprocess otherwise.\n  Use the same `modality` and `preprocess`, or another table."
                )


def metadata_fields(spec: JobSpec, listing: Iterator[pa.Table], base: lance.LanceDataset | None) -> list[pa.Field]:
    """Metadata columns: of the type that the table has, else of the type that the job states or the source shows.

    Raises `SchemaMismatch` for a type that Lance cannot write, and for one that the job states, or the source declares, and
    that cannot become the table's. What a source merely shows is judged row by row.
    """
    fields = [*spec.source.metadata_fields(listing), *partition_fields(spec.source)]
    stated = spec.source.stated_types | column_types(spec.source.partitions)
    stored = base.schema if base is not None and spec.table.mode != "rebuild" else pa.schema([])
    known = {name: stored.field(name).type for name in stored.names}
    for field in fields:
        name, kind, there = field.name, field.type, known.get(field.name)
        if there is None:
            check_storable(name, kind)
        elif name in stated and kind != there:
            raise SchemaMismatch(
                f"metadata column '{name}' is {there} in table '{spec.table.name}', the job states {kind}.\n"
                "  Leave the type out, or rebuild the table with `mode: rebuild`."
            )
        elif spec.source.declares_types and not fits(kind, there):
            raise SchemaMismatch(
                f"metadata column '{name}' is {kind} in the source and {there} in table '{spec.table.name}'.\n"
                "  Convert it in the source, leave it out, or rebuild the table with `mode: rebuild`."
            )
    return [pa.field(field.name, known.get(field.name, field.type)) for field in fields]


def check_storable(name: str, kind: pa.DataType) -> None:
    """Raise `SchemaMismatch` for a metadata column of a type that Lance cannot write."""
    part = unstorable(kind)
    if part is None:
        return
    what = "which" if part == kind else f"of which {part}"
    instead = stated_instead(kind)
    remedy = (
        f"state a type that takes its values: metadata: [{{column: {name}, type: '{instead}'}}]"
        if instead
        else "convert it"
    )
    raise SchemaMismatch(
        f"metadata column '{name}' is {kind}, {what} cannot be written to a Lance table.\n  Leave it out, or {remedy}."
    )


def table_schema(spec: JobSpec, metadata: Sequence[pa.Field], known: pa.Schema | None, run_id: str) -> pa.Schema:
    """The table's schema after the run: what it had (`known`), and what the job adds."""
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("object_id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("object_hash", pa.string(), nullable=False),
    ]
    fields += [position_field(position) for position in spec.chain.positions]
    if spec.chain.column == "text":
        fields.append(pa.field("text", pa.string()))
    fields += [pa.field(field.name, field.type) for field in metadata]
    for embed in spec.embed:
        fields += vector_fields(embed, spec, run_id)
    if known is None:
        return pa.schema(fields)
    return pa.schema([*known, *(field for field in fields if field.name not in known.names)])


def position_field(position: Position) -> pa.Field:
    """Field of a column that says where in its object a row lies; its metadata says in what unit."""
    return pa.field(position.name, pa.type_for_alias(position.stored), metadata={UNIT_KEY: position.unit.encode()})


def vector_fields(embed: EmbedSpec, spec: JobSpec, run_id: str) -> list[pa.Field]:
    """Fields of one vector column: the vectors with their provenance, and for text its token count."""
    chain = spec.chain
    provenance = Provenance(
        fingerprint=fingerprint_of(embed.config, chain, embed.dtype),
        identity=identity_of(embed.config, chain, embed.dtype),
        embedder=embed.config.model_dump(mode="json"),
        chain=chain.to_json(),
        dtype=embed.dtype,
        metric=spec.metric(embed.column),
        run_id=run_id,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=library_versions(),
    )
    kind = stored_type(embed.dtype, embed.config.dimension)
    vector = pa.field(embed.column, kind, metadata={FIELD_KEY: provenance.to_json().encode()})
    _, *extras = parts_of(spec, embed.column)
    return [vector, *(pa.field(name, PART_TYPES[name.removeprefix(embed.column)]) for name in extras)]


def parts_of(spec: JobSpec, column: str) -> tuple[str, ...]:
    """Names of the columns that a vector column comes with, itself first: text has the count of its tokens beside it."""
    return (column, *(column + ending for ending in PART_TYPES)) if spec.chain.column == "text" else (column,)


def library_versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of the libraries that take part, as far as they are installed."""
    return {name: found for name in names if (found := version_of(name)) is not None}


@cache
def version_of(name: str) -> str | None:
    """Version of a library, None where it is not installed: looked up once in a process, which reads all of a file of metadata."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
