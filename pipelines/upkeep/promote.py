"""Promoting: one tag is put on the version that another marks, if a condition and the job's gates hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentlake.evaluation import load_suite
from latentlake.lake import Lake
from latentlake.opening import checkout
from latentlake.query import QueryModels
from latentlake.storage import Storage
from operators.errors import SpecError
from pipelines.job.spec import JobSpec
from pipelines.publish.evaluations import Evaluations
from pipelines.publish.gates import Gate
from pipelines.publish.stored_gates import JobGates
from pipelines.publish.subject import make_subject
from pipelines.publish.tag_gates import gates_before_tag
from pipelines.upkeep.conditions import ROWS, Clause, ask_condition, check_tags, parse_condition
from pipelines.upkeep.moving import Held, held
from pipelines.upkeep.publish import gates_of_version, publish


def promote(
    lake: Storage,
    table: str,
    source: str,
    tag: str,
    condition: str | None = None,
    *,
    suite: str | None = None,
    why: str = "",
    job: JobSpec | None = None,
    models: QueryModels | None = None,
    wait: bool = False,
) -> dict[str, Any]:
    """Put `tag` on the version that `source` marks, if `condition` is true (see `conditions`) and the job's gates hold.

    The condition is measured by `suite`, or by that of the job's gates. Returns what was done. Raises `GateRefused`, with the
    figures; `SpecError`, `NotFound`, `WriterConflict`, `Unreadable`.
    """
    clauses = parse_condition(condition) if condition else []
    if source == tag:
        raise SpecError(f"tag '{tag}' is promoted to itself: name the tag to move second.")
    with held(lake, table, "promote", wait) as found:
        version = int(checkout(found.dataset, table, source).version)
        check_tags(clauses, found.tags, table)
        own = gates_of_version(found, version, job)
        told = f"promoted from '{source}'" + (f": {condition}" if condition else "") + (f"; {why}" if why else "")
        return publish(
            found,
            version,
            tag,
            lambda: ask(found, version, tag, clauses, suite, own, models or QueryModels({})),
            False,
            told,
        )


def ask(
    found: Held,
    version: int,
    tag: str,
    clauses: Sequence[Clause],
    suite: str | None,
    own: JobGates,
    models: QueryModels,
) -> list[Gate]:
    """The clauses of the condition, then the gates of the job."""
    made = Evaluations(found.lake)
    subject = make_subject(found.lake, found.table, version, tag, own.columns, models, made=made)
    tagged = {
        clause.tag: Lake(found.lake, models).open(found.table, version=found.tags[clause.tag])
        for clause in clauses
        if clause.tag is not None
    }
    path = suite or own.gates.suite
    measured = path is not None and any(clause.measure != ROWS for clause in clauses)
    gates = ask_condition(clauses, subject, tagged, load_suite(path) if measured and path else None)
    return [*gates, *gates_before_tag(own.gates, subject)]
