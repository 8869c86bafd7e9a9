"""A run, thought through before anything starts: what is read, what is unchanged, which pools, which columns."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import lance
import pyarrow as pa

from clusters import Capacity, ClusterProfile
from latentlake.column_indexes import check_column
from latentlake.provenance import columns_of, fingerprint_of
from latentlake.storage import Storage
from latentlake.stored import stored_bytes
from operators.embedders.base import short_hash
from operators.errors import SourceError, SpecError
from operators.model_files import unpinned_model
from pipelines.job.spec import JobSpec
from pipelines.planning.budget import BudgetMeter
from pipelines.planning.changes import Comparison, table_objects
from pipelines.planning.choice import Choice, RunnerName, capacity_for, choose_runner, inline_pools
from pipelines.planning.listing import known_files, read_listing, write_listing, write_sample
from pipelines.planning.pools import Pool, plan_pools
from pipelines.planning.schema import check_columns, metadata_fields, parts_of, table_schema
from pipelines.planning.work import GONE, LEFT, write_ids, write_work
from pipelines.progress import COMPARING, LISTING, Phases
from pipelines.sources._looks import bounded_looks
from pipelines.state.forgotten import read_forgotten
from pipelines.state.ledger import WORK_FOLDER, BaseRun, find_base_run, new_run_id, open_dataset, read_rejects
from pipelines.state.manifest import Changes, Manifest, Retry, finished_shards
from pipelines.state.tag_history import read_tag_history, tags_of, taken_back
from pipelines.values.hashing import HASH_SCHEME

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know. `base` is the table's version that it builds on; None: there is no table."""

    run_id: str
    spec: JobSpec  # resolved
    profile: ClusterProfile
    capacity: Capacity  # what it was planned with
    pools: tuple[Pool, ...]  # as Ray is asked for them
    runner: Choice
    base_version: int | None
    base_run: BaseRun | None
    restores: bool  # the base is older than the newest version, which readers were taken back from
    unpublished: bool  # the job's tag does not mark the base: it is gated, and published, also if nothing has changed
    changes: Changes
    fields: tuple[pa.Field, ...]  # metadata columns
    schema: pa.Schema  # of the table after the run
    new_fields: tuple[pa.Field, ...]  # columns that the table does not have yet
    shards: tuple[int, ...]  # objects of each
    place: Storage  # folder of this run
    listing: str  # folder of the listing, below the table's folder of work
    retry: Retry | None = None  # nothing but these earlier rejects is worked on
    whole: tuple[int, int] | None = None  # objects of the source and their bytes, where the job has a limit
    resumed: Manifest | None = None  # of the run that this one resumes
    budget_meter: BudgetMeter | None = None  # of the run's budget, if it has one

    @property
    def replaces_all(self) -> bool:
        """Whether the run writes every row again and drops all rows of the table."""
        return replaces_all(self.spec, self.base_version)

    @property
    def removes(self) -> int:
        """How many objects of the table, gone from the source, are deleted: none while a file cannot be listed that may hold them."""
        prunes = self.spec.table.prune and self.retry is None and not self.changes.unlisted
        return self.changes.gone if prunes else 0

    @property
    def rewrites(self) -> bool:
        """Whether an object must be written although its content is what the table holds: all are, or it has new columns."""
        return self.replaces_all or bool(self.new_fields)

    @property
    def patched(self) -> tuple[str, ...]:
        """Columns that are merged into the table's fragments, for objects that have not changed; none: such objects are written again."""
        vectors = {name for column in self.spec.columns for name in parts_of(self.spec, column)}
        names = tuple(field.name for field in self.new_fields)
        return names if set(names) <= vectors and set(names) & set(self.spec.columns) and not self.replaces_all else ()

    @property
    def state_key(self) -> str:
        """Equal for two runs whose objects have the same rows if their contents are the same."""
        return state_key(self.spec, self.fields)

    def manifest(self, version: int | None, started_at: float) -> Manifest:
        """What is needed to resume this run, which writes for `version` of the table."""
        return Manifest(
            run_id=self.run_id,
            table=self.spec.table.name,
            job=self.spec.name,
            resume_key=resume_key(self.spec, self.retry),
            state_key=self.state_key,
            started_at=started_at,
            base_version=self.base_version,
            version=version,
            listing=self.listing,
            retry=self.retry,
            shards=self.shards,
            changes=self.changes,
            fields=pa.schema(self.fields),
            new_fields=pa.schema(self.new_fields),
            schema=self.schema,
            spec=self.spec.to_json(),
            hash_scheme=HASH_SCHEME,
        )


def replaces_all(spec: JobSpec, base_version: int | None) -> bool:
    """See `Plan.replaces_all`."""
    return base_version is None or is_rebuild(spec)


