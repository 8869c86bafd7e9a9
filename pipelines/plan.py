"""A run, thought through before anything starts: what is read, what is unchanged, which pools, which columns."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq

from clusters import ClusterProfile
from latentlake.provenance import FIELD_KEY, Provenance, check_fingerprint, columns_of, fingerprint_of, identity_of
from latentlake.storage import Storage
from operators.embedders.base import short_hash
from operators.errors import GateRefused, SchemaMismatch
from operators.preprocess import find_operator
from pipelines.changes import Changes, find_changes, table_objects
from pipelines.ledger import WORK_FOLDER, BaseRun, find_base_run, open_dataset, read_rejects
from pipelines.listing import known_files, mark_duplicates, read_listing, write_listing
from pipelines.pools import Pool, plan_pools
from pipelines.shard import SHARDS_A_PART, cut_shards
from pipelines.sources.base import LISTING_SCHEMA
from pipelines.spec import EmbedSpec, JobSpec

log = logging.getLogger(__name__)

LIBRARIES = ("latentlake", "ray", "pylance", "lancedb", "torch", "torchvision", "transformers", "sentence-transformers")


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know. `base` is the table's version that it builds on; None: there is no table."""

    run_id: str
    spec: JobSpec  # resolved
    profile: ClusterProfile
    pools: tuple[Pool, ...]
    base_version: int | None
    base_run: BaseRun | None
    base_schema: pa.Schema | None
    changes: Changes
    fields: tuple[pa.Field, ...]  # metadata columns
    shards: tuple[tuple[int, int], ...]
    place: Storage  # folder of this run

    @property
    def replaces_all(self) -> bool:
        """Whether the run writes every row anew and drops all that the table held."""
        return self.base_version is None or self.spec.table.mode == "rebuild"

    @property
    def new_fields(self) -> list[pa.Field]:
        """Columns that the table does not have yet."""
        if self.replaces_all or self.base_schema is None:
            return []
        return [field for field in self.schema if field.name not in self.base_schema.names]

    @property
    def reuses(self) -> bool:
        """Whether vectors that the table holds may be copied."""
        return not self.replaces_all

    @property
    def rewrites(self) -> bool:
        """Whether an object must be written although its content is what the table holds: all are, or it has new columns."""
        return self.replaces_all or bool(self.new_fields)

    @property
    def state_key(self) -> str:
        """Equal for two runs whose objects have the same rows if their contents are the same."""
        return state_key(self.spec, self.fields)

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of the table after the run."""
        return table_schema(self)

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each of the job's columns."""
        return {e.column: fingerprint_of(e.config, self.spec.chain, e.dtype) for e in self.spec.embed}


def state_key(spec: JobSpec, fields: tuple[pa.Field, ...]) -> str:
    """See `Plan.state_key`."""
    fingerprints = {e.column: fingerprint_of(e.config, spec.chain, e.dtype) for e in spec.embed}
    metadata = [(field.name, str(field.type)) for field in fields]
    return short_hash({"source": spec.source.identity(), "columns": fingerprints, "metadata": metadata})


