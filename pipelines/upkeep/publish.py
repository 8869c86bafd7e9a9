"""Publishing a version that is there: its gates are asked, as the job says that it was written by, and the tag moves to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from latentlake.opening import checkout
from latentlake.query import QueryModels
from latentlake.storage import Storage
from operators.errors import GateRefused, SpecError
from pipelines.job.spec import JobSpec
from pipelines.publish.gates import Gate, check_gates, to_json
from pipelines.publish.stored_gates import JobGates, stored_gates
from pipelines.publish.subject import make_subject
from pipelines.publish.tag_gates import gates_before_tag
from pipelines.state.ledger import TAGGED
from pipelines.state.tag_history import taken_back
from pipelines.upkeep.moving import Held, held

log = logging.getLogger(__name__)


def publish_version(
    lake: Storage,
    table: str,
    version: int | None = None,
    tag: str = "prod",
    *,
    force: bool = False,
    why: str = "",
    job: JobSpec | None = None,
    models: QueryModels | None = None,
    wait: bool = False,
) -> dict[str, Any]:
    """Put `tag` on a version, by default the newest, if its gates hold: those of `job`, or of the job that it was written by.

    `models` embed the queries of the gates' suite; see `connect`. With `force`, and then with `why`, the tag moves whatever the gates say; what they found is recorded all the same. Returns
    what was done. Raises `GateRefused`, also for a version that readers were taken back from; `NotFound`, `SpecError`,
    `WriterConflict`, and `Unreadable` where the gates are unknown.
    """
    if force and not why:
        raise SpecError("--force needs --why TEXT: the log of the tags keeps it.")
    with held(lake, table, "publish", wait) as found:
        chosen = int(checkout(found.dataset, table, version).version if version is not None else found.dataset.version)
        check = partial(ask_gates, found, chosen, tag, job, models or QueryModels({}))
        return publish(found, chosen, tag, check, force, why)


def ask_gates(found: Held, version: int, tag: str, job: JobSpec | None, models: QueryModels) -> list[Gate]:
    """The gates before the tag of a version: those of `job`, or of the job that it was written by. Raises `Unreadable`."""
    own = gates_of_version(found, version, job)
    return gates_before_tag(own.gates, make_subject(found.lake, found.table, version, tag, own.columns, models))


def gates_of_version(found: Held, version: int, job: JobSpec | None) -> JobGates:
    """The gates of `job`, or of the job that a version was written by. Raises `Unreadable`."""
    return stored_gates(found.lake, found.table, version) if job is None else JobGates(job.gates, tuple(job.columns))


def publish(
    found: Held, version: int, tag: str, check: Callable[[], Sequence[Gate]], force: bool, why: str
) -> dict[str, Any]:
    """Put a tag on a version of a table that is held, if all gates hold that `check` asks; see `publish_version`."""
    before = found.tags.get(tag)
    stays = "There is still no such tag." if before is None else f"Tag '{tag}' stays at version {before}."
    if not force:
        check_not_taken_back(found, version, stays)
    gates = check()
    try:
        check_gates(gates, stays)
    except GateRefused as refusal:
        if not force:
            refusal.report = {"table": found.table, "version": version, "tag": tag, "gates": to_json(gates)}
            raise
        log.warning("published by force: %s", str(refusal).splitlines()[0])
    if before != version:
        found.move(tag, version, TAGGED, gates, why or "published", force)
    return {
        "table": found.table,
        "tag": tag,
        "version_before": before,
        "version": version,
        "forced": force and not all(gate.held for gate in gates),
        "gates": to_json(gates),
    }


def check_not_taken_back(found: Held, version: int, stays: str) -> None:
    """Raise `GateRefused` for a version that readers were taken back from, of whatever tag."""
    if version in taken_back(found.histories):
        tags = ", ".join(f"'{tag}'" for tag, history in found.histories.items() if version in history.taken_back)
        raise GateRefused(
            f"readers of {tags} were taken back from version {version}. {stays}\n"
            f"  Who did it, and why: latentlake tags {found.lake.uri} {found.table} --log\n"
            "  To publish it all the same: --force --why TEXT"
        )
