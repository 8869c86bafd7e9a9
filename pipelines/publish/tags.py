"""Tags: only the writer that holds a table moves one, and what one does that was paused, and lost the table, is put right.

Lance overwrites a tag whatever it was. So a holder notes where it is about to move a tag, proves that it still holds the table,
moves the tag, and proves it again. Whoever holds the table next finds the note of a writer that did not come to the end: such a
writer may yet move the tag, and where it did, the tag is taken back to where it was. A tag that was moved by hand is left alone.

Every move is logged (`latentlake.tag_log`), by `move_tag` alone. What its writer could not log any more, because it ended right
after the move, and what was moved by hand, is logged by the next holder.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from latentlake.formats import StoredFormat
from latentlake.storage import Storage
from latentlake.tag_log import TagMove, fold_moves, write_move
from operators.batch import describe
from operators.errors import Unreadable, WriterConflict
from pipelines.state.lease import Lease, hold_table
from pipelines.state.tag_history import tags_of

log = logging.getLogger(__name__)

TAGS_FOLDER = "tags"  # in a table's folder of work
KEPT_NOTES, KEPT_LOOSE = 3, 16
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Mark:
    """What is known of one tag."""

    at: int | None  # the version that it marks; None: there was no such tag
    next: int | None = None  # the version that a holder was about to move it to
    loose: tuple[int, ...] = ()  # versions that a writer which lost the table may yet move it to
    move: TagMove | None = None  # what the holder that was about to move it would have logged

    def settled(self) -> Mark:
        """The mark once the holder that was about to move the tag is no more: it may be asleep."""
        if self.next is None:
            return replace(self, move=None)
        loose = [*(version for version in self.loose if version != self.next), self.next]
        return Mark(self.at, None, tuple(loose[-KEPT_LOOSE:]))


FORMAT = StoredFormat("the note on the table's tags")
MARKS = TypeAdapter(dict[str, Mark])


def move_tag(lease: Lease, dataset: Any, tag: str, version: int, why: str) -> None:
    """Put a tag on a version of a table that `lease` holds, and log it. Raises `WriterConflict` if another writer has taken over.

    The tag is then untouched, or put back by whoever holds the table; by this writer, if nobody does.
    """
    lease.check()
    marks = read_marks(lease.place)
    mark, at = marks.get(tag, Mark(None)).settled(), tags_of(dataset).get(tag)
    move = TagMove(lease.number, tag, at, version, time.time(), this_user(), lease.holder, why)
    write_marks(lease, marks | {tag: replace(mark, at=at, next=version, move=move)})
    lease.check()
    set_tag(dataset, tag, version)
    try:
        lease.check()
    except WriterConflict:
        put_right(lease.place, dataset)
        raise
    if at != version:
        write_move(lease.place, move)
        fold_moves(lease.place)
    write_marks(lease, marks | {tag: replace(mark, at=version)})


def settle_tags(lease: Lease, dataset: Any) -> None:
    """Take back what a writer has done to the tags of a table after it had lost it, and log what nobody logged.

    To be called by the holder.
    """
    marks, there = read_marks(lease.place), tags_of(dataset)
    found = {}
    for tag, known in marks.items():
        mark, actual = known.settled(), there.get(tag)
        if actual in mark.loose and actual not in (mark.at, known.next) and mark.at is not None:
            actual = take_back(lease, dataset, tag, actual, mark.at)
        if known.move is not None and actual == known.next != known.at:
            write_move(lease.place, known.move)
        elif actual != known.at:
            log_move(lease, tag, known.at, actual, "found so: no writer that held the table moved it", UNKNOWN, UNKNOWN)
        found[tag] = replace(mark, at=actual)
    if found != marks:
        write_marks(lease, found)


def take_back(lease: Lease, dataset: Any, tag: str, loose: int, wanted: int) -> int:
    """Move a tag from where a writer that had lost the table put it to where it was; the version that it marks then."""
    log.warning("a writer that had lost the table moved tag '%s' to version %d: it is put right", tag, loose)
    try:
        lease.check()
        set_tag(dataset, tag, wanted)
    except (ValueError, OSError) as failure:  # the version may have been removed meanwhile
        log.warning("tag '%s' stays at version %d: %s", tag, loose, describe(failure))
        return loose
    log_move(
        lease, tag, loose, wanted, "put right: a writer that had lost the table had moved it", this_user(), lease.holder
    )
    return wanted


def log_move(lease: Lease, tag: str, before: int | None, version: int | None, why: str, who: str, by: str) -> None:
    """Log a move that `move_tag` did not make."""
    lease.check()  # so that its number is its own
    write_move(lease.place, TagMove(lease.number, tag, before, version, time.time(), who, by, why))


def put_right(place: Storage, dataset: Any) -> None:
    """Settle the tags as their holder, where nobody holds the table; else whoever does, or comes next, settles them."""
    try:
        with hold_table(place, "what puts tags right") as lease:
            settle_tags(lease, dataset)
    except Exception as failure:  # held, or out of reach: the lost table is what this writer's end is about
        log.warning("the tags are left to the next writer: %s", describe(failure))


def set_tag(dataset: Any, tag: str, version: int) -> None:
    """Make a tag, or move it."""
    if tag in dataset.tags.list():
        dataset.tags.update(tag, version)
    else:
        dataset.tags.create(tag, version)


def this_user() -> str:
    """Who runs this process: user@host."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def read_marks(place: Storage) -> dict[str, Mark]:
    """What is known of the tags of a table, by its folder of work; nothing if it cannot be read."""
    folder = place.child(TAGS_FOLDER)
    while names := note_names(folder):
        try:
            return FORMAT.check(MARKS, FORMAT.read(folder.fs.cat_file(folder.path(names[-1])))["tags"])
        except FileNotFoundError:
            continue  # newer ones were written meanwhile
        except (Unreadable, KeyError) as failure:
            log.warning("%s", failure)
            break
    return {}


def write_marks(lease: Lease, marks: dict[str, Mark]) -> None:
    """Note what is known of the tags. Notes are numbered by the lease's entries, so that one which comes late is not the last."""
    folder = lease.place.child(TAGS_FOLDER)
    values = {"tags": {tag: asdict(mark) for tag, mark in marks.items()}}
    folder.put(f"{lease.number:012}.json", FORMAT.write(values).encode())
    for name in note_names(folder)[:-KEPT_NOTES]:
        folder.remove(name)


def note_names(folder: Storage) -> list[str]:
    """Names of the notes, oldest first."""
    return [name for name in folder.list_names() if name.endswith(".json")]
