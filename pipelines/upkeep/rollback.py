"""Taking readers back: the tag returns to a version that was published before. The next run builds on it."""

from __future__ import annotations

from datetime import UTC, datetime

import lance

from latentlake.filters import sql_string
from latentlake.opening import checkout
from latentlake.storage import Storage
from operators.errors import NotFound
from pipelines.planning.plan import new_run_id
from pipelines.publish.gates import Gate, check_gates, gates_before_tag, measure_recalls, stored_min_recall, to_json
from pipelines.publish.tags import move_tag, settle_tags
from pipelines.state.lease import hold_table
from pipelines.state.ledger import (
    REWRITTEN,
    ROLLED_BACK,
    WORK_FOLDER,
    open_dataset,
    read_runs,
    record_run,
    was_published,
)


def roll_back(
    lake: Storage, table: str, tag: str = "prod", version: int | None = None, wait: bool = False
) -> tuple[int, int]:
    """Move `tag` to `version`, or to the one it marked before; from and to.

    A version that `tag` has never marked is gated first. Raises `NotFound`, `WriterConflict`, `GateRefused`, and `Unreadable`
    where such a version's gates are unknown.
    """
    with hold_table(lake.child(WORK_FOLDER, table), "rollback", wait) as lease:
        dataset = open_dataset(lake, table)
        if dataset is None:
            raise NotFound(f"no table '{table}' in lake '{lake.uri}'.")
        settle_tags(lease, dataset)
        marked = int(checkout(dataset, table, tag).version)
        target = version if version is not None else previous_version(lake, table, dataset, tag, marked)
        gates = gates_of(lake, table, checkout(dataset, table, target), tag)
        check_gates(gates, f"Tag '{tag}' stays at version {marked}.")
        move_tag(lease, dataset, tag, target)
        record_run(
            lake,
            {
                "run_id": new_run_id(),
                "table": table,
                "job": "rollback",
                "state": ROLLED_BACK,
                "started_at": datetime.now(UTC),
                "base_version": marked,
                "version": target,
                "report": {"gates": to_json(gates)},
                "tag": tag,
            },
        )
        return marked, target


def gates_of(lake: Storage, table: str, dataset: lance.LanceDataset, tag: str) -> list[Gate]:
    """The gates before the tag, of a version that `tag` has never marked; none for one that was published by it."""
    if was_published(lake, table, int(dataset.version), tag) or (least := stored_min_recall(lake, table)) is None:
        return []
    return gates_before_tag(least, measure_recalls(dataset), int(dataset.version))


def previous_version(lake: Storage, table: str, dataset: lance.LanceDataset, tag: str, marked: int) -> int:
    """The version that `tag` marked before `marked`, leaving out those that it was taken back from. Raises `NotFound`."""
    there = {int(found["version"]) for found in dataset.versions()}
    marks: list[int] = []  # versions that the tag marked, each built on the one before
    for line in reversed(read_runs(lake, table, f"tag = {sql_string(tag)} AND version IS NOT NULL")):
        version = int(line["version"])
        if line["state"] == ROLLED_BACK:
            marks = marks[: marks.index(version)] if version in marks else marks
        elif line["state"] in REWRITTEN and marks:
            marks.pop()  # its rows are those of the new version
        marks = [*(mark for mark in marks if mark != version), version]
    earlier = [version for version in marks if version < marked and version in there]
    if not earlier:
        raise NotFound(
            f"the ledger knows no version of '{table}' before {marked} that '{tag}' marked.\n"
            f"  Name one of `latentlake versions {lake.uri} {table}`: --to VERSION."
        )
    return earlier[-1]
