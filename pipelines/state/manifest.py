"""What a run set out to do, kept in its folder from before the first shard until it has ended: what a crash leaves to go on by."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import ConfigDict, TypeAdapter

from latentlake.formats import StoredFormat
from latentlake.storage import Storage
from operators.errors import Unreadable
from pipelines.job.spec import with_todays_keys
from pipelines.state.ledger import WORK_FOLDER, read_report, read_runs
from pipelines.values.hashing import HASH_SCHEME

MANIFEST = "run.json"
SHARDS_FOLDER = "shards"
DECISION, DUPLICATES = "deduplicated.json", "duplicates.parquet"  # see `publish.deduplicate`
SCHEMAS = ("fields", "new_fields", "schema")
RESUMABLE = ("failed", "interrupted")  # states of runs that go on when their job is run again


@dataclass(frozen=True)
class Carried:
    """Objects that are counted without being read, for one column."""

    unchanged: int = 0
    rejected: int = 0
    filtered: int = 0


@dataclass(frozen=True)
class Changes:
    """How much is to be done, and what is carried over from the version that the run builds on."""

    listed: int
    work: int  # entries to read
    work_bytes: int  # as far as the listing knows
    carried: dict[str, Carried]  # by vector column
    gone: int  # objects that are in the table and no longer in the source
    in_table: int  # objects of the table
    left: int  # objects that have a reject and are no longer in the source
    left_out: int = 0  # files that are left out by their names, and are no objects
    forgotten: int = 0  # objects that a user deleted for good, and that the source still lists
    unlisted: int = 0  # files that hold nobody knows which objects: what is gone cannot be told

    @property
    def gone_share(self) -> float:
        """Share of the table's objects that are gone from the source."""
        return self.gone / self.in_table if self.in_table else 0.0


@dataclass(frozen=True)
class Retry:
    """Do again what was rejected: at any stage (None), or what was rejected or filtered at one."""

    stage: str | None


@dataclass(frozen=True)
class Manifest:
    """A run under way, or one that was and can go on. JSON-able but for the schemas."""

    # A field that is not known here is refused: without it the run might be resumed wrongly.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    run_id: str
    table: str
    job: str
    resume_key: str
    state_key: str
    started_at: float  # seconds since the epoch
    base_version: int | None
    version: int | None  # the table's version that the fragments are written for
    listing: str
    retry: Retry | None
    shards: tuple[int, ...]  # objects of each
    changes: Changes
    fields: pa.Schema  # metadata columns
    new_fields: pa.Schema
    schema: pa.Schema  # of the table after the run
    spec: dict[str, Any]
    hash_scheme: int = 1  # see `values.hashing.HASH_SCHEME`
    maintained: bool = False  # upkeep of the table is under way: all versions after `version` hold the same rows

    @property
    def is_of_this_release(self) -> bool:
        """Whether objects are hashed as the run hashed them: else nobody can resume it."""
        return self.hash_scheme == HASH_SCHEME

    def place(self, lake: Storage) -> Storage:
        """The run's folder."""
        return lake.child(WORK_FOLDER, self.table, self.run_id)

    def under_maintenance(self) -> Manifest:
        """The same run, while the table is given versions that hold the same rows."""
        return replace(self, maintained=True)

    def at_version(self, version: int) -> Manifest:
        """The same run on another version of the table, which holds the same rows."""
        return replace(self, version=version, maintained=False)

    def to_json(self) -> str:
        """JSON that `from_json` reads."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"changes": asdict(self.changes), "retry": None if self.retry is None else asdict(self.retry)}
        return FORMAT.write(values | {name: encode_schema(values[name]) for name in SCHEMAS})

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read what `to_json`, of this release or an earlier one, wrote. Raises `Unreadable`."""
        values = FORMAT.read(text)
        try:
            schemas = {name: decode_schema(values[name]) for name in SCHEMAS}
        except (KeyError, TypeError, ValueError, OSError, pa.ArrowException) as failure:
            raise Unreadable(f"{FORMAT.what} holds no schema of the table: {failure!r}.") from failure
        return FORMAT.check(ADAPTER, {**values, **schemas})


def with_todays_job(values: dict[str, Any]) -> dict[str, Any]:
    """A manifest of format 1 with the keys of its job as they are called now."""
    job = values.get("spec")
    return values | {"spec": with_todays_keys(job)} if isinstance(job, dict) else values


FORMAT = StoredFormat("the manifest of the run", 2, {1: with_todays_job})
ADAPTER = TypeAdapter(Manifest)


