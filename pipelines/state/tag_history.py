"""Which versions the tags of a table have marked, and from which of them readers were taken back.

The log of the tags tells it. What was before that log began, and what upkeep wrote again, the ledger tells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from latentlake.filters import sql_string
from latentlake.storage import Storage
from latentlake.tag_log import WORK_FOLDER, read_moves
from pipelines.state.ledger import REWRITTEN, ROLLED_BACK, TAGGED, TUNED, read_runs

MOVED = (
    "published",
    "unchanged",
    *REWRITTEN,
    TUNED,
    ROLLED_BACK,
    TAGGED,
)  # states of runs that left a tag on a version
REWRITERS = (
    "maintain",
    "delete",
    "project",
)  # what holds the table while it makes a version in place of the one before
MAKERS = (*REWRITERS, "tune")  # while it makes a version of the one before
COLUMNS = ("state", "finished_at", "base_version", "version", "tag")  # of the ledger


@dataclass
class TagHistory:
    """The versions that one tag has marked."""

    marks: list[int] = field(default_factory=list)  # each published on top of the one before; the tag is at the last
    taken_back: set[int] = field(default_factory=set)  # the tag was moved from these, or past them, to an earlier one

    def move(self, version: int) -> None:
        """The tag was put on a version. To move it back to one that it was taken back from makes that good again."""
        self.taken_back.update(mark for mark in self.marks if mark > version)
        self.taken_back.discard(version)
        self.marks = [*(mark for mark in self.marks if mark < version), version]

    def has_marked(self, version: int) -> bool:
        """Whether the tag marks a version, or marked it once."""
        return version in self.marks or version in self.taken_back


@dataclass(frozen=True)
class Event:
    """A tag was moved, or a version was made of the one before; where both, `tag` is one that was moved along."""

    time: float
    tag: str | None
    before: int | None
    version: int
    made: bool = False  # `version` was made of `before`: it is as bad
    replaced: bool = False  # and `before` is no place to go back to: its rows are those of `version`


def read_tag_history(lake: Storage, table: str, now: Mapping[str, int]) -> dict[str, TagHistory]:
    """The history of each tag of a table; `now` is where they are, by whatever they were moved."""
    logged: dict[str, float] = {}  # when the log of each tag begins
    events = []
    clock = 0.0
    for move in read_moves(lake.child(WORK_FOLDER, table)):
        clock = max(clock, move.moved_at)  # clocks differ; the order of the log is right
        logged.setdefault(move.tag, clock)
        if move.version is not None:
            by = move.by
            events.append(Event(clock, move.tag, move.before, move.version, by in MAKERS, by in REWRITERS))
    states = ", ".join(sql_string(state) for state in MOVED)
    condition = f"state IN ({states}) AND version IS NOT NULL"
    events += ledger_events(read_runs(lake, table, condition, COLUMNS)[::-1], logged)
    found: defaultdict[str, TagHistory] = defaultdict(TagHistory)
    for event in sorted(events, key=lambda event: event.time):
        replay(event, found)
    for tag, version in now.items():
        if found[tag].marks[-1:] != [version]:
            found[tag].move(version)
    return dict(found)


def replay(event: Event, found: defaultdict[str, TagHistory]) -> None:
    """Bring histories up to an event."""
    for history in found.values():
        if event.made and event.before in history.taken_back:
            history.taken_back.add(event.version)
    if event.tag is None or (event.version in found[event.tag].taken_back and event.made):
        return
    history = found[event.tag]
    if event.replaced:
        history.marks = [mark for mark in history.marks if mark != event.before]
    history.move(event.version)


def ledger_events(lines: Iterable[Mapping[str, Any]], logged: Mapping[str, float]) -> Iterable[Event]:
    """What lines of the ledger, oldest first, say that the log does not."""
    for line in lines:
        time, tag, replaced = line["finished_at"].timestamp(), line.get("tag"), line["state"] in REWRITTEN
        if tag is not None and time >= logged.get(tag, time + 1):
            tag = None
        made = replaced or line["state"] == TUNED
        if tag is not None or made:
            yield Event(time, tag, line["base_version"], int(line["version"]), made, replaced)


def tags_of(dataset: Any) -> dict[str, int]:
    """Version of each tag, as of now."""
    return {tag: int(found["version"]) for tag, found in dataset.tags.list().items()}


def taken_back(histories: Mapping[str, TagHistory]) -> set[int]:
    """Versions that readers were taken back from, of whatever tag."""
    return set().union(*(history.taken_back for history in histories.values()))