def state_key(spec: JobSpec, fields: tuple[pa.Field, ...]) -> str:
    """See `Plan.state_key`."""
    fingerprints = {e.column: fingerprint_of(e.config, spec.chain, e.dtype) for e in spec.embed}
    metadata = [(field.name, str(field.type)) for field in fields]
    source = spec.source.identity()
    return short_hash({"source": source, "columns": fingerprints, "metadata": metadata, **optional_keys(spec)})


def resume_key(spec: JobSpec, retry: Retry | None = None) -> str:
    """Equal for two jobs of which one may finish what the other began: what is read, how, by which models, to where."""
    scheme = {"hash": HASH_SCHEME} if HASH_SCHEME > 1 else {}
    return short_hash(
        {
            **scheme,
            **optional_keys(spec),
            "source": spec.source.model_dump(mode="json", exclude={"storage_options"}),
            "columns": fingerprints_of(spec),
            "table": spec.table.model_dump(mode="json", exclude={"storage_options", "uri"}),
            "retry": None if retry is None else asdict(retry),
        }
    )


def optional_keys(spec: JobSpec) -> dict[str, Any]:
    """What a job may ask for that decides which rows it keeps; nothing of it is in the key of a job that does not."""
    asked = {"limit": spec.limit, "deduplicate": spec.deduplicate and spec.deduplicate.model_dump(mode="json")}
    return {name: value for name, value in asked.items() if value is not None}


def fingerprints_of(spec: JobSpec) -> dict[str, str]:
    """Fingerprint of each of a job's columns. The job must be resolved."""
    return {e.column: fingerprint_of(e.config, spec.chain, e.dtype) for e in spec.embed}


def resolve_models(spec: JobSpec) -> JobSpec:
    """The job with its models looked up; see `JobSpec.resolved`.

    A hub model without a `revision` is the one that the table's column was made by, as long as the column is not rebuilt: what
    the hub calls newest changes overnight, a column does not.
    """
    table = open_dataset(spec.table.lake, spec.table.name)
    stored = {} if table is None or spec.table.mode == "rebuild" else columns_of(table.schema)
    embeds = []
    for embed in spec.embed:
        model, known = unpinned_model(embed.config), stored.get(embed.column)
        if model is not None and known is not None and known.embedder.get("model") == model:
            pinned = embed.config.model_copy(update={"revision": known.embedder["revision"]})
            embed = embed.model_copy(update={"config": pinned})
        embeds.append(embed)
    return spec.model_copy(update={"embed": tuple(embeds)}).resolved()


def warnings_of(spec: JobSpec) -> list[str]:
    """What a job, not yet resolved, leaves to chance."""
    return [
        f"column '{embed.column}': no `revision` of hub model '{model}' is pinned; the first run takes the newest, and the "
        "table keeps to it from then on"
        for embed in spec.embed
        if (model := unpinned_model(embed.config)) is not None
    ]


def make_plan(
    spec: JobSpec,
    profile: ClusterProfile,
    place: Storage | None = None,
    retry: Retry | None = None,
    runner: RunnerName = "auto",
    phases: Phases | None = None,
) -> Plan:
    """List the source, compare with the table, and plan the run of a resolved job.

    Writes nothing but the listing and the work, below `place` (default: the run's own folder). With `retry` nothing is
    listed: the base version's listing stands, and only what was rejected is done again. Raises `SpecError` (a column of
    another fingerprint, a pool that cannot be), `SourceError`; what was written is then taken away.
    """
    phases = phases or Phases(time.time())
    phases.begin(LISTING)
    capacity = capacity_for(runner, profile)
    pools = tuple(plan_pools(spec.embed, capacity))
    run_id = new_run_id()
    lake, name = spec.table.lake, spec.table.name
    place = place or lake.child(WORK_FOLDER, name, run_id)
    base = choose_base(spec, open_dataset(lake, name))
    if base.table is not None and base.version is not None:
        check_columns(spec, base.table.schema)
        base = replace(base, run=find_base_run(lake, name, base.version))
    check_kind(spec, base, retry)
    try:
        with Comparison() as comparison, bounded_looks(spec.limits.object_timeout_s):
            whole = list_source(spec, base, place, comparison, phases, retry)
            fields = tuple(metadata_fields(spec, comparison.entries(), base.table))
            stored = None if is_rebuild(spec) or base.table is None else base.table.schema
            schema = table_schema(spec, fields, stored, run_id)
            for wanted in spec.column_indexes:
                check_column(wanted, schema)
            new_fields = tuple(f for f in schema if stored is not None and f.name not in stored.names)
            changes = compare(spec, base, comparison, fields, new_fields, retry)
            chosen = choose_runner(runner, profile, spec, pools, changes.work, changes.work_bytes)
            parallel = 1 if chosen.name == "inline" else min(pool.max for pool in pools)
            shards = tuple(write_work(place, comparison.work(), changes.work, spec, parallel))
            if spec.limit is None:
                write_ids(place, GONE, comparison.gone())
                write_ids(place, LEFT, comparison.left())
            else:  # what is not listed is not gone
                changes = replace(changes, gone=0, left=0)
    except BaseException:  # of any kind: nobody will look for this run's folder again
        place.remove()
        raise
    pools = tuple(plan_pools(spec.embed, capacity, shards=len(shards)))
    return Plan(
        run_id=run_id,
        spec=spec,
        profile=profile,
        capacity=capacity,
        pools=pools,
        runner=chosen,
        base_version=base.version,
        base_run=base.run,
        restores=base.restores,
        unpublished=base.unpublished,
        changes=changes,
        fields=fields,
        schema=schema,
        new_fields=new_fields,
        shards=shards,
        place=place,
        listing=base.run.listing if retry and base.run else f"{run_id}/listing",
        retry=retry,
        whole=whole,
    )


