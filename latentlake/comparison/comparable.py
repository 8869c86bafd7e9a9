"""The methods of a table that set models, versions and tables side by side, and bridge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from latentlake.bridges.store import Bridge
    from latentlake.comparison.results import Comparison
    from latentlake.evaluation import Suite
    from latentlake.table import Table


class Comparable:
    """The comparing methods of `Table`."""

    def compare(
        self,
        other: Table | int | str | None = None,
        *,
        column: str | None = None,
        other_column: str | None = None,
        k: int = 10,
        segment: str | None = None,
        suite: str | Path | Mapping[str, Any] | Suite | None = None,
        seed: int = 0,
    ) -> Comparison:
        """This table, as what was before, beside another table, version or tag, or another of its columns.

        See `latentlake.comparison.compare.compare`, which has more options.
        """
        from latentlake.comparison.compare import compare

        table = as_table(self)
        after = table if other is None else table.checkout(other) if isinstance(other, int | str) else other
        return compare(
            table, after, column=column, other_column=other_column, k=k, segment=segment, suite=suite, seed=seed
        )

    def align(
        self,
        column: str,
        new_column: str,
        *,
        pairs: Table | None = None,
        sample: int = 20_000,
        methods: Sequence[str] | None = None,
        k: int = 10,
        seed: int = 0,
    ) -> Bridge:
        """Fit a bridge, by which queries of the model of `new_column` can search `column`, measure it, and keep it in the lake.

        Then `search(query, column=column, bridge=new_column)`. See `latentlake.bridges.align.align`.
        """
        from latentlake.bridges.align import align
        from latentlake.bridges.fitting import METHODS

        table = as_table(self)
        bridge = align(
            table,
            table._storage,
            column,
            new_column,
            pairs=pairs,
            sample=sample,
            k=k,
            methods=METHODS if methods is None else methods,
            seed=seed,
        )
        table._bridged.clear()
        return bridge

    def bridges(self) -> list[Bridge]:
        """The bridges that the lake keeps for this table, whatever version it is at. Raises `Unreadable`."""
        from latentlake.bridges.store import read_bridges

        table = as_table(self)
        return read_bridges(table._storage, table.name)


def as_table(found: Comparable) -> Table:
    """The table, which alone has these methods."""
    return cast("Table", found)