def encode_schema(schema: pa.Schema) -> str:
    """An Arrow schema as text."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def decode_schema(text: str) -> pa.Schema:
    """The inverse of `encode_schema`."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def write_manifest(lake: Storage, manifest: Manifest) -> None:
    """Write a run's manifest: from now on it can be resumed."""
    manifest.place(lake).put(MANIFEST, manifest.to_json().encode())


def read_manifest(place: Storage) -> Manifest | None:
    """The manifest in a run's folder; None where there is none. Raises `Unreadable`: the run died as it was being written, or
    it is of another release, or another run's."""
    try:
        manifest = Manifest.from_json(place.fs.cat_file(place.path(MANIFEST)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not place.uri.endswith(f"/{manifest.table}/{manifest.run_id}"):
        raise Unreadable(f"{FORMAT.what} is that of run '{manifest.run_id}' of table '{manifest.table}'.")
    return manifest


def unfinished_runs(lake: Storage, table: str) -> Iterator[Manifest]:
    """Runs of a table that are under way or were cut short, newest first; without those that `unreadable_runs` gives."""
    known = [manifest for _, manifest in read_manifests(lake, table) if isinstance(manifest, Manifest)]
    yield from sorted(known, key=lambda manifest: manifest.started_at, reverse=True)


def unreadable_runs(lake: Storage, table: str) -> dict[str, str]:
    """Runs of a table that were cut short and cannot be resumed, as their manifest cannot be read: why, by run id."""
    return {name: str(why) for name, why in read_manifests(lake, table) if isinstance(why, Unreadable)}


def read_manifests(lake: Storage, table: str) -> Iterator[tuple[str, Manifest | Unreadable]]:
    """The manifest in each folder of a run that has one, or what keeps it from being read."""
    folder = lake.child(WORK_FOLDER, table)
    for name in folder.list_names():
        try:
            manifest = read_manifest(folder.child(name))
        except Unreadable as failure:
            yield name, failure
        else:
            if manifest is not None:
                yield name, manifest


def settle_maintenance(lake: Storage, table: str, newest: int) -> None:
    """Move the unfinished runs that upkeep was told of to the version that it made, also where it died. The table must be held.

    Whoever holds the table calls it before all else, so that no other change can come between.
    """
    for manifest in unfinished_runs(lake, table):
        if manifest.maintained:
            write_manifest(lake, manifest.at_version(newest))


def finished_shards(place: Storage) -> list[int]:
    """Numbers of the shards that have left a record in a run's folder, ascending."""
    return [
        int(name.removesuffix(".json")) for name in place.child(SHARDS_FOLDER).list_names() if name.endswith(".json")
    ]


def described_runs(lake: Storage, table: str, running: bool) -> list[dict[str, Any]]:
    """The runs of a table for people, newest first; with `running` the newest unfinished one is under way."""
    lines = {line["run_id"]: line for line in read_runs(lake, table)}
    found: list[dict[str, Any]] = []
    for manifest in unfinished_runs(lake, table):
        line = lines.pop(manifest.run_id, None)
        able = "resumable" if manifest.is_of_this_release else "not resumable"
        state = "running" if running and not found else f"{line['state'] if line else 'killed'}, {able}"
        found.append(
            {
                "run_id": manifest.run_id,
                "job": manifest.job,
                "state": state,
                "started_at": datetime.fromtimestamp(manifest.started_at, UTC).isoformat(timespec="seconds"),
                "listed": manifest.changes.listed,
                "embedded": None,
                "rejected": None,
                "shards": f"{len(finished_shards(manifest.place(lake)))}/{len(manifest.shards)}",
                "base_version": manifest.base_version,
                "version": None,
            }
        )
    for name in unreadable_runs(lake, table):
        line = lines.pop(name, None) or {"state": "killed", "job": None}
        found.append(
            {
                "run_id": name,
                "job": line["job"],
                "state": f"{line['state']}, not resumable",
                "started_at": started_at(name),
                **dict.fromkeys(["listed", "embedded", "rejected", "shards", "base_version", "version"]),
            }
        )
    for line in lines.values():
        report = read_report(line["report"])
        counts = report.get("counts", {})
        found.append(
            {
                "run_id": line["run_id"],
                "job": line["job"],
                "state": line["state"],
                "started_at": line["started_at"].isoformat(timespec="seconds"),
                **{name: counts.get(name) for name in ("listed", "embedded", "rejected")},
                "shards": f"{report['shards']}/{report['shards']}" if "shards" in report else "",
                "base_version": line["base_version"],
                "version": line["version"],
            }
        )
    return sorted(found, key=lambda run: (run["started_at"], run["run_id"]), reverse=True)


def started_at(run_id: str) -> str:
    """When a run began, by its name; empty where the name does not tell."""
    try:
        began = datetime.strptime(run_id[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return ""
    return began.isoformat(timespec="seconds")
