"""The rows that a run has written and not yet committed: read, and written again without some of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.file import LanceFileReader

from pipelines.flow.shard import Origin
from pipelines.flow.writing import count_truncated, write_mode, write_rows
from pipelines.planning.plan import Plan
from pipelines.publish.tally import Record, read_records
from pipelines.state.manifest import finished_shards

KEYS = ["id", "object_id", "uri"]
BATCH_ROWS = 4096


def read_fragment(plan: Plan, text: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Rows of a fragment (JSON) that the run wrote, and that no version has."""
    (file,) = json.loads(text)["files"]
    data = plan.spec.table.lake.child(f"{plan.spec.table.name}.lance", "data")
    asked = None if columns is None else list(columns)
    reader = LanceFileReader(f"{data.lance_uri}/{file['path']}", columns=asked, **data.lance_arguments)
    yield from reader.read_all(batch_size=BATCH_ROWS).to_batches()


@dataclass
class Written:
    """What is left of a run's fragments, and what was lost."""

    fragments: list[str]
    keys: pa.Table  # `KEYS` and `number` of the rows that are gone, and of others that were asked for, ascending
    truncated: dict[str, int]  # of the rows that are gone, those with more text than the model takes, by vector column
    filtered: dict[str, dict[str, int]]  # by vector column, how many objects of an outcome lost all of their rows
    objects: int = 0  # that lost all of their rows


def drop_rows(plan: Plan, gone: np.ndarray, named: np.ndarray) -> Written:
    """Write the fragments that hold the rows `gone` again without them, shard by shard. Nothing is committed.

    Rows are told by their numbers through all fragments, ascending. The keys of those in `named` are given too.
    """
    columns, named = plan.spec.columns, np.union1d(gone, named)
    schema = pa.schema([*(plan.schema.field(name) for name in KEYS), pa.field("number", pa.int64())])
    written = Written([], schema.empty_table(), dict.fromkeys(columns, 0), {column: {} for column in columns})
    keys, start = [written.keys], 0
    for record in read_records(plan.place, finished_shards(plan.place)):
        lost, kept = set[str](), set[str]()
        sizes = [int(json.loads(text)["physical_rows"]) for text in record["fragments"]]
        if not len(within(named, start, sum(sizes))):
            written.fragments += record["fragments"]
            start += sum(sizes)
            continue
        for text, rows in zip(record["fragments"], sizes, strict=True):
            here, asked = (within(numbers, start, rows) for numbers in (gone, named))
            written.fragments += write_without(plan, text, here, written.truncated) if len(here) else [text]
            read = pa.Table.from_batches(list(read_fragment(plan, text, KEYS))).select(KEYS)
            keys.append(read.take(pa.array(asked)).append_column("number", pa.array(asked + start)).cast(schema))
            dropped, objects = pa.array(np.isin(np.arange(rows), here)), read["object_id"]
            lost |= set(objects.filter(dropped).to_pylist())
            kept |= set(objects.filter(pc.invert(dropped)).to_pylist())
            start += rows
        count_lost(record, lost - kept, columns, written)
    written.keys = pa.concat_tables(keys)
    return written


def within(numbers: np.ndarray, start: int, rows: int) -> np.ndarray:
    """Of ascending numbers those from `start` on, `rows` at most, counted from there."""
    first, last = np.searchsorted(numbers, [start, start + rows])
    return numbers[first:last] - start


def write_without(plan: Plan, text: str, dropped: np.ndarray, truncated: dict[str, int]) -> list[str]:
    """Write a fragment again without the rows at some places, in batches; what is dropped is counted in `truncated`."""
    place = plan.spec.table.lake.child(f"{plan.spec.table.name}.lance")

    def kept() -> Iterator[pa.RecordBatch]:
        """The rows that stay."""
        start = 0
        for batch in read_fragment(plan, text):
            rows = pa.Table.from_batches([batch])
            out = pa.array(np.isin(np.arange(start, start + len(rows)), dropped))
            start += len(rows)
            for name, number in count_truncated(rows.filter(out), plan.spec.columns).items():
                truncated[name] += number
            yield from rows.filter(pc.invert(out)).select(plan.schema.names).cast(plan.schema).to_batches()

    batches = kept()
    first = next(batches, None)
    if first is None:  # every row is dropped, and Lance writes no fragment without rows
        return []
    reader = pa.RecordBatchReader.from_batches(plan.schema, chain([first], batches))
    return write_rows(place, reader, plan.schema, write_mode(plan))


def count_lost(record: Record, objects: set[str], columns: Sequence[str], written: Written) -> None:
    """Count a shard's objects that lost all of their rows. One that a column rejected stays rejected there."""
    written.objects += len(objects)
    for name in objects:
        for column, fate in zip(columns, record["fates"][name], strict=True):
            outcome = Origin(fate).name.lower()
            if fate != Origin.REJECTED:
                counts = written.filtered[column]
                counts[outcome] = counts.get(outcome, 0) + 1
