"""The lake and the source: credentials, conditional writes, the store's clock."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentlake.storage import Storage, scheme_of
from pipelines.doctor.findings import DO, NOT_CHECKED, OK, Finding
from pipelines.job.spec import JobSpec
from pipelines.sources._looks import bounded_looks
from pipelines.state.lease import BEAT_S, TTL_S
from pipelines.state.ledger import WORK_FOLDER

SKEW_S = TTL_S - 2 * BEAT_S  # by which clocks may differ, so that no living writer is taken for dead
LEAST_FREE = 2**30  # bytes


def check_lake(spec: JobSpec) -> Iterator[Finding]:
    """Whether it can be written, whether a second writer is kept from overwriting what a first one wrote, and its clock."""
    lake = spec.table.lake
    yield from check_credentials("lake", lake)
    place = lake.child(WORK_FOLDER)
    with nothing_left(lake):
        name = f"probe-{secrets.token_hex(8)}"
        before = time.time()
        try:
            first, second = place.put_if_absent(name, b"first"), place.put_if_absent(name, b"second")
            written, after = dict(place.list_times()).get(name), time.time()
        finally:
            place.remove(name)
    if first and not second:
        yield Finding("lake", OK, f"{lake.uri}: what one writer has written, a second does not overwrite")
    else:
        yield Finding(
            "lake",
            DO,
            f"{lake.uri}: the store ignores conditional writes (If-None-Match), so that two writers could overwrite each other's "
            "commits. Use a store that has them for tables.",
        )
    if written is None:
        yield Finding("clock", NOT_CHECKED, "the store does not tell when an object was written")
        return
    # Stores tell whole seconds.
    skew = max(before - 1 - written.timestamp(), written.timestamp() - after, 0.0)
    if skew <= SKEW_S:
        yield Finding("clock", OK, f"this machine's is within {skew:.0f} s of the store's; {SKEW_S:.0f} s are allowed")
    else:
        yield Finding(
            "clock",
            DO,
            f"this machine's and the store's differ by {skew:.0f} s, and the lease of a table allows {SKEW_S:.0f} s. Set the clock "
            "(NTP), on the cluster's machines too.",
        )
    if scheme_of(lake.uri) == "file":
        yield from check_room(lake)


def check_credentials(subject: str, place: Storage) -> Iterator[Finding]:
    """How an object store is reached; nothing for a local disk. Raises what the look-up raises."""
    if scheme_of(place.uri) == "file":
        return
    if place.credentials is not None:
        yield Finding(f"{subject}'s credentials", OK, "found, and refreshed while a run lasts")
        return
    told = f"those of the options, or of the store's own ways, show only as they are used: see `{subject}`"
    yield Finding(f"{subject}'s credentials", NOT_CHECKED, told)


def check_room(lake: Storage) -> Iterator[Finding]:
    """Room on the disk of a local lake."""
    folder = next(path for path in [Path(lake.root), *Path(lake.root).parents] if path.is_dir())
    free = shutil.disk_usage(folder).free
    status = OK if free > LEAST_FREE else DO
    remedy = "" if status == OK else "; make room, or put the lake elsewhere"
    yield Finding("lake", status, f"{free / 2**30:.1f} GiB are free on its disk{remedy}")


def check_source(spec: JobSpec) -> Iterator[Finding]:
    """Whether the source answers, and lists something."""
    source = spec.source.storage
    yield from check_credentials("source", source)
    with bounded_looks(spec.limits.object_timeout_s):
        pieces = spec.source.beside(spec.table.lake).list_objects(lambda uri, version: None)
        listed = next((piece for piece in pieces if len(piece)), None)
    if listed is None:
        yield Finding("source", DO, f"{source.uri} holds no objects. Check uri, include and exclude.")
    else:
        yield Finding("source", OK, f"{source.uri} can be listed; the first object is '{listed['object_id'][0]}'")


@contextmanager
def nothing_left(lake: Storage) -> Iterator[None]:
    """Take away the folders of a local lake that were not there before, if they are empty."""
    missing: list[Path] = []
    if scheme_of(lake.uri) == "file":
        work = Path(lake.root) / WORK_FOLDER
        missing = [path for path in [work, *work.parents] if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # another process has put something there meanwhile
            for path in missing:
                path.rmdir()
