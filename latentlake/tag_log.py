"""Every move of a table's tags: who moved which, when, why, from where to where. See ADR 10.

The log lies in the table's folder of work, one small object per move. Writers hold the table's lease; readers need nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter

from latentlake.formats import StoredFormat
from latentlake.storage import Storage
from operators.errors import Unreadable

log = logging.getLogger(__name__)

WORK_FOLDER = "_latentlake"  # of a lake: what writers keep beside its tables, in a folder per table
LOG_FOLDER = ("tags", "log")  # in a table's folder of work; releases before this one leave what they do not know there
ONE, MANY = ".json", ".jsonl"
KEPT_SINGLE = 50  # moves that keep an object of their own; older ones stand together in one


@dataclass(frozen=True)
class TagMove:
    """One move of one tag."""

    number: int  # of the lease's entry that it was made under: later moves have higher ones, whatever the clocks say
    tag: str
    before: int | None  # the version that the tag marked; None: there was no such tag
    version: int | None  # the version that it marks since; None: the tag was removed
    moved_at: float  # seconds since the epoch
    who: str  # user@host
    by: str  # what moved it: "job 'NAME'", "rollback", "publish", "promote", "maintain", "tune", "project", "delete"
    why: str

    @property
    def time(self) -> datetime:
        """When the tag was moved (UTC)."""
        return datetime.fromtimestamp(self.moved_at, UTC)


FORMAT = StoredFormat("the log of the table's tags")
ADAPTER = TypeAdapter(TagMove)


def log_folder(work: Storage) -> Storage:
    """Where the log is, by the table's folder of work."""
    return work.child(*LOG_FOLDER)


def write_move(work: Storage, move: TagMove) -> None:
    """Note a move; noting it again changes nothing. To be called by the holder of the table."""
    log_folder(work).put(name_of(move.number, ONE), FORMAT.write(asdict(move)).encode())


def read_moves(work: Storage) -> list[TagMove]:
    """The log of a table, oldest move first, by its folder of work; without what cannot be read."""
    folder = log_folder(work)
    while True:
        try:
            found = {move.number: move for move in read_entries(folder, entry_names(folder))}
        except FileNotFoundError:
            continue  # entries were put together meanwhile
        return [found[number] for number in sorted(found)]


def fold_moves(work: Storage) -> None:
    """Put all but the newest moves together in one object, where there are many. To be called by the holder of the table."""
    folder = log_folder(work)
    old = entry_names(folder)[:-KEPT_SINGLE]
    if len(old) < KEPT_SINGLE:
        return
    lines = [FORMAT.write(asdict(move)) for move in read_entries(folder, old)]
    last = int(old[-1].partition(".")[0])
    folder.put(name_of(last, MANY), "".join(f"{line}\n" for line in lines).encode())
    for name in old:
        if name != name_of(last, MANY):
            folder.remove(name)


def read_entries(folder: Storage, names: Sequence[str]) -> Iterator[TagMove]:
    """The moves that objects of the log hold, which are read at once; what cannot be read is left out."""
    found = folder.fs.cat([folder.path(name) for name in names]) if names else {}
    for path, content in found.items():
        for line in content.splitlines():
            try:
                yield FORMAT.check(ADAPTER, FORMAT.read(line))
            except Unreadable as failure:
                log.warning("%s: %s", path, failure)


def entry_names(folder: Storage) -> list[str]:
    """Names of the log's objects, oldest first."""
    return [name for name in folder.list_names() if name.endswith((ONE, MANY))]


def name_of(number: int, kind: str) -> str:
    """Name of an object of the log; names sort as numbers do."""
    return f"{number:012}{kind}"
