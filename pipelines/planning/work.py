"""A run's work, in its folder: the objects of each shard, and the objects that are gone. Streamed both ways."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentlake.storage import Storage
from pipelines.job.spec import JobSpec, ShardSpec
from pipelines.planning.changes import WORK_SCHEMA

LEAST = 64  # objects of a shard, where there are so many
ALONE = 4  # shards of a run with one actor, where their bounds do not make it more
SHARDS_A_PART = 1000  # shards (row groups) of one file of work
WORK, GONE, LEFT = "work", "gone.parquet", "left.parquet"  # in a run's folder


def write_work(place: Storage, work: Iterator[pa.Table], total: int, spec: JobSpec, parallel: int) -> Iterator[int]:
    """Cut the work, of `total` objects, into shards, and write it: one row group per shard; the number of objects of each.

    For `parallel` actors at most.
    """
    by_key = {embed.config.preparation_key(): embed.config.prepared_bytes() for embed in spec.embed}
    waiting = WORK_SCHEMA.empty_table()

    def sizes() -> Iterator[np.ndarray]:
        nonlocal waiting
        for piece in work:
            waiting = pa.concat_tables([waiting, piece])
            yield piece["size"].fill_null(0).to_numpy()

    folder = place.child(WORK)
    shards = cut_shards(sizes(), total, spec.shard, sum(by_key.values()), parallel)
    for part, first in enumerate(shards):
        folder.fs.makedirs(folder.root, exist_ok=True)
        with (
            folder.fs.open(folder.path(part_name(part * SHARDS_A_PART)), "wb") as file,
            pq.ParquetWriter(file, WORK_SCHEMA) as writer,
        ):
            for rows in chain([first], islice(shards, SHARDS_A_PART - 1)):
                writer.write_table(waiting.slice(0, rows), row_group_size=rows)
                waiting = waiting.slice(rows)
                yield rows


def read_work(place: Storage, shard: int) -> pa.Table:
    """The work of one shard."""
    work = place.child(WORK)
    with work.fs.open(work.path(part_name(shard)), "rb") as file:
        return pq.ParquetFile(file).read_row_group(shard % SHARDS_A_PART)


def read_work_ids(place: Storage) -> Iterator[pa.Table]:
    """Ids of the objects of a run's work, in pieces."""
    for name in place.child(WORK).list_names():
        yield from read_ids(place.child(WORK), name)


def part_name(shard: int) -> str:
    """Name of the file that holds a shard's work."""
    return f"part-{shard // SHARDS_A_PART:06}.parquet"


def write_ids(place: Storage, name: str, pieces: Iterator[pa.Table]) -> None:
    """Write a column `object_id` below a place; no file where there are no ids."""
    first = next(pieces, None)
    if first is None:
        return
    place.fs.makedirs(place.root, exist_ok=True)
    with place.fs.open(place.path(name), "wb") as file, pq.ParquetWriter(file, first.schema) as writer:
        for piece in chain([first], pieces):
            writer.write_table(piece)


def read_ids(place: Storage, name: str) -> Iterator[pa.Table]:
    """What `write_ids` wrote, in pieces."""
    if not place.fs.exists(place.path(name)):
        return
    with place.fs.open(place.path(name), "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=["object_id"]):
            yield pa.Table.from_batches([batch])


def cut_shards(
    sizes: Iterator[np.ndarray], total: int, spec: ShardSpec, prepared_bytes: int, parallel: int
) -> Iterator[int]:
    """Cut work into shards: the number of objects of each, in order. Looks no further ahead than a shard and a piece.

    `sizes` are the objects' bytes, int64 (n,) a piece, `total` of them. A shard holds at most `spec.max_objects` objects and
    `spec.max_mb`, read or prepared. Towards the end shards get smaller (guided self-scheduling: a share of what is left
    over the `parallel` actors), so that no actor works long alone. One that is alone has few and equal ones: each costs a look
    at the table, and lets a run that is cut short resume behind it.
    """
    limit = spec.max_mb * 2**20
    most = max(1, min(spec.max_objects, limit // max(1, prepared_bytes)))
    ahead, left = np.zeros(0, dtype=np.int64), total
    while left:
        share = -(-total // ALONE) if parallel == 1 else -(-2 * left // (3 * parallel))
        wanted = min(left, most, max(LEAST, share))
        while len(ahead) < wanted:
            ahead = np.concatenate([ahead, next(sizes)])
        rows = max(1, int(np.searchsorted(np.cumsum(ahead[:wanted]), limit, side="right")))
        yield rows
        ahead, left = ahead[rows:], left - rows
