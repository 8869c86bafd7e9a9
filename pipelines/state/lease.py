"""One writer a table: a lease, held from the plan to the tag. See ADR 4.

The lease is a log of small numbered objects beside the table. Each entry is written only if none of its number is there,
which is the compare-and-swap: of two writers that saw the same last entry, one writes the next. Taking, renewing and giving
back are entries; the number of the entry that took the lease is the fence token.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from latentlake.formats import StoredFormat
from latentlake.storage import Storage
from operators.batch import describe
from operators.errors import Unreadable, WriterConflict

log = logging.getLogger(__name__)

LEASE_FOLDER = "lease"
TTL_S = 60.0  # a holder that has not renewed for so long is taken for dead; clocks may differ by TTL_S - 2 * BEAT_S
BEAT_S = 15.0  # between two renewals
POLL_S = 2.0  # between two looks of a writer that waits
KEPT = 3  # entries of the log that stay
OWN_STAT = Path("/proc/self/stat")
UNSEEN = -1.0  # the start of a process that is there, and that the system does not tell of
START_FIELD = 22 - 4  # of /proc/PID/stat, counted from the one behind the state, the third
ENDED: set[str] = set()  # tokens of this process's leases that are over, also where the store could not be told


@dataclass(frozen=True)
class Entry:
    """The state of the lease after one change of it."""

    number: int
    token: str  # of the holder; empty: nobody holds the table
    holder: str = ""
    host: str = ""
    pid: int = 0
    process_began: float = 0.0  # see `process_start`
    since: float = 0.0  # seconds since the epoch
    renewed: float = 0.0

    def is_held(self, now: float) -> bool:
        """Whether the holder may still be at work: it renewed lately, and is not a process of this machine that ended."""
        return bool(self.token) and self.token not in ENDED and now < self.renewed + TTL_S and not self._has_ended()

    def _has_ended(self) -> bool:
        return self.host == this_host() and process_start(self.pid) not in (self.process_began, UNSEEN)


FORMAT = StoredFormat("the table's lease")
ADAPTER = TypeAdapter(Entry)


class Lease:
    """The lease of one table, as one writer sees it. Made by `hold_table`."""

    def __init__(self, place: Storage, holder: str) -> None:
        """`place` is the table's folder of work."""
        self.place = place
        self._place = place.child(LEASE_FOLDER)
        began = process_start(os.getpid())
        assert began is not None, "this process is running"
        self._entry = Entry(0, secrets.token_hex(8), holder, this_host(), os.getpid(), began)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._lost = False
        self.fence = 0
        self.listener: Callable[[float], None] = lambda moment: None  # is told when the lease was renewed

    @property
    def token(self) -> str:
        """What tells this holder from all others."""
        return self._entry.token

    @property
    def holder(self) -> str:
        """What holds the table, in words."""
        return self._entry.holder

    @property
    def number(self) -> int:
        """Number of the newest entry of this holder; another holder's, later, is higher."""
        return self._entry.number

    @property
    def lost(self) -> bool:
        """Whether another writer has taken over, as far as is known: what is there now is its, not ours."""
        return self._lost

    def take(self, wait: bool) -> None:
        """Take the lease; where another writer has it, wait, or raise `WriterConflict`."""
        told = False
        while True:
            last, now = read_last(self._place), time.time()
            if last is None or not last.is_held(now):
                number = last.number + 1 if last else 1
                entry = replace(self._entry, number=number, since=now, renewed=now)
                if self._write(entry):
                    self._entry, self.fence = entry, number
                    return
                continue
            if not wait:
                raise WriterConflict(
                    f"the table is being written by {describe_holder(last)}. Nothing was done.\n"
                    "  Run again when that has ended, or wait for it: --wait."
                )
            if not told:
                log.warning("waiting for %s", describe_holder(last))
                told = True
            time.sleep(POLL_S)

    def check(self) -> None:
        """Renew the lease now. Raises `WriterConflict` if another writer has taken over."""
        if not self._renew():
            raise WriterConflict(
                "another writer took the table over, because this run had not been heard of for "
                f"{TTL_S:.0f} s. Nothing more was committed.\n  Run the job again: it resumes after the finished shards."
            )

    def check_after(self, failure: Exception) -> None:
        """Raise `WriterConflict`, from a failure that may be a consequence, where another writer has taken over."""
        try:
            self.check()
        except WriterConflict as conflict:
            raise conflict from failure
        except Exception as second:  # a store that does not answer tells nothing
            log.warning("the lease could not be renewed: %s", describe(second))

    def keep(self) -> None:
        """Renew until `give_back`; to be called in a thread."""
        while not self._stop.wait(BEAT_S):
            try:
                self._renew()
            except Exception as failure:  # whatever the store raised: the next beat, or `check`, tries again
                log.warning("the lease could not be renewed: %s", describe(failure))

    def give_back(self) -> None:
        """Give the lease back, if it is still ours."""
        self._stop.set()
        ENDED.add(self.token)
        with self._lock:
            if self._lost:
                return
            try:
                self._write(Entry(self._entry.number + 1, ""))
            except Exception as failure:  # a full disk, say: the lease expires by itself, and what ended the run counts
                log.warning("the lease could not be given back: %s", describe(failure))

    def _renew(self) -> bool:
        with self._lock:
            entry = replace(self._entry, number=self._entry.number + 1, renewed=time.time())
            if self._lost or not self._write(entry):
                self._lost = True
                return False
            self._entry = entry
        self.listener(entry.renewed)
        return True

    def _write(self, entry: Entry) -> bool:
        """Write an entry; whether it is now the last. Old entries go."""
        if not self._place.put_if_absent(entry_name(entry.number), json.dumps(asdict(entry)).encode()):
            return False
        names = entry_names(self._place)
        for name in names[:-KEPT]:
            self._place.remove(name)
        return names[-1] == entry_name(entry.number)


