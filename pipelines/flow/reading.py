"""The first stage of the flow: read a shard's objects, decode, preprocess, look up what need not be embedded, prepare."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from latentlake.storage import Storage
from latentlake.stored import PART_TYPES, stored_type
from operators.batch import Batch, ReadError, RowError, Waveform, describe, make_batch, object_array, take_rows
from operators.chain import reject_empty
from operators.embedders.base import EmbedderConfig
from operators.limits import HELD_BYTES
from operators.pulse import beat
from operators.sniff import sniff
from pipelines.flow.columns import place_rows
from pipelines.flow.known import KnownVectors, LookUp, match_rows, open_known, repeats
from pipelines.flow.patience import patient
from pipelines.flow.shard import Origin, Status, bisecting, left_shard, pack, prepared_columns
from pipelines.flow.watchdog import Watchdog
from pipelines.job.spec import JobSpec
from pipelines.planning.budget import is_stopped
from pipelines.planning.schema import parts_of
from pipelines.planning.work import read_work
from pipelines.sources._partitions import read_with_partitions
from pipelines.sources.base import Objects
from pipelines.state.journal import Journal
from pipelines.telemetry.logs import about
from pipelines.values.hashing import canonical_rows

HASH_BYTES = 16
CAREFUL_OBJECTS = 32  # read together where an earlier attempt died
DEATHS_OF_FILE = 3  # rows of a file that kill their processes, before all others of it are given up


@dataclass(frozen=True)
class ReadShard:
    """Reads one shard. Sent to the tasks, so it holds the job and no data."""

    spec: JobSpec
    place: Storage
    fields: tuple[pa.Field, ...]
    reuse_version: int | None  # table version whose vectors may be copied
    rewrites: bool  # objects whose content is unchanged are written again
    patches: bool = False  # of objects that have not changed, only new columns are written
    shards: tuple[int, ...] = ()  # numbers of the shards to read, where it is not all of them
    new: tuple[str, ...] = ()  # columns that no row of the table has a value in
    stoppable: bool = False  # the run has a budget: shards are left once that is spent

    def __call__(self, block: pa.Table) -> pa.Table:
        """Block of one shard number (`id`) to the shard's block."""
        (at,) = block["id"].to_pylist()
        shard = self.shards[at] if self.shards else at
        if self.is_stopped():
            return left_shard(shard)
        with (
            about(shard=shard),
            Journal(self.place, f"{shard:09}-read") as journal,
            Watchdog(journal, self.spec.limits.object_timeout_s),
        ):
            return self.read(shard, read_work(self.place, shard), journal)

    def is_stopped(self) -> bool:
        """Whether shards that nobody has begun are left."""
        return self.stoppable and is_stopped(self.place)

    def read(self, shard: int, work: pa.Table, journal: Journal | None = None, look_up: bool = True) -> pa.Table:
        """Block of the objects of `work`, ready for the models. With a `journal`, objects that killed a process are rejected.

        Without `look_up` the models are to embed all of them, whatever the table holds.
        """
        began = time.time()
        status = Status(shard, listed=work.num_rows)
        known = self._open_known() if look_up else None
        ids = work["object_id"].to_pylist()
        every, parts = np.arange(work.num_rows), []
        if journal is None:
            parts += self._read_unit(work, status, known)
        else:
            faults = faults_of(journal, ids, [] if self.spec.source.uri_is_object else work["uri"].to_pylist())
            every = np.array([row for row in every if row not in faults], dtype=np.int64)
            size = CAREFUL_OBJECTS if journal.careful else max(1, len(every))
            for start in range(0, len(every), size):
                for unit in journal.units(every[start : start + size], ids):
                    parts += self._read_unit(work.take(pa.array(unit)), status, known)
            for fault in dict.fromkeys(faults.values()):
                dead = [row for row, text in faults.items() if text == fault]
                parts += self._read_unit(work.take(pa.array(dead)), status, known, fault)
            parts = parts or self._read_unit(work.slice(0, 0), status, known)
        status.time("read", began)
        return pack(status, pa.concat_tables(parts, promote_options="default"))

    def _read_unit(
        self, work: pa.Table, status: Status, known: KnownVectors | None, fault: str | None = None
    ) -> list[pa.Table]:
        """Rows of some of the shard's objects, in pieces; none is read where they have a `fault`."""
        if fault is None:
            objects = read_with_partitions(self.spec.source, work, list(self.fields))
            beat()
        else:
            nothing = [pa.nulls(work.num_rows, field.type) for field in self.fields]
            objects = Objects([None] * work.num_rows, pa.Table.from_arrays(nothing, schema=pa.schema(self.fields)))
        batch = batch_of(work, objects)
        if fault is not None:
            batch["error"] = np.full(work.num_rows, f"decode: {fault}", dtype=object)
        status.reads += sum(content is not None and not isinstance(content, Exception) for content in objects.contents)
        status.read_bytes += sum(len(c) for c in objects.contents if isinstance(c, bytes | str))
        hash_objects(batch, work, objects, self.spec.source.uri_is_object)
        batch = self._drop_unchanged(batch, status)
        look_up: LookUp = known.look_up if known is not None else lambda hashes, objects: None
        if (
            not self.spec.chain.positions
        ):  # once for all pieces; chunks have hashes of their own, once an object is decoded
            found = look_up(batch["content_hash"].tolist(), batch["object_id"].tolist())
            look_up = lambda hashes, objects: found  # noqa: E731
        pieces = self.spec.chain.pieces(batch, {e.column: e.config for e in self.spec.embed}, HELD_BYTES)

        def finish(piece: Batch) -> pa.Table:
            return self._finish_piece(piece, look_up, work, objects.metadata, status)

        return list(map(finish, pieces))  # unlike a loop, `map` keeps no piece while the next one is made

    def _finish_piece(
        self, batch: Batch, look_up: LookUp, work: pa.Table, metadata: pa.Table, status: Status
    ) -> pa.Table:
        """Rows of objects that are held decoded at once, and have gone through the chain."""
        unchanged = set(batch["object_id"][batch["object_hash"] == batch["base_hash"]].tolist())
        if self.spec.chain.column == "text":
            batch = reject_empty(batch)
        batch = settle_objects(batch, status, work)
        for name in ("content", "error", "filtered"):
            batch.pop(name, None)
        rows = self._rows(batch, work, metadata)
        found = look_up(rows["content_hash"].to_pylist(), rows["object_id"].to_pylist())
        rows = self._look_up(rows, found)
        if self.patches:
            rows, patched = place_rows(rows, found, unchanged)
            status.replaced = [name for name in status.replaced if name not in patched]
        return self._prepare(rows, batch, status)

    def _drop_unchanged(self, batch: Batch, status: Status) -> Batch:
        """Leave out objects whose content is what the table holds; note those of the table that are replaced."""
        same = (batch["object_hash"] == batch["base_hash"]) & (batch["error"] == None)  # noqa: E711 (element-wise)
        if not self.rewrites:
            status.unchanged += int(same.sum())
            batch = take_rows(batch, np.flatnonzero(~same))
        return batch

    def _rows(self, batch: Batch, work: pa.Table, metadata: pa.Table) -> pa.Table:
        """Rows of the table to be, without vectors."""
        count, spec = len(batch["id"]), self.spec
        positions = spec.chain.positions
        pieces = batch[spec.chain.column] if positions else ()
        hashes = [digest(piece_bytes(piece)) for piece in pieces] if positions else batch["content_hash"]
        uris = (
            work["uri"].take(batch["entry"].astype(np.int64))
            if spec.source.uri_is_object
            else pa.nulls(count, pa.string())
        )
        columns: dict[str, Any] = {
            "id": pa.array(batch["id"], pa.string()),
            "object_id": pa.array(batch["object_id"], pa.string()),
            "uri": uris,
            "content_hash": pa.array(hashes, pa.string()),
            "object_hash": pa.array(batch["object_hash"], pa.string()),
        }
        for position in positions:  # an operator that raised on every row has written none, and no row is left
            columns[position.name] = pa.array(batch[position.name] if count else [], position.stored)
        if spec.chain.column == "text":
            columns["text"] = pa.array(batch["text"], pa.string())
        for field in self.fields:
            columns[field.name] = metadata[field.name].take(batch["entry"].astype(np.int64))
        return pa.table(columns)

    def _look_up(self, rows: pa.Table, known: pa.Table | None) -> pa.Table:
        """Add each column's origins, and the vectors that the table, or an earlier row, has for the same content."""
        hashes, objects = rows["content_hash"].to_pylist(), rows["object_id"].to_pylist()
        for embed in self.spec.embed:
            column = embed.column
            at, own = match_rows(known, column, hashes, objects)
            origins = np.where(at < 0, Origin.TO_EMBED, np.where(own, Origin.UNCHANGED, Origin.REUSED)).astype(np.int8)
            repeated = repeats(hashes, origins == Origin.TO_EMBED)
            origins[repeated] = Origin.REUSED
            rows = rows.append_column(f"origin.{column}", pa.array(origins))
            for name in parts_of(self.spec, column):
                vectors = stored_type(embed.dtype, embed.config.dimension)
                kind = vectors if name == column else PART_TYPES[name.removeprefix(column)]
                values = (
                    known[name].combine_chunks().take(pa.array(at, mask=at < 0))
                    if known is not None and name in known.column_names
                    else pa.nulls(rows.num_rows, kind)
                )
                rows = rows.append_column(name, values.cast(kind))
        return rows

    def _open_known(self) -> KnownVectors | None:
        """What the table knows of contents; None where nothing may be copied."""
        if self.reuse_version is None:
            return None
        table = open_known(self.spec.table.lake, self.spec.table.name, self.reuse_version, self.place)
        stored = set(table.schema.names) - set(self.new)
        parts = [parts_of(self.spec, column) for column in self.spec.columns]
        wanted = [names for names in parts if set(names) <= stored]
        return KnownVectors(table, wanted, ["id"] if self.patches else [])

    def _prepare(self, rows: pa.Table, batch: Batch, status: Status) -> pa.Table:
        """Prepare what each model needs, once for models that prepare alike; a row that cannot be is rejected."""
        text = self.spec.chain.column == "text"
        done: set[str] = set()
        for key, embeds in by_preparation(self.spec).items():
            origins = {e.column: rows[f"origin.{e.column}"].to_numpy().copy() for e in embeds}
            wanted = np.flatnonzero(np.any([o == Origin.TO_EMBED for o in origins.values()], axis=0))
            config = embeds[0].config
            bound_s = self.spec.limits.unavailable_timeout_s
            prepared, failures = patient(partial(prepare_rows, config, batch, wanted), bound_s)
            ready = np.array([row for row in wanted if row not in failures], dtype=np.int64)
            for e in embeds:
                for row, reason in failures.items():
                    if origins[e.column][row] == Origin.TO_EMBED:
                        origins[e.column][row] = Origin.REJECTED
                        status.rejects.append(reject(rows, row, e.column, "prepare", reason))
                rows = set_column(rows, f"origin.{e.column}", pa.array(origins[e.column]))
                if text:
                    rows = fill_tokens(rows, e.column, prepared, ready)
            counted = {name: values for name, values in prepared.items() if name not in ("tokens", "truncated")}
            if key not in done:
                for field, array in prepared_columns(counted, key, ready, rows.num_rows).values():
                    rows = rows.append_column(field, array)
            done.add(key)
        return rows