def is_rebuild(spec: JobSpec) -> bool:
    """Whether the run takes nothing over from the table."""
    return spec.table.mode == "rebuild"


def check_kind(spec: JobSpec, base: Base, retry: Retry | None) -> None:
    """Raise `SpecError` for a retry without a run to retry, and for a limited run that would drop all other rows."""
    if retry is not None and (base.run is None or is_rebuild(spec)):
        raise SpecError(f"table '{spec.table.name}' has no run whose rejects could be tried again. Run its job.")
    if spec.limit is not None and is_rebuild(spec):
        raise SpecError(
            "a run with a limit cannot rebuild: it would drop the rows of all other objects. Use another table."
        )


def list_source(
    spec: JobSpec, base: Base, place: Storage, comparison: Comparison, phases: Phases, retry: Retry | None
) -> tuple[int, int] | None:
    """Write the listing below `place` and load it for comparison. Of a job with a limit: objects and bytes of the whole source.

    With `retry` the listing of the base version is loaded, and nothing is listed.
    """
    previous, whole = base.listing(spec), None
    if retry is not None and previous is not None:
        listing = previous
    else:
        listing, source = place.child("listing"), spec.source.beside(spec.table.lake)
        listed = listing if spec.limit is None else place.child("whole")
        known = known_files(None if is_rebuild(spec) else previous, source)
        forgotten = read_forgotten(spec.table.lake.child(WORK_FOLDER, spec.table.name))
        rows = write_listing(source, known, listed, forgotten)
        if spec.limit is not None:
            whole = write_sample(listed, rows, spec.limit, listing)
            listed.remove()
    phases.begin(COMPARING)
    comparison.load(read_listing(listing))
    return whole


def compare(
    spec: JobSpec,
    base: Base,
    comparison: Comparison,
    fields: tuple[pa.Field, ...],
    new_fields: tuple[pa.Field, ...],
    retry: Retry | None,
) -> Changes:
    """What the loaded listing asks for, next to the table. Raises `SpecError`, and `SourceError` where no file can be listed."""
    # A column of the same job that is new was dropped by someone: no row has it, whatever that run has written.
    same_job = base.run is not None and base.run.state_key == state_key(spec, fields)
    known = same_job and not is_rebuild(spec) and not new_fields
    if retry is not None and not known:
        raise SpecError(
            f"the job that table '{spec.table.name}' was last written by is another one. Run this job as a whole."
        )
    previous, source = base.listing(spec), spec.source.beside(spec.table.lake)
    changes = comparison.find_changes(
        read_listing(previous) if known and previous else None,
        table_objects(base.table, () if known or is_rebuild(spec) else spec.columns),
        read_rejects(spec.table.lake, spec.table.name),
        spec.columns,
        retry,
        source.own if source.uri_is_object else None,
        prune=spec.table.prune and spec.limit is None,
    )
    if 0 < changes.unlisted == changes.listed:
        raise no_file_listed(spec, comparison)
    return changes


def no_file_listed(spec: JobSpec, comparison: Comparison) -> SourceError:
    """The error for a source none of whose files can be listed: it is not what the job takes it for."""
    first = next(comparison.entries()).slice(0, 1).to_pylist()[0]
    return SourceError(
        f"none of the files of the source '{spec.source.uri}' can be listed. The first, '{first['object_id']}', "
        f"{first['error']}.\n  Is `kind: {spec.source.kind}` right?"
    )


