"""Moments of a run at which its driver dies, or stalls. They are arranged from outside, by patching functions of the driver."""

from __future__ import annotations

import os
import pkgutil
import random
import signal
import threading
import time
from collections.abc import Callable
from inspect import getattr_static
from typing import Any

from latentlake.storage import Storage
from pipelines.job.spec import JobSpec
from pipelines.progress import EMBEDDING, LOADING, Event, Progress

Moment = Callable[[JobSpec, Progress, int], Progress]

SHARDS = (1, 3, 5, 8, 10)  # after so many shards


FATE: signal.Signals | None = (
    signal.SIGKILL
)  # SIGSTOP for a process that stalls, once: the moment passes when it is told to continue


def die(*_: object, **__: object) -> None:
    """End this process as a lost machine would."""
    global FATE
    fate, FATE = FATE, None
    if fate is not None:
        os.kill(os.getpid(), fate)


def replace(target: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `make(original)` in the place of a function, named `module:attribute`."""
    module, _, path = target.partition(":")
    holder, _, name = path.rpartition(".")
    owner = pkgutil.resolve_name(f"{module}:{holder}" if holder else module)
    original, made = getattr(owner, name), make(getattr(owner, name))
    setattr(owner, name, staticmethod(made) if isinstance(getattr_static(owner, name), staticmethod) else made)
    assert original is not made


def before(target: str, action: Callable[..., None] = die) -> None:
    """Do `action`, with its arguments, each time before a function is called."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def patched(*args: Any, **options: Any) -> Any:
            action(*args, **options)
            return original(*args, **options)

        return patched

    replace(target, make)


def after(target: str, action: Callable[[], None] = die) -> None:
    """Do `action` each time after a function has returned."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def patched(*args: Any, **options: Any) -> Any:
            result = original(*args, **options)
            action()
            return result

        return patched

    replace(target, make)


def at(patch: Callable[..., None], target: str) -> Moment:
    """The moment before, or after, a function of the driver."""

    def arrange(spec: JobSpec, progress: Progress, seed: int) -> Progress:
        patch(target)
        return progress

    return arrange


def during(target: str, most_s: float) -> Moment:
    """A moment drawn by the seed, at most `most_s` after a function was called."""

    def arrange(spec: JobSpec, progress: Progress, seed: int) -> Progress:
        delay_s = random.Random(seed).uniform(0, most_s)
        before(target, lambda *args, **options: die_after(delay_s))
        return progress

    return arrange


def die_after(delay_s: float) -> None:
    """Die a while from now, whatever the process does then."""
    threading.Thread(target=lambda: (time.sleep(delay_s), die()), daemon=True).start()


def after_shards(number: int) -> Moment:
    """The moment when so many shards are finished; 0: when Ray is there, before the first."""

    def arrange(spec: JobSpec, progress: Progress, seed: int) -> Progress:
        calls = 0

        def count(event: Event) -> None:
            nonlocal calls
            progress(event)
            if event.phase in (LOADING, EMBEDDING):
                if calls == number:
                    die()
                calls += 1

        return count

    return arrange


def after_fragment(spec: JobSpec, progress: Progress, seed: int) -> Progress:
    """The moment when a data file has appeared that was not there."""
    place = spec.table.lake.child(f"{spec.table.name}.lance", "data")
    known = set(place.list_names())

    def watch() -> None:
        while not set(place.list_names()) - known:
            time.sleep(0.002)
        die()

    threading.Thread(target=watch, daemon=True).start()
    return progress


def torn_manifest(spec: JobSpec, progress: Progress, seed: int) -> Progress:
    """The moment when half of the manifest is written."""

    def write(lake: Storage, manifest: Any) -> None:
        place = manifest.place(lake)
        place.fs.makedirs(place.root, exist_ok=True)
        text = manifest.to_json().encode()
        place.fs.pipe_file(place.path("run.json"), text[: len(text) // 2])
        die()

    replace("pipelines.run:write_manifest", lambda original: write)
    return progress


def torn_listing(spec: JobSpec, progress: Progress, seed: int) -> Progress:
    """The moment when half of a part of the listing is written."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(piece: Any, place: Storage, name: str) -> None:
            original(piece, place, name)
            content = place.fs.cat_file(place.path(name))
            place.fs.pipe_file(place.path(name), content[: len(content) // 2])
            die()

        return write

    replace("pipelines.planning.listing:write_parquet", make)
    return progress


def half_written_rejects(spec: JobSpec, progress: Progress, seed: int) -> Progress:
    """The moment when the old rejects are taken out and the new ones not yet written."""

    def check(lake: Storage, name: str, rows: Any) -> None:
        if name.endswith("__rejects") and rows.num_rows:
            die()

    before("pipelines.state.ledger:append_rows", check)
    return progress


def half_cleared(spec: JobSpec, progress: Progress, seed: int) -> Progress:
    """The moment when a part of the run's folder has been taken away."""

    def arrange(*_: object) -> None:
        left = random.Random(seed).randint(1, 4)

        def count() -> None:
            nonlocal left
            left -= 1
            if not left:
                die()

        after("latentlake.storage:Storage.remove", count)

    before("pipelines.run:clear_folder", arrange)
    return progress


def any_time(spec: JobSpec, progress: Progress, seed: int) -> Progress:
    """A moment drawn by the seed, wherever the run is then."""
    die_after(random.Random(seed).uniform(1, 22))
    return progress


UPKEEP: dict[str, Moment] = {
    f"{name}-{when}": at(patch, f"pipelines.upkeep.maintain:{name}")
    for name in ("compact", "settle_maintenance", "move_tags", "note_maintenance", "retire_versions", "remove_orphans")
    for when, patch in (("before", before), ("after", after))
}
EARLY: dict[str, Moment] = {
    "listing": at(before, "pipelines.planning.listing:write_parquet"),
    "listing-torn": torn_listing,
    "listed": at(after, "pipelines.planning.plan:write_listing"),
    "work": at(before, "pipelines.planning.plan:write_ids"),
    "table-prepared": at(after, "pipelines.publish.commit:prepare_table"),
    "manifest-torn": torn_manifest,
}
STREAM: dict[str, Moment] = {
    "manifest": at(after, "pipelines.run:write_manifest"),
    **{f"shards-{number}": after_shards(number) for number in (0, *SHARDS)},
    "fragment": after_fragment,
    "counted": at(after, "pipelines.run:Run._count"),
    "any-1": any_time,
    "any-2": any_time,
}
LATE: dict[str, Moment] = {
    "before-commit": at(before, "pipelines.publish.commit:LanceDataset.commit"),
    "in-commit": during("pipelines.publish.commit:LanceDataset.commit", 0.004),
    "after-commit": at(after, "pipelines.publish.commit:LanceDataset.commit"),
    "rejects-half": half_written_rejects,
    "rejects": at(after, "pipelines.run:Run._write_rejects"),
    "before-index": at(before, "pipelines.run:build_index"),
    "in-index": during("pipelines.run:build_index", 0.02),
    "after-index": at(after, "pipelines.run:build_index"),
    "before-tag": at(before, "pipelines.run:Run._tag"),
    "in-tag": at(before, "pipelines.publish.tags:set_tag"),
    "after-tag": at(after, "pipelines.run:Run._tag"),
    "before-ledger": at(before, "pipelines.run:record_run"),
    "after-ledger": at(after, "pipelines.run:record_run"),
    "clearing": half_cleared,
    "cleared": at(after, "pipelines.run:clear_folder"),
}
MOMENTS = EARLY | STREAM | LATE
DEDUPLICATION: dict[str, Moment] = {
    "before-decision": at(before, "pipelines.publish.deduplicate:decide"),
    "in-decision": during("pipelines.publish.deduplicate:decide", 0.1),
    "duplicates-dropped": at(after, "pipelines.publish.deduplicate:drop_rows"),
    "half-noted": at(before, "pipelines.publish.deduplicate:Decision"),
    "deduplicated": at(after, "pipelines.publish.deduplicate:deduplicate"),
}
