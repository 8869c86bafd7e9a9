"""Taking readers back: the tag returns to a version that was published before. The next run builds on it."""

from __future__ import annotations

from latentlake.opening import checkout
from latentlake.storage import Storage
from operators.errors import NotFound
from pipelines.publish.gates import Gate, check_gates
from pipelines.state.ledger import ROLLED_BACK
from pipelines.upkeep.moving import Held, held


def roll_back(
    lake: Storage, table: str, tag: str = "prod", version: int | None = None, wait: bool = False, why: str = ""
) -> tuple[int, int]:
    """Move `tag` to `version`, or to the one it marked before; from and to. `why` is kept in the log of the tags.

    A version that `tag` has never marked is gated first. Raises `NotFound`, `WriterConflict`, `GateRefused`, and `Unreadable`
    where such a version's gates are unknown.
    """
    with held(lake, table, "rollback", wait) as found:
        marked = int(checkout(found.dataset, table, tag).version)
        target = version if version is not None else previous_version(found, tag, marked)
        gates = gates_of(found, target, tag)
        check_gates(gates, f"Tag '{tag}' stays at version {marked}.")
        found.move(tag, target, ROLLED_BACK, gates, why or "rolled back")
        return marked, target


def gates_of(found: Held, version: int, tag: str) -> list[Gate]:
    """The gates before the tag, of a version that `tag` has never marked; none for one that was published by it."""
    checkout(found.dataset, found.table, version)  # raises where it is gone
    if tag in found.histories and found.histories[tag].has_marked(version):
        return []
    from latentlake.query import QueryModels
    from pipelines.upkeep.publish import ask_gates

    return ask_gates(found, version, tag, None, QueryModels({}))


def previous_version(found: Held, tag: str, marked: int) -> int:
    """The version that `tag` marked before `marked`, leaving out those that it was taken back from. Raises `NotFound`."""
    there = {int(known["version"]) for known in found.dataset.versions()}
    earlier = [version for version in found.histories[tag].marks if version < marked and version in there]
    if not earlier:
        raise NotFound(
            f"the ledger knows no version of '{found.table}' before {marked} that '{tag}' marked.\n"
            f"  Name one of `latentlake versions {found.lake.uri} {found.table}`: --to VERSION."
        )
    return earlier[-1]