def faults_of(journal: Journal, ids: Sequence[str], files: Sequence[str]) -> dict[int, str]:
    """Why objects must not be worked on, by row. `files` has the file of each where one holds many; else it is empty.

    Where several rows of a file killed their processes, the others of it are not tried: it is the file.
    """
    faults = {row: journal.fault_of(ids[row]) for row in np.flatnonzero(journal.is_dead(ids)).tolist()}
    deaths = Counter(files[row] for row in faults) if files else Counter[str]()
    condemned = {file for file, number in deaths.items() if number >= DEATHS_OF_FILE}
    for row, file in enumerate(files):
        if file in condemned and row not in faults:
            faults[row] = f"not tried: {deaths[file]} other rows of its file hung, or killed their process"
    return faults


def batch_of(work: pa.Table, objects: Objects) -> Batch:
    """Batch of a shard's objects: what could not be read, or was no object, has its error."""
    ids, errors = work["object_id"].to_pylist(), work["error"].to_pylist()
    batch = make_batch(ids, [None if isinstance(c, Exception) else c for c in objects.contents])
    for row, content in enumerate(objects.contents):
        if isinstance(content, Exception):
            # What cannot be read now may be read later; what was read and is not right stays so until it changes.
            unread = isinstance(content, ReadError) or not isinstance(content, RowError)
            stage = "list" if errors[row] else "read" if unread else "parse"
            batch["error"][row] = f"{stage}: {describe(content)}"
    batch["entry"] = np.arange(len(ids))
    batch["base_hash"] = object_array(work["base_hash"].to_pylist())
    return batch


