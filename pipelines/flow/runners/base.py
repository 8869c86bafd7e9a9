"""What a run asks of whoever drives the stages of its flow."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any, Protocol, Self

from pipelines.planning.plan import Plan

Lives = dict[
    str, tuple[float, float | None]
]  # begin and end of actors (seconds since the epoch), by name; None: not yet


class Runner(Protocol):
    """Drives the stages. A context: while it is entered, what it runs on is there."""

    def __enter__(self) -> Self:
        """Start, or reach, what it runs on. Raises `ClusterError`."""

    def __exit__(self, *_: object) -> None:
        """End what was started."""

    def embed_shards(
        self, plan: Plan, version: int | None, shards: Sequence[int], attempt: str
    ) -> Generator[dict[str, Any], None, None]:
        """Run the flow over `shards`; one report per finished shard (see `WriteShard`), in the order they finish.

        `version` is the table's version that fragments are written for; `attempt` is noted in the shards' records. Raises
        errors of our tree, and what keeps its kind also where no stage has raised it (a full disk).
        """

    def merge_columns(self, plan: Plan, version: int, patches: Mapping[int, Sequence[str]]) -> None:
        """Merge the patches of the shards into the table's fragments. Nothing is committed."""

    def lives(self, actors: Collection[str]) -> Lives:
        """When the actors of these names lived."""
