"""What every command that moves a tag does around its move: hold the table, move the tag, write a line of the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from lance import LanceDataset

from latentlake.storage import Storage
from operators.errors import NotFound
from pipelines.publish.gates import Gate, to_json
from pipelines.publish.tags import move_tag, settle_tags
from pipelines.state.lease import Lease, hold_table
from pipelines.state.ledger import WORK_FOLDER, new_run_id, open_dataset, record_run
from pipelines.state.tag_history import TagHistory, read_tag_history, tags_of


@dataclass(frozen=True)
class Held:
    """A table that is held, at its newest version."""

    lake: Storage
    table: str
    dataset: LanceDataset
    lease: Lease

    @cached_property
    def tags(self) -> dict[str, int]:
        """Where its tags are."""
        return tags_of(self.dataset)

    @cached_property
    def histories(self) -> dict[str, TagHistory]:
        """What its tags have marked."""
        return read_tag_history(self.lake, self.table, self.tags)

    def move(self, tag: str, version: int, state: str, gates: Sequence[Gate], why: str, forced: bool = False) -> None:
        """Move a tag, and write the ledger's line of it; `forced`: whatever its gates say. Raises `WriterConflict`."""
        move_tag(self.lease, self.dataset, tag, version, why)
        report = {"gates": to_json(gates), "why": why, "forced": forced}
        record_run(
            self.lake,
            {
                "run_id": new_run_id(),
                "table": self.table,
                "job": self.lease.holder,
                "state": state,
                "started_at": datetime.now(UTC),
                "base_version": self.tags.get(tag),
                "version": version,
                "report": report,
                "tag": tag,
            },
        )


@contextmanager
def held(lake: Storage, table: str, by: str, wait: bool) -> Iterator[Held]:
    """Hold a table to move its tags. Raises `NotFound` where there is none, `WriterConflict`."""
    with hold_table(lake.child(WORK_FOLDER, table), by, wait) as lease:
        dataset = open_dataset(lake, table)
        if dataset is None:
            raise NotFound(f"no table '{table}' in lake '{lake.uri}'.")
        settle_tags(lease, dataset)
        yield Held(lake, table, dataset, lease)