def hash_objects(batch: Batch, work: pa.Table, objects: Objects, with_uri: bool) -> None:
    """Add `content_hash` (of the content alone) and `object_hash` (of all that the source has of the object) to a batch."""
    uris = work["uri"].to_pylist() if with_uri else [None] * work.num_rows
    metadata = {name: objects.metadata[name] for name in objects.metadata.column_names}
    rows = canonical_rows(metadata, work.num_rows) if objects.canonical is None else objects.canonical
    batch["content_hash"] = object_array([digest(content_bytes(content)) for content in batch["content"]])
    batch["object_hash"] = object_array(
        [
            digest(f"{content_hash}\n{uri}\n".encode() + row)
            for content_hash, uri, row in zip(batch["content_hash"], uris, rows, strict=True)
        ]
    )


def content_bytes(content: Any) -> bytes:
    """Content as bytes, whatever a source's content column holds; decoding refuses what is neither bytes nor text."""
    return content if isinstance(content, bytes) else b"" if content is None else str(content).encode(errors="replace")


def piece_bytes(piece: Any) -> bytes:
    """What an object was fanned out to, as bytes: equal pieces have equal bytes."""
    if isinstance(piece, Waveform):
        return f"{piece.rate}:".encode() + piece.samples.tobytes()
    if isinstance(piece, np.ndarray):
        return f"{piece.dtype.str}{piece.shape}:".encode() + piece.tobytes()
    if isinstance(piece, str):
        return piece.encode()
    return f"{piece.mode}{piece.size}:".encode() + bytes(piece.tobytes())  # a picture of Pillow's


