"""What a run set out to do, kept in its folder from before the first shard until it has ended: what a crash leaves to go on by."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from latentlake.storage import Storage
from pipelines.hashes import HASH_SCHEME
from pipelines.ledger import WORK_FOLDER, read_runs

MANIFEST = "run.json"
SHARDS_FOLDER = "shards"
SCHEMAS = ("fields", "new_fields", "schema")
RESUMABLE = ("failed", "interrupted")  # states of runs that go on when their job is run again


@dataclass(frozen=True)
class Manifest:
    """A run under way, or one that was and can go on. JSON-able but for the schemas."""

    run_id: str
    table: str
    job: str
    resume_key: str
    state_key: str
    started_at: float  # seconds since the epoch
    base_version: int | None
    version: int | None  # the table's version that the fragments are written for
    listing: str
    retry: dict[str, Any] | None  # see `changes.Retry`
    shards: tuple[int, ...]  # objects of each
    changes: dict[str, Any]
    fields: pa.Schema  # metadata columns
    new_fields: pa.Schema
    schema: pa.Schema  # of the table after the run
    spec: dict[str, Any]
    hash_scheme: int = 1  # see `hashes.HASH_SCHEME`
    maintained: bool = False  # upkeep of the table is under way: all versions after `version` hold the same rows

    @property
    def is_of_this_release(self) -> bool:
        """Whether objects are hashed as the run hashed them: else nobody can go on with it."""
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
        return json.dumps(values | {name: encode_schema(values[name]) for name in SCHEMAS})

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read what `to_json` wrote."""
        value = json.loads(text)
        schemas = {name: decode_schema(value[name]) for name in SCHEMAS}
        return cls(**{**value, **schemas, "shards": tuple(value["shards"])})


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
    """The manifest in a run's folder; None where there is none, or the run died as it was being written."""
    try:
        return Manifest.from_json(place.fs.cat_file(place.path(MANIFEST)))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def unfinished_runs(lake: Storage, table: str) -> Iterator[Manifest]:
    """Runs of a table that are under way or were cut short, newest first."""
    folder = lake.child(WORK_FOLDER, table)
    found = [read_manifest(folder.child(name)) for name in folder.list_names()]
    known = [manifest for manifest in found if manifest is not None]
    yield from sorted(known, key=lambda manifest: manifest.started_at, reverse=True)


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
                "listed": manifest.changes["listed"],
                "embedded": None,
                "rejected": None,
                "shards": f"{len(finished_shards(manifest.place(lake)))}/{len(manifest.shards)}",
                "base_version": manifest.base_version,
                "version": None,
            }
        )
    for line in lines.values():
        report = json.loads(line["report"])
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
