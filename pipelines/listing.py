"""The listing snapshot: what the source held when the run began, written once, in Parquet parts, before any work."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from latentlake.storage import Storage
from operators.embedders.base import canonical_json
from pipelines.sources.base import LISTING_SCHEMA, KnownFile, SourceConfig

SOURCE_KEY = b"source"  # of a part's schema: how the source was read


def write_listing(source: SourceConfig, known: KnownFile, place: Storage) -> int:
    """List the source into parts below `place`; the number of objects. Raises `SourceError`."""
    rows, mark = 0, {SOURCE_KEY: identity_of(source)}
    for part, piece in enumerate(source.list_objects(known)):
        write_parquet(piece.replace_schema_metadata(mark), place, f"part-{part:06}.parquet")
        rows += piece.num_rows
    return rows


def read_listing(place: Storage) -> pa.Table | None:
    """The listing below `place`, in the order it was listed; None where there is none."""
    try:
        names = sorted(place.fs.ls(place.root, detail=False))
    except FileNotFoundError:
        return None
    parts = [read_parquet(place, name.rsplit("/", 1)[-1]) for name in names if name.endswith(".parquet")]
    return pa.concat_tables(parts) if parts else None


def mark_duplicates(listing: pa.Table) -> pa.Table:
    """Give each later entry of an id that was listed before an id of its own and an error; the first stays."""
    ids = listing["object_id"]
    if pc.count_distinct(ids).as_py() == listing.num_rows:
        return listing
    positions = pa.array(np.arange(listing.num_rows))
    first = pa.table({"id": ids, "row": positions}).group_by("id").aggregate([("row", "min")])
    origin = first["row_min"].take(pc.index_in(ids, first["id"])).to_numpy()
    names, errors = ids.to_pylist(), listing["error"].to_pylist()
    uris, places = listing["uri"].to_pylist(), listing["position"].to_pylist()
    for row in np.flatnonzero(origin != np.arange(listing.num_rows)).tolist():
        errors[row] = f"duplicate id '{names[row]}', first in {uris[origin[row]]} at {places[origin[row]]}"
        names[row] = f"{uris[row]}:{places[row]}"
    return listing.set_column(0, LISTING_SCHEMA.field("object_id"), [pa.array(names, pa.string())]).set_column(
        LISTING_SCHEMA.get_field_index("error"), LISTING_SCHEMA.field("error"), [pa.array(errors, pa.string())]
    )


def identity_of(source: SourceConfig) -> bytes:
    """What decides which entries a file of the source has: its id column, say."""
    return canonical_json(source.identity()).encode()


def known_files(listing: pa.Table | None, source: SourceConfig) -> KnownFile:
    """A look-up of a previous listing's entries by file and version. The entries of one file stand together.

    It knows nothing where the job now reads the source otherwise, by another id column for instance.
    """
    if (
        listing is None
        or not listing.num_rows
        or (listing.schema.metadata or {}).get(SOURCE_KEY) != identity_of(source)
    ):
        return lambda uri, version: None
    uris = listing["uri"].combine_chunks().dictionary_encode()
    codes = uris.indices.to_numpy()
    edges = np.flatnonzero(np.diff(codes)) + 1
    starts, stops = np.concatenate([[0], edges]), np.concatenate([edges, [len(codes)]])
    places = {uris.dictionary[int(codes[a])].as_py(): (int(a), int(b)) for a, b in zip(starts, stops, strict=True)}

    def known(uri: str, version: str) -> pa.Table | None:
        if uri not in places:
            return None
        start, stop = places[uri]
        entries = listing.slice(start, stop - start)
        return entries if entries["version"][0].as_py() == version else None

    return known


def write_parquet(table: pa.Table, place: Storage, name: str) -> None:
    """Write one Parquet file below a place."""
    place.fs.makedirs(place.root, exist_ok=True)
    with place.fs.open(place.path(name), "wb") as file:
        pq.write_table(table, file)


def read_parquet(place: Storage, name: str) -> pa.Table:
    """Read one Parquet file below a place."""
    with place.fs.open(place.path(name), "rb") as file:
        return pq.read_table(file)
