"""What the records of a run's shards add up to. Ids and rejects, which may be many, are kept on local disk."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from latentlake.storage import Storage
from operators.errors import Unreadable
from pipelines.flow.shard import read_record, record_name
from pipelines.publish.pace import Pace
from pipelines.sources.base import in_groups
from pipelines.state.manifest import SHARDS_FOLDER, finished_shards

log = logging.getLogger(__name__)

Record = Mapping[str, Any]
READ_AHEAD = 256  # records fetched at once
PIECE = 10_000  # ids, or rejects, that are held at once


class Tally:
    """A running total over records; a context, because of its files."""

    def __init__(self, columns: Sequence[str], attempt: str) -> None:
        """`attempt` tells the shards that this process made from those it took over: rates are of the first alone."""
        self.columns = columns
        self.attempt = attempt
        self.shards = self.taken_over = self.rows = self.objects_read = self.bytes_read = 0
        self.fragments: list[str] = []
        self.patches: dict[int, list[str]] = {}  # files with new columns of a fragment, by its number
        self.patched = self.replaced = 0
        self.truncated = dict.fromkeys(columns, 0)
        self.embedded = dict.fromkeys(columns, 0)  # rows
        self.embedded_dropped = dict.fromkeys(columns, 0)  # objects that were embedded, and dropped as duplicates
        self.deduplicated: dict[str, Any] | None = None  # what the report says of dropped rows
        self.embedded_now = dict.fromkeys(columns, 0)  # rows, by this attempt
        self.rates: dict[str, dict[str, float]] = {column: {} for column in columns}  # bare rate, by actor
        self.models = {column: Pace() for column in columns}  # of this attempt, as are the next
        self.reading, self.writing = Pace(), Pace()
        self.embedding = {column: Pace() for column in columns}
        self.bytes_now = 0
        self.places: dict[str, dict[str, Any]] = {}  # device, accelerator and threads of an actor of this attempt
        self.actors: dict[str, set[str]] = {column: set() for column in columns}
        self.measured: dict[str, dict[str, float]] = {column: {} for column in columns}  # what models say of themselves
        self.window: tuple[float, float] | None = None
        self._closing = ExitStack()

    def __enter__(self) -> Tally:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ll-tally-")))
            self._ids: IO[str] = stack.enter_context((folder / "ids").open("w+", encoding="utf-8"))
            self._rejects: IO[str] = stack.enter_context((folder / "rejects").open("w+", encoding="utf-8"))
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def add(self, record: Record) -> None:
        """Count one shard's record."""
        status = record["status"]
        self.shards += 1
        self.rows += record["rows"]
        self.objects_read += status["reads"]
        self.bytes_read += status["read_bytes"]
        self.fragments += record["fragments"]
        if (patch := record["patch"]) is not None:
            self.patched += patch["rows"]
            for fragment in patch["fragments"]:
                self.patches.setdefault(fragment, []).append(patch["file"])
        for column in self.columns:
            self.truncated[column] += record["truncated"].get(column, 0)
        now = record["attempt"] == self.attempt
        self.taken_over += not now
        self.bytes_now += status["read_bytes"] if now else 0
        for stage in status["stages"]:
            self._add_stage(stage, now, {"read": status.get("listed", 0), "write": record["rows"]})
        self.replaced += len(status["replaced"])
        self._ids.writelines(json.dumps(name) + "\n" for name in status["replaced"])
        self._rejects.writelines(json.dumps(reject) + "\n" for reject in status["rejects"])

    def count(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records as they are, each counted as it goes by."""
        for record in records:
            self.add(record)
            yield record

    def drop(
        self, fragments: list[str], rows: int, truncated: Mapping[str, int], rejects: Iterable[Mapping[str, Any]]
    ) -> None:
        """Leave out some rows: what the fragments are without them, how many they are, and a reject for each."""
        self.fragments = fragments
        self.rows -= rows
        for column, number in truncated.items():
            self.truncated[column] -= number
        self._rejects.writelines(json.dumps(reject) + "\n" for reject in rejects)

    def replaced_ids(self) -> Iterator[pa.Table]:
        """Objects of the table whose rows the run replaces, in pieces: column `object_id`."""
        for names in in_groups(lines_of(self._ids), PIECE):
            yield pa.table({"object_id": pa.array(names, pa.string())})

    def rejects(self) -> Iterator[list[dict[str, Any]]]:
        """Rejects of the shards, in pieces."""
        yield from in_groups(lines_of(self._rejects), PIECE)

    def _add_stage(self, stage: Mapping[str, Any], now: bool, done: Mapping[str, int]) -> None:
        column = stage.get("column")
        if column is not None:
            self.embedded[column] += stage["rows"]
            self.measured[column] |= stage.get("measured", {})
        if not now:
            return
        seconds = stage["ended"] - stage["began"]
        if stage["stage"] in ("read", "write"):
            began, ended = self.window or (stage["began"], stage["ended"])
            self.window = (min(began, stage["began"]), max(ended, stage["ended"]))
            pace = self.reading if stage["stage"] == "read" else self.writing
            pace.add(stage["began"], seconds, done[stage["stage"]])
        if column is not None:
            self.embedded_now[column] += stage["rows"]
            self.embedding[column].add(stage["began"], seconds, stage["rows"], stage["actor"])
            self.actors[column].add(stage["actor"])
            if stage.get("calibrates", True):  # a service's seconds are not those of a model on this machine
                self.models[column].add(stage["began"], stage["model_s"], stage["rows"], stage["actor"])
            self.places[column] = {name: stage.get(name) for name in ("device", "accelerator", "threads")}
            if stage["bare_rate"]:
                self.rates[column][stage["actor"]] = stage["bare_rate"]


def read_records(run_folder: Storage, shards: Iterable[int]) -> Iterator[Record]:
    """Records of shards, in order, several fetched at once. Raises `Unreadable`."""
    place = run_folder.child(SHARDS_FOLDER)
    with ThreadPoolExecutor(16) as pool:
        for group in in_groups(shards, READ_AHEAD):
            yield from pool.map(lambda shard: read_record(place, shard), group)


def readable_records(run_folder: Storage) -> Iterator[Record]:
    """Records of the finished shards. One that cannot be read is taken away: its shard is done again, its files are orphans."""
    place = run_folder.child(SHARDS_FOLDER)

    def read(shard: int) -> Record | None:
        """A record; None where it was taken away."""
        try:
            return read_record(place, shard)
        except Unreadable as failure:
            log.warning("%s The shard is done again", failure)
            place.remove(record_name(shard))
            return None

    with ThreadPoolExecutor(16) as pool:
        for group in in_groups(finished_shards(run_folder), READ_AHEAD):
            yield from (record for record in pool.map(read, group) if record is not None)


def lines_of(file: IO[str]) -> Iterator[Any]:
    """Values of a file of JSON lines, from its beginning."""
    file.seek(0)
    for line in file:
        yield json.loads(line)
