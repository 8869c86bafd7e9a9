"""How a row that kills its process is found: a note beside the shards' records of what a stage is working on.

A stage that begins a shard leaves a note and takes it away at the end. An attempt that meets a note knows that the one
before died, and works carefully: in small units, each noted before it begins. The unit that the next death leaves behind is
then worked on row by row, and the row that two processes died on alone is the one: it is rejected, and the run continues. A death
that has nothing to do with the rows (a kill, a lost machine) costs one careful attempt, with the same result.

A row that hangs is ended by a watchdog, which knows it, or its unit, and notes it here: it counts as dead at once.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from pydantic import TypeAdapter

from latentlake.formats import StoredFormat
from latentlake.storage import Storage
from operators.errors import LatentLakeError, Unreadable

log = logging.getLogger(__name__)

ATTEMPTS_FOLDER = "attempts"
MAX_FRUITLESS = 4  # deaths in a row that tell nothing of the rows
DIED = "the process died of it: it was killed, or ran out of memory, each time that this row was worked on"
OVERRAN = "it took longer than {:g} s (limits.object_timeout_s), so that its process was ended"


@dataclass
class Note:
    """What is known of the attempts at one stage of one shard. JSON-able."""

    working_on: list[str] = field(default_factory=list)  # ids of the unit under way; empty: none, or not noted
    alone: list[str] = field(default_factory=list)  # ids to work on one by one
    died_alone: list[str] = field(
        default_factory=list
    )  # ids that were alone under way as a process died: once may be chance
    dead: list[str] = field(default_factory=list)  # ids for which that happened twice
    overran: dict[str, float] = field(
        default_factory=dict
    )  # by id of what hung: the bound that it exceeded, in seconds
    fruitless: int = 0
    attempt: str = ""  # the first one, told from others: a write that finds its own content counts as done


FORMAT = StoredFormat("the note of an attempt")
ADAPTER = TypeAdapter(Note)


class Journal:
    """The note of one attempt at one stage of one shard."""

    def __init__(self, run_folder: Storage, key: str) -> None:
        """`key` names the stage and the shard."""
        self._place = run_folder.child(ATTEMPTS_FOLDER)
        self._name = f"{key}.json"
        self._note = Note()
        self._unit: list[str] = []  # ids of the unit under way, noted or not
        self.careful = False

    def __enter__(self) -> Journal:
        """Begin an attempt. Raises `LatentLakeError` if attempts keep dying, and not of a row."""
        first = Note(attempt=secrets.token_hex(8))
        if self._place.put_if_absent(self._name, FORMAT.write(asdict(first)).encode()):
            return self
        self.careful = True
        note = self._read()
        if len(note.working_on) > 1:
            note.alone += note.working_on
        elif note.working_on and set(note.working_on) <= set(note.died_alone):
            note.dead += note.working_on
            log.warning("%s: rejected, for processes died of them: %s", self._name, ", ".join(note.dead))
        else:
            note.alone += note.working_on
            note.died_alone += note.working_on
        note.fruitless = 0 if note.working_on else note.fruitless + 1
        note.working_on = []
        if note.fruitless >= MAX_FRUITLESS:
            self._place.remove(self._name)
            raise LatentLakeError(
                f"{self._name.removesuffix('.json')}: the process died {note.fruitless} times, and not of a row. "
                "Is there enough memory for the model?\n  Finished shards are kept: fix the cause and run the job again."
            )
        self._note = note
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the attempt. Where it raised, nobody died: the note goes as well."""
        self._place.remove(self._name)

    def is_dead(self, ids: Sequence[str]) -> np.ndarray:
        """For each id whether it killed its process, or hung; bool."""
        dead = [*self._note.dead, *self._note.overran]
        return np.isin(np.asarray(ids, dtype=object), np.asarray(dead, dtype=object))

    def fault_of(self, name: str) -> str:
        """Why a dead id is dead."""
        bound = self._note.overran.get(name)
        return DIED if bound is None else OVERRAN.format(bound)

    def overrun(self, name: str | None, timeout_s: float) -> None:
        """Note that a process is about to be ended, because `name`, or what else its unit holds, took too long.

        An id that stands alone is dead from now on; those of a unit are worked on one by one.
        """
        alone = [name] if name is not None else self._unit if len(self._unit) == 1 else []
        self._note.overran |= dict.fromkeys(alone, timeout_s)
        self._note.working_on = [] if alone else list(self._unit)
        self._note.fruitless = -1 if alone else self._note.fruitless  # this death told something
        self._write()

    def units(self, rows: np.ndarray, ids: Sequence[str]) -> Iterator[np.ndarray]:
        """Rows (indices into `ids`) to work on together, noted as the caller takes them; without the dead.

        All of them at once, unless this attempt has to be careful.
        """
        if not self.careful:
            self._unit = [ids[row] for row in rows]
            yield rows
            self._unit = []
            return
        alone = np.isin(np.asarray(ids, dtype=object)[rows], np.asarray(self._note.alone, dtype=object))
        living = ~self.is_dead([ids[row] for row in rows])
        for unit in (rows[living & ~alone], *rows[living & alone].reshape(-1, 1)):
            if len(unit):
                self._unit = self._note.working_on = [ids[row] for row in unit]
                self._write()
                yield unit
                self._unit = []
        self._note.working_on = []
        self._write()

    def _read(self) -> Note:
        try:
            return read_note(self._place, self._name)
        except FileNotFoundError:
            return Note()

    def _write(self) -> None:
        self._place.put(self._name, FORMAT.write(asdict(self._note)).encode())


def forgive(run_folder: Storage) -> None:
    """Take what was under way for innocent: the notes are of a driver that is dead itself, and its workers with it."""
    place = run_folder.child(ATTEMPTS_FOLDER)
    for name in place.list_names():
        note = read_note(place, name)
        place.put(name, FORMAT.write(asdict(replace(note, fruitless=0, working_on=[]))).encode())


def read_note(place: Storage, name: str) -> Note:
    """A note; one that says nothing if it cannot be read: its process died as it was being written, say."""
    try:
        return FORMAT.check(ADAPTER, FORMAT.read(place.fs.cat_file(place.path(name))))
    except Unreadable as failure:
        log.warning("%s: %s", name, failure)
        return Note()