@contextmanager
def hold_table(place: Storage, holder: str, wait: bool = False) -> Iterator[Lease]:
    """Hold a table against other writers. `place` is its folder of work. Raises `WriterConflict` (naming the holder)."""
    lease = Lease(place, holder)
    lease.take(wait)
    beat = threading.Thread(target=lease.keep, name="lease", daemon=True)
    beat.start()
    try:
        yield lease
    finally:
        lease.give_back()
        beat.join()


def find_holder(place: Storage) -> Entry | None:
    """Who holds a table now; None: nobody does."""
    last = read_last(place.child(LEASE_FOLDER))
    return last if last is not None and last.is_held(time.time()) else None


def read_last(place: Storage) -> Entry | None:
    """The newest entry of a log; None if there is none. Raises `Unreadable`."""
    while names := entry_names(place):
        try:
            values = FORMAT.read(place.fs.cat_file(place.path(names[-1])))
            return FORMAT.check(ADAPTER, values)
        except FileNotFoundError:
            continue  # newer ones were written meanwhile
        except Unreadable as failure:
            raise Unreadable(
                f"{failure}\n  If no writer is at work on this table, remove {place.uri}/{names[-1]} and run again."
            ) from failure
    return None


def entry_names(place: Storage) -> list[str]:
    """Names of the entries of a log, oldest first."""
    return [name for name in place.list_names() if name.endswith(".json")]


def entry_name(number: int) -> str:
    """Name of an entry; names sort as numbers do."""
    return f"{number:012}.json"


def describe_holder(entry: Entry) -> str:
    """A holder, for people."""
    since = datetime.fromtimestamp(entry.since, UTC)
    return (
        f"{entry.holder} (process {entry.pid} on {entry.host.partition('/')[0]}, since {since:%Y-%m-%d %H:%M:%S} UTC)"
    )


def this_host() -> str:
    """This machine and its space of process ids, since it was started; and how the start of a process is told on it."""
    parts = [socket.gethostname()]
    for path, read in (("/proc/sys/kernel/random/boot_id", Path.read_text), ("/proc/self/ns/pid", Path.readlink)):
        try:
            parts.append(str(read(Path(path))).strip())
        except OSError:
            parts.append("")
    # Releases before this one told it in seconds since the epoch, and must not be compared with.
    return "/".join([*parts, "ticks" if OWN_STAT.exists() else "psutil"])


def process_start(pid: int) -> float | None:
    """When a process of this machine began, told from another of the same number; None if it has ended.

    In clock ticks since the machine's start, where the system has `/proc`: that does not move with the clock. Elsewhere as
    psutil tells it.
    """
    if not OWN_STAT.exists():
        try:
            return psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            return None
    try:
        stat = (OWN_STAT.parent.parent / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return UNSEEN if is_there(pid) else None
    state, *fields = stat.rpartition(b")")[2].split()  # the name before it may hold anything
    return None if state in (b"Z", b"X") else float(fields[START_FIELD])


def is_there(pid: int) -> bool:
    """Whether there is a process of this number, also where the system hides other users' (`hidepid`)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