def digest(content: bytes) -> str:
    """Hash of a content: blake2b, 128 bits, hex."""
    return hashlib.blake2b(content, digest_size=HASH_BYTES).hexdigest()


def settle_objects(batch: Batch, status: Status, work: pa.Table) -> Batch:
    """Rows of the objects that go on; the others are written to the status.

    The object is the unit: one rejected row rejects it whole, and it is filtered when all of its rows are. An object that
    could not be read may be unchanged for all we know, so the rows that the table has of it stay.
    """
    uris = work["uri"].to_pylist()
    rows_of: dict[str, list[int]] = {}
    for row, object_id in enumerate(batch["object_id"]):
        rows_of.setdefault(object_id, []).append(row)
    kept: list[int] = []
    for object_id, rows in rows_of.items():
        errors = [row for row in rows if batch["error"][row] is not None]
        live = [row for row in rows if batch["error"][row] is None and batch["filtered"][row] is None]
        unread = bool(errors) and batch["error"][errors[0]].startswith(("read:", "list:"))
        if batch["base_hash"][rows[0]] is not None and not unread:
            status.replaced.append(object_id)
        if live and not errors:
            kept += live
            continue
        row, outcome = (errors[0], "error") if errors else (rows[0], "filtered")
        stage, _, reason = batch[outcome][row].partition(": ")
        status.rejects.append(
            {
                "object_id": object_id,
                "uri": uris[int(batch["entry"][row])],
                "column": None,
                "outcome": "rejected" if errors else "filtered",
                "stage": stage,
                "error": reason,
                "sniffed_type": None if batch["content"][row] is None else sniff(content_bytes(batch["content"][row])),
            }
        )
    return take_rows(batch, np.array(kept, dtype=np.int64))


def reject(rows: pa.Table, row: int, column: str, stage: str, reason: str) -> dict[str, Any]:
    """A reject of one row in one vector column."""
    return {
        "object_id": rows["object_id"][row].as_py(),
        "uri": rows["uri"][row].as_py(),
        "column": column,
        "outcome": "rejected",
        "stage": stage,
        "error": reason,
        "sniffed_type": None,
    }


def by_preparation(spec: JobSpec) -> dict[str, list[Any]]:
    """The job's models, grouped by how they prepare a row."""
    groups: dict[str, list[Any]] = {}
    for embed in spec.embed:
        groups.setdefault(embed.config.preparation_key(), []).append(embed)
    return groups


def prepare_rows(config: EmbedderConfig, batch: Batch, wanted: np.ndarray) -> tuple[Batch, dict[int, str]]:
    """Prepare the rows `wanted` of a batch, in that order, without those that cannot be; why these cannot, by row."""
    failures: dict[int, str] = {}
    pieces: list[Batch] = []

    def work(rows: np.ndarray) -> None:
        beat()
        pieces.append(config.prepare(take_rows(batch, rows), "document"))

    def give_up(row: int, failure: Exception) -> None:
        failures[row] = describe(failure)

    bisecting(wanted, work, give_up)
    pieces = [piece for piece in pieces if len(piece["cost"])] or pieces[:1]
    if len(pieces) == 1:
        return pieces[0], failures
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]} if pieces else {}, failures


def fill_tokens(rows: pa.Table, column: str, prepared: Mapping[str, np.ndarray], ready: np.ndarray) -> pa.Table:
    """Write token counts of the prepared rows, and of the rows of the same content."""
    if "tokens" not in prepared:
        return rows
    hashes = rows["content_hash"].to_pylist()
    first = {hashes[row]: at for at, row in reversed(list(enumerate(ready.tolist())))}
    for name, kind in PART_TYPES.items():
        values = rows[column + name].to_pylist()
        made = prepared[name[1:]].tolist()
        filled = [
            made[first[h]] if value is None and h in first else value for value, h in zip(values, hashes, strict=True)
        ]
        rows = set_column(rows, column + name, pa.array(filled, kind))
    return rows


def set_column(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Put values in place of a column, which keeps its place and its field's metadata."""
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, rows.schema.field(index), values)
