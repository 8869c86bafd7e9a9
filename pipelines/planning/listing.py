"""The listing snapshot: what the source held when the run began, written once, in Parquet parts, before any work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from latentlake.storage import Storage
from operators.embedders.base import canonical_json
from pipelines.sources.base import LISTING_ROWS, KnownFile, SourceConfig
from pipelines.state.forgotten import Forgotten

SOURCE_KEY = b"source"  # of a part's schema: how the source was read


def write_listing(source: SourceConfig, known: KnownFile, place: Storage, forgotten: Forgotten | None = None) -> int:
    """List the source into parts below `place`; the number of entries. Raises `SourceError`.

    The entries of `forgotten` objects are masked: nothing about such an object is written.
    """
    rows, mark = 0, {SOURCE_KEY: identity_of(source)}
    for part, listed in enumerate(gathered(source.list_objects(known))):
        piece = listed if forgotten is None else forgotten.mask(listed, source.uri_is_object)
        write_parquet(piece.replace_schema_metadata(mark), place, f"part-{part:06}.parquet")
        rows += piece.num_rows
    return rows


def gathered(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of pieces, up to `LISTING_ROWS` together: a source of many small files has a piece for each."""
    waiting: list[pa.Table] = []
    rows = 0
    for piece in pieces:
        if waiting and rows + piece.num_rows > LISTING_ROWS:
            yield pa.concat_tables(waiting)
            waiting, rows = [], 0
        waiting.append(piece)
        rows += piece.num_rows
    if waiting:
        yield pa.concat_tables(waiting)


def write_sample(whole: Storage, rows: int, count: int, place: Storage) -> tuple[int, int]:
    """Write `count` entries of the listing below `whole`, of `rows`, spread evenly over it, as a listing below `place`.

    Gives the entries of the whole, and their bytes as far as the listing knows. No later run takes entries of a file from a sample.
    """
    chosen = np.unique(np.linspace(0, rows - 1, min(count, rows)).astype(np.int64)) if rows else np.zeros(0, np.int64)
    first, size = 0, 0
    for part, piece in enumerate(read_listing(whole) or ()):
        size += int(pc.sum(piece["size"]).as_py() or 0)
        here = chosen[(chosen >= first) & (chosen < first + piece.num_rows)] - first
        first += piece.num_rows
        if len(here):
            kept = piece.take(pa.array(here)).replace_schema_metadata({SOURCE_KEY: b"sample"})
            write_parquet(kept, place, f"part-{part:06}.parquet")
    return rows, size


def read_listing(place: Storage) -> Iterator[pa.Table] | None:
    """Stream the listing below `place`, in the order it was listed, by at most `LISTING_ROWS` rows; None if there is none."""
    parts = part_names(place)
    return (piece for name in parts for piece in read_pieces(place, name)) if parts else None


def part_names(place: Storage) -> list[str]:
    """Names of a listing's parts, in order."""
    return [name for name in place.list_names() if name.endswith(".parquet")]


def read_pieces(place: Storage, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Stream one part, in order."""
    with place.fs.open(place.path(name), "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(LISTING_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])


def identity_of(source: SourceConfig) -> bytes:
    """What decides which entries a file of the source has: its id column, say."""
    return canonical_json(source.identity()).encode()


def known_files(place: Storage | None, source: SourceConfig) -> KnownFile:
    """A look-up of a previous listing's entries by file and version. The entries of one file stand together.

    It knows nothing if the job now reads the source otherwise, by another id column for instance, or where an object
    is a file of its own, for which nobody asks. Holds where each file's entries lie, and one part.
    """
    parts = [] if place is None or source.uri_is_object else part_names(place)
    if place is None or not parts or read_mark(place, parts[0]) != identity_of(source):
        return lambda uri, version: None
    return KnownFiles(place, index_files(place, parts))


@dataclass
class Stretch:
    """Where the entries of one file lie: ranges of rows of parts."""

    version: str | None
    ranges: list[tuple[str, int, int]] = field(default_factory=list)  # part, start, stop


@dataclass
class KnownFiles:
    """See `known_files`. Listings are asked for in their own order, so the part that was read last is kept."""

    place: Storage
    index: dict[str, Stretch]  # by uri
    last: tuple[str, pa.Table] | None = None

    def __call__(self, uri: str, version: str) -> Iterator[pa.Table] | None:
        stretch = self.index.get(uri)
        if stretch is None or stretch.version != version:
            return None
        return (self._part(name).slice(start, stop - start) for name, start, stop in stretch.ranges)

    def _part(self, name: str) -> pa.Table:
        if self.last is None or self.last[0] != name:
            self.last = name, read_parquet(self.place, name)
        return self.last[1]


def read_mark(place: Storage, name: str) -> bytes | None:
    """How the source was read when a part was written."""
    with place.fs.open(place.path(name), "rb") as file:
        mark: bytes | None = (pq.ParquetFile(file).schema_arrow.metadata or {}).get(SOURCE_KEY)
    return mark


def index_files(place: Storage, parts: list[str]) -> dict[str, Stretch]:
    """Where the entries of each file lie, by its uri."""
    index: dict[str, Stretch] = {}
    latest = None
    for name in parts:
        row = 0
        for piece in read_pieces(place, name, columns=["uri", "version"]):
            for start, stop in stretches(piece["uri"]):
                uri = piece["uri"][start].as_py()
                if uri != latest:
                    index[uri] = Stretch(piece["version"][start].as_py())
                index[uri].ranges.append((name, row + start, row + stop))
                latest = uri
            row += piece.num_rows
    return index


def stretches(values: pa.ChunkedArray) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of equal values."""
    codes = values.combine_chunks().dictionary_encode().indices.to_numpy()
    edges = (np.flatnonzero(np.diff(codes)) + 1).tolist()
    return zip([0, *edges], [*edges, len(codes)], strict=True)


def write_parquet(table: pa.Table, place: Storage, name: str) -> None:
    """Write one Parquet file below a place."""
    place.fs.makedirs(place.root, exist_ok=True)
    with place.fs.open(place.path(name), "wb") as file:
        pq.write_table(table, file)


def read_parquet(place: Storage, name: str) -> pa.Table:
    """Read one Parquet file below a place."""
    with place.fs.open(place.path(name), "rb") as file:
        return pq.read_table(file)
