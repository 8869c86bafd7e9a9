"""Objects that a user deleted for good: what the next run must not bring back. Kept beside the table, as salted hashes of ids."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from latentlake.formats import StoredFormat
from latentlake.storage import Storage

FORGOTTEN_FILE = "forgotten.json"  # in a table's folder of work
PENDING_FILE = "deleting.json"  # beside it, while a deletion is under way: the ids themselves, to finish after a crash
FORGOTTEN = (
    "forgotten"  # error of the entry of such an object in a listing; it is counted beside the objects, and is none
)


class Shape(TypedDict):
    """The file of `Forgotten`."""

    salt: str
    hashes: list[str]


FORMAT, ADAPTER = StoredFormat("the list of deleted objects"), TypeAdapter(Shape)


@dataclass(frozen=True)
class Forgotten:
    """The deleted objects of a table. Nobody reads an id from it, but anyone who has an id can ask whether it is there."""

    salt: str
    hashes: frozenset[str] = frozenset()

    def hash_of(self, object_id: str) -> str:
        """The name that stands for an object: 32 hex digits."""
        return hashlib.sha256(f"{self.salt}:{object_id}".encode()).hexdigest()[:32]

    def with_objects(self, ids: Iterable[str]) -> Forgotten:
        """The same with more objects."""
        return Forgotten(self.salt, self.hashes | {self.hash_of(name) for name in ids})

    def without_objects(self, ids: Iterable[str]) -> Forgotten:
        """The same with fewer objects."""
        return Forgotten(self.salt, self.hashes - {self.hash_of(name) for name in ids})

    def mask(self, listing: pa.Table, own_files: bool) -> pa.Table:
        """A piece of a listing in which the entry of a deleted object tells nothing about it but that it is deleted.

        `own_files`: each object is a file of its own, so that an entry's address is the object's.
        """
        if not self.hashes or not listing.num_rows:
            return listing
        names = [self.hash_of(name) for name in listing["object_id"].to_pylist()]
        if not any(name in self.hashes for name in names):
            return listing
        rows = listing.to_pylist()
        for row, name in zip(rows, names, strict=True):
            if name in self.hashes:
                row |= {"object_id": name, "error": FORGOTTEN}
                row |= {"uri": None, "version": None, "size": None} if own_files else {}
        return pa.Table.from_pylist(rows, schema=listing.schema)


def read_forgotten(place: Storage) -> Forgotten:
    """The deleted objects of a table, by its folder of work. Raises `Unreadable`."""
    try:
        text = place.fs.cat_file(place.path(FORGOTTEN_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return Forgotten(secrets.token_hex(16))
    values = FORMAT.check(ADAPTER, FORMAT.read(text))
    return Forgotten(values["salt"], frozenset(values["hashes"]))


def write_forgotten(place: Storage, forgotten: Forgotten) -> None:
    """Keep the deleted objects of a table. The table must be held."""
    values = {"salt": forgotten.salt, "hashes": sorted(forgotten.hashes)}
    place.put(FORGOTTEN_FILE, FORMAT.write(values).encode())