def resume_plan(spec: JobSpec, profile: ClusterProfile, manifest: Manifest, runner: RunnerName = "auto") -> Plan:
    """The plan of a run that was cut short, as its manifest tells it; pools, gates and tag are the job's of now."""
    capacity = capacity_for(runner, profile)
    finished, changes = finished_shards(manifest.place(spec.table.lake)), manifest.changes
    pools = tuple(plan_pools(spec.embed, capacity, shards=len(manifest.shards) - len(finished)))
    left = sum(manifest.shards) - sum(manifest.shards[shard] for shard in finished)
    size = changes.work_bytes * left // max(1, changes.work)
    return Plan(
        run_id=manifest.run_id,
        spec=spec,
        profile=profile,
        capacity=capacity,
        pools=pools,
        runner=choose_runner(runner, profile, spec, pools, left, size),
        base_version=manifest.base_version,
        base_run=None,
        restores=False,
        unpublished=True,
        changes=manifest.changes,
        fields=tuple(manifest.fields),
        schema=manifest.schema,
        new_fields=tuple(manifest.new_fields),
        shards=manifest.shards,
        place=manifest.place(spec.table.lake),
        listing=manifest.listing,
        retry=manifest.retry,
        resumed=manifest,
    )


@dataclass(frozen=True)
class Base:
    """The version of a table that a run builds on; see `Plan`."""

    table: lance.LanceDataset | None
    restores: bool = False
    unpublished: bool = False
    run: BaseRun | None = None

    @property
    def version(self) -> int | None:
        """The table's version; None: there is no table."""
        return None if self.table is None else int(self.table.version)

    def listing(self, spec: JobSpec) -> Storage | None:
        """What the source held at that version, if it is known."""
        lake, name = spec.table.lake, spec.table.name
        return None if self.run is None else lake.child(WORK_FOLDER, name, self.run.listing)


def choose_base(spec: JobSpec, newest: lance.LanceDataset | None) -> Base:
    """The newest version, or an earlier one where readers were taken back from that, of whatever tag.

    A newest version that the job's tag does not mark was either left behind by a run that did not get to publish it, which the
    next run makes up for, or published once and found bad since: then the run builds on what readers have instead.
    """
    if newest is None:
        return Base(None)
    lake, name, tag = spec.table.lake, spec.table.name, spec.publish.tag
    tags = tags_of(newest)
    histories = read_tag_history(lake, name, tags)
    bad, marked = taken_back(histories), None if tag is None else tags.get(tag)
    if newest.version not in bad:
        return Base(newest, unpublished=tag is not None and marked != newest.version)
    back = [tags[found] for found in tags if int(newest.version) in histories[found].taken_back]
    there = {int(found["version"]) for found in newest.versions()}
    earlier = [mark for history in histories.values() for mark in history.marks if mark in there]
    wanted = [[] if marked is None else [marked], sorted(back, reverse=True), sorted(earlier, reverse=True)]
    good = next((version for group in wanted for version in group if version not in bad), None)
    if good is None:
        raise SpecError(
            f"readers were taken back from every version of table '{name}' that a tag marks, and there is none to build on.\n"
            f"  Publish a version that is good after all: latentlake publish {lake.uri} {name} --version N --force --why TEXT"
        )
    log.warning("readers were taken back from version %d: the run builds on version %d", newest.version, good)
    return Base(newest.checkout_version(good), restores=True, unpublished=tag is not None and marked != good)


def describe_plan(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-able values, for `latentlake plan`."""
    changes, spec = plan.changes, plan.spec
    pools = inline_pools(spec, plan.pools, plan.capacity) if plan.runner.name == "inline" else plan.pools
    row_bytes = sum(stored_bytes(e.dtype, e.config.dimension) for e in spec.embed) + 200
    return {
        "job": spec.name,
        "table": f"{spec.table.uri}/{spec.table.name}",
        "mode": spec.table.mode,
        "base_version": plan.base_version,
        "objects": changes.listed,
        "left_out": changes.left_out,
        "to_read": changes.work,
        "bytes_to_read": changes.work_bytes,
        "unchanged": {column: carried.unchanged for column, carried in changes.carried.items()},
        "gone": changes.gone,
        "shards": len(plan.shards),
        "runner": str(plan.runner),
        "stages": [
            {"stage": "read", "decode": spec.modality, "preprocess": [s.op for s in spec.chain.steps]},
            *({"stage": "embed", **pool.to_json()} for pool in pools),
            {"stage": "write", "new_columns": [field.name for field in plan.new_fields]},
            *([{"stage": "deduplicate", **spec.deduplicate.model_dump()}] if spec.deduplicate else ()),
        ],
        "dimensions": {e.column: e.config.dimension for e in spec.embed},
        "fingerprints": fingerprints_of(spec),
        "estimated_mb_written": round(changes.work * row_bytes / 2**20, 1),
    }