def new_run_id() -> str:
    """Name of a run: when it began (UTC), and six hex digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def make_plan(spec: JobSpec, profile: ClusterProfile, place: Storage | None = None) -> Plan:
    """List the source and plan the run. Writes nothing but the listing, below `place` (default: the run's own folder).

    Raises `SpecError` (a model that is not there, a column of another fingerprint, a pool that cannot be), `SourceError`;
    what was written of the listing is then taken away.
    """
    spec = spec.resolved()
    pools = tuple(plan_pools(spec.embed, profile))
    run_id = new_run_id()
    lake = spec.table.lake
    place = place or lake.child(WORK_FOLDER, spec.table.name, run_id)
    base = open_dataset(lake, spec.table.name)
    if base is not None:
        check_columns(spec, base.schema)
    base_run = find_base_run(lake, spec.table.name, base.version) if base is not None else None
    previous = read_listing(lake.child(WORK_FOLDER, spec.table.name, base_run.listing)) if base_run else None
    rebuild = spec.table.mode == "rebuild"
    try:
        write_listing(spec.source, known_files(None if rebuild else previous, spec.source), place.child("listing"))
        listing = mark_duplicates(read_listing(place.child("listing")) or LISTING_SCHEMA.empty_table())
        fields = tuple(metadata_fields(spec, listing, base))
    except BaseException:  # of any kind: nobody will look for this run's folder again
        if place.fs.exists(place.root):
            place.fs.rm(place.root, recursive=True)
        raise
    known = (
        not rebuild and previous is not None and base_run is not None and base_run.state_key == state_key(spec, fields)
    )
    changes = find_changes(
        listing,
        mark_duplicates(previous) if known and previous is not None else None,
        table_objects(base, () if known or rebuild else spec.columns),
        read_rejects(lake, spec.table.name),
        spec.columns,
    )
    return Plan(
        run_id=run_id,
        spec=spec,
        profile=profile,
        pools=pools,
        base_version=None if base is None else base.version,
        base_run=base_run,
        base_schema=None if base is None else base.schema,
        changes=changes,
        fields=fields,
        shards=tuple(plan_shards(spec, changes, pools)),
        place=place,
    )


def check_columns(spec: JobSpec, schema: pa.Schema) -> None:
    """Refuse to mix: every column of the job that the table has holds vectors of the same fingerprint."""
    if spec.table.mode == "rebuild":
        return
    stored = columns_of(schema)
    for index in spec.index:
        if index.column in stored and index.metric != stored[index.column].metric:
            raise SchemaMismatch(
                f"column '{index.column}' of table '{spec.table.name}' is searched by {stored[index.column].metric}, the job says "
                f"{index.metric}.\n  Keep the metric, or rebuild the table with `mode: rebuild`."
            )
    for embed in spec.embed:
        if embed.column in stored:
            identity = identity_of(embed.config, spec.chain, embed.dtype)
            check_fingerprint(embed.column, spec.table.name, stored[embed.column], identity, "this job makes")
        elif embed.column in schema.names:
            raise SchemaMismatch(
                f"column '{embed.column}' of table '{spec.table.name}' holds no vectors; name another."
            )


def metadata_fields(spec: JobSpec, listing: pa.Table, base: lance.LanceDataset | None) -> list[pa.Field]:
    """Metadata columns: of the type that the table has, else of the type that the source shows."""
    fields = spec.source.metadata_fields(iter([listing]))
    if base is None or spec.table.mode == "rebuild":
        return fields
    known = {name: base.schema.field(name).type for name in base.schema.names}
    for field in fields:
        stored = known.get(field.name, field.type)
        if stored != field.type and not (number_like(stored) and number_like(field.type)):
            raise SchemaMismatch(
                f"metadata column '{field.name}' is {field.type} in the source and {stored} in table '{spec.table.name}'.\n"
                "  Convert it in the source, leave it out, or rebuild the table with `mode: rebuild`."
            )
    return [pa.field(field.name, known.get(field.name, field.type)) for field in fields]


def number_like(kind: pa.DataType) -> bool:
    """Whether values of a type may be read as another number type, row by row."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def plan_shards(spec: JobSpec, changes: Changes, pools: tuple[Pool, ...]) -> list[tuple[int, int]]:
    """Shards of the work, as (start, stop) of its rows."""
    by_key = {embed.config.preparation_key(): embed.config.prepared_bytes() for embed in spec.embed}
    sizes = changes.work["size"].fill_null(0).to_numpy()
    parallel = min(pool.max for pool in pools)
    return cut_shards(sizes, spec.shard, sum(by_key.values()), parallel)


def write_work(plan: Plan) -> None:
    """Write the work beside the listing: one row group a shard."""
    place = plan.place.child("work")
    place.fs.makedirs(place.root, exist_ok=True)
    for first in range(0, len(plan.shards), SHARDS_A_PART):
        with (
            place.fs.open(place.path(part_name(first)), "wb") as file,
            pq.ParquetWriter(file, plan.changes.work.schema) as writer,
        ):
            for start, stop in plan.shards[first : first + SHARDS_A_PART]:
                writer.write_table(plan.changes.work.slice(start, stop - start), row_group_size=stop - start)


def read_work(place: Storage, shard: int) -> pa.Table:
    """The work of one shard."""
    work = place.child("work")
    with work.fs.open(work.path(part_name(shard)), "rb") as file:
        return pq.ParquetFile(file).read_row_group(shard % SHARDS_A_PART)


def part_name(shard: int) -> str:
    """Name of the file that holds a shard's work."""
    return f"part-{shard // SHARDS_A_PART:06}.parquet"


def table_schema(plan: Plan) -> pa.Schema:
    """The table's schema after the run: what it had, and what the job adds."""
    spec = plan.spec
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("object_id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("object_hash", pa.string(), nullable=False),
    ]
    if fans_out(spec):
        fields += [pa.field("chunk", pa.int32()), pa.field("start", pa.int64()), pa.field("end", pa.int64())]
    if spec.chain.column == "text":
        fields.append(pa.field("text", pa.string()))
    fields += [pa.field(field.name, field.type) for field in plan.fields]
    for embed in spec.embed:
        fields += vector_fields(embed, plan)
    if plan.replaces_all or plan.base_schema is None:
        return pa.schema(fields)
    known = set(plan.base_schema.names)
    return pa.schema([*plan.base_schema, *(field for field in fields if field.name not in known)])


def fans_out(spec: JobSpec) -> bool:
    """Whether an object may become several rows."""
    return any(find_operator(step.op).fans_out for step in spec.chain.steps)


def vector_fields(embed: EmbedSpec, plan: Plan) -> list[pa.Field]:
    """Fields of one vector column: the vectors with their provenance, and for text its token count."""
    chain = plan.spec.chain
    provenance = Provenance(
        fingerprint=fingerprint_of(embed.config, chain, embed.dtype),
        identity=identity_of(embed.config, chain, embed.dtype),
        embedder=embed.config.model_dump(mode="json"),
        chain=chain.to_json(),
        dtype=embed.dtype,
        metric=plan.spec.metric(embed.column),
        run_id=plan.run_id,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=library_versions(),
    )
    value = pa.float32() if embed.dtype == "float32" else pa.float16()
    vector = pa.field(
        embed.column, pa.list_(value, embed.config.dimension), metadata={FIELD_KEY: provenance.to_json().encode()}
    )
    if chain.column != "text":
        return [vector]
    return [vector, pa.field(f"{embed.column}_tokens", pa.int32()), pa.field(f"{embed.column}_truncated", pa.bool_())]


def library_versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of the libraries that take part, as far as they are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def check_removal(plan: Plan) -> None:
    """Refuse to delete more of the table than the job's gate allows. Raises `GateRefused`."""
    deletes = plan.spec.table.prune or (plan.replaces_all and plan.base_version is not None)
    limit, share = plan.spec.gates.max_rows_removed, plan.changes.gone_share
    if deletes and share > limit:
        raise GateRefused(
            f"{len(plan.changes.gone)} of the table's {plan.changes.in_table} objects ({share:.1%}) are gone from the source; "
            f"gates.max_rows_removed allows {limit:.1%}. Nothing was published.\n"
            "  Check the source; if it is right, raise the gate for this run: --set gates.max_rows_removed=1."
        )


def describe_plan(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-able values, for `latentlake plan`."""
    changes, spec = plan.changes, plan.spec
    row_bytes = sum(e.config.dimension * (4 if e.dtype == "float32" else 2) for e in spec.embed) + 200
    return {
        "job": spec.name,
        "table": f"{spec.table.uri}/{spec.table.name}",
        "mode": spec.table.mode,
        "base_version": plan.base_version,
        "objects": changes.listed,
        "to_read": changes.work.num_rows,
        "bytes_to_read": int(sum(changes.work["size"].fill_null(0).to_pylist())),
        "unchanged": {column: carried.unchanged for column, carried in changes.carried.items()},
        "gone": len(changes.gone),
        "shards": len(plan.shards),
        "stages": [
            {"stage": "read", "decode": spec.modality, "preprocess": [s.op for s in spec.chain.steps]},
            *({"stage": "embed", **pool.to_json()} for pool in plan.pools),
            {"stage": "write", "new_columns": [field.name for field in plan.new_fields]},
        ],
        "dimensions": {e.column: e.config.dimension for e in spec.embed},
        "fingerprints": plan.fingerprints(),
        "estimated_mb_written": round(changes.work.num_rows * row_bytes / 2**20, 1),
    }
