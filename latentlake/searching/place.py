"""A table at one version, as a search sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentlake.filters import sql_string
from latentlake.provenance import Provenance
from latentlake.query import QueryModels
from operators.errors import NotFound, Unreadable, did_you_mean

if TYPE_CHECKING:
    from latentlake.bridges.store import Bridge


@dataclass(frozen=True)
class Place:
    """The dataset (pylance) of a table, its vector columns, and the models that these are asked with."""

    name: str
    dataset: Any
    provenances: Mapping[str, Provenance]  # of the vector columns
    unreadable: Mapping[str, str]  # vector columns whose provenance cannot be read, with the reason
    models: QueryModels
    storage_options: Mapping[str, str]
    bridges: Mapping[str, Bridge] = field(default_factory=dict)  # of columns that another model's queries are mapped to

    def provenance(self, column: str) -> Provenance:
        """What made the vectors of `column`. Raises `NotFound`, `Unreadable`."""
        if column in self.unreadable:
            raise Unreadable(self.unreadable[column])
        if column not in self.provenances:
            raise NotFound(
                f"table '{self.name}' has no vector column '{column}'.{did_you_mean(column, list(self.provenances))}\n"
                f"  Vector columns: {', '.join(self.provenances) or 'none'}"
            )
        return self.provenances[column]

    def rows_of(self, ids: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Values of `columns`, and `_rowid`, of the rows of these ids, by id. Raises `NotFound`."""
        condition = f"id IN ({', '.join(sql_string(id) for id in ids)})"
        scanner = self.dataset.scanner(columns=["id", *columns], filter=condition, with_row_id=True)
        found = {row["id"]: row for row in scanner.to_table().to_pylist()}
        for id in ids:
            if id not in found:
                raise NotFound(f"table '{self.name}' has no row '{id}' at version {self.dataset.version}.")
        return found
