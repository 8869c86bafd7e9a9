"""What reads a damaged file, as a run would, and what must hold then. All of it runs in a child, which a file may end."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from corpus import CORPUS, METADATA
from mutations import mutate

from operators.batch import make_batch
from operators.chain import Chain, reject_empty
from operators.errors import LatentLakeError, SpecError
from operators.limits import HELD_BYTES
from pipelines.flow.reading import batch_of, hash_objects
from pipelines.sources import source_class
from pipelines.sources._tables import TableSource, scan_file, types_of_files
from pipelines.sources.base import LISTING_SCHEMA, as_listing
from pipelines.sources.files import walk_files

CPU_S = 20.0  # that one small file may take
MEMORY_MB = 1000  # that one small file may add to the highest there was
# A page of Parquet says how large it is, up to 2 GiB, and Arrow takes that much before it finds that it is not so. It
# holds a page of two columns at once: the one that it reads, and the one that it has read.
PAGES_MB = 2 * 2048
TABLES = ("parquet", "jsonl", "csv")


def damaged(kind: str, seed: int) -> bytes:
    """The file of a seed."""
    random = Random(f"{kind} {seed}")
    return mutate(random, CORPUS[kind](random), CORPUS[kind](random))


def play(kind: str, seeds: range) -> Iterator[tuple[str, int, str]]:
    """("begin", seed, ""), and ("fault", seed, why) where something did not hold, for each seed."""
    for seed in seeds:
        yield "begin", seed, ""
        content = damaged(kind, seed)
        cpu, memory = time.process_time(), peak_mb()
        try:
            fault = try_table(kind, content) if kind in TABLES else try_object(kind, content)
        except Exception as failure:  # that is what is looked for
            fault = f"{type(failure).__name__} came out: {failure}"
        if (took := time.process_time() - cpu) > CPU_S:
            fault = f"it took {took:.0f} s of CPU"
        if (grew := peak_mb() - memory) > MEMORY_MB + PAGES_MB * (kind == "parquet"):
            fault = f"it took {grew:.0f} MB"
        if fault:
            yield "fault", seed, fault


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def try_object(modality: str, content: bytes) -> str | None:
    """Decode one object: a row or a reject; what did not hold."""
    batch = make_batch(["a"], [content])
    chain = Chain(modality)
    (batch,) = chain.pieces(batch, {}, HELD_BYTES)
    if chain.column == "text":
        batch = reject_empty(batch)
    error, value = batch["error"][0], batch[chain.column][0]
    if (error is None) == (value is None) and error is None:
        return "neither a row nor a reject"
    return None if error is None or len(error) < 400 else f"a reason of {len(error)} characters"


def try_table(kind: str, content: bytes) -> str | None:
    """List and read a file of rows, and tell its types; what did not hold."""
    with tempfile.TemporaryDirectory(prefix="ll-fuzz-") as folder:
        (Path(folder) / f"a.{kind}").write_bytes(content)
        source: Any = source_class(kind)(kind=kind, uri=folder, id="id", content="text", metadata=METADATA)
        try:
            return read_table(source)
        except LatentLakeError as failure:  # the job names a column that this file lacks, or has in another type
            return None if isinstance(failure, SpecError) or "has no column" in str(failure) else f"refused: {failure}"


def read_table(source: TableSource) -> str | None:
    """See `try_table`; raises our errors where the file does not suit the job."""
    (found,) = walk_files(source.storage)
    pieces = [piece for piece in scan_file(source, found) if piece is not None]
    listing = pa.concat_tables(pieces) if pieces else as_listing([])
    if not listing.schema.equals(LISTING_SCHEMA) or listing["object_id"].null_count:
        return "a listing of another schema"
    readable = [
        name for name, error in zip(listing["uri"].to_pylist(), listing["error"].to_pylist(), strict=True) if not error
    ]
    told = types_of_files(source, readable[:1])
    types = {name: told.get(name) or pa.string() for name in source.metadata_names}
    fields = [pa.field(name, kind) for name, kind in types.items()]
    objects = source.read_objects(listing, fields)
    if len(objects.contents) != listing.num_rows or objects.metadata.num_rows != listing.num_rows:
        return f"{listing.num_rows} objects listed, {len(objects.contents)} read"
    objects.metadata.validate(full=True)
    work = listing.append_column("base_hash", pa.nulls(listing.num_rows, pa.string()))
    batch = batch_of(work, objects)
    hash_objects(batch, work, objects, source.uri_is_object)
    batch = Chain("text").run(batch, {})
    outcomes = [error is None and value is None for error, value in zip(batch["error"], batch["text"], strict=True)]
    return "neither a row nor a reject" if any(outcomes) else None
