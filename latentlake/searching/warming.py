"""What a first search would wait for, loaded beforehand."""

from __future__ import annotations

from latentlake.indexes import describe_indexes
from latentlake.searching.place import Place


def warm_up(place: Place, column: str | None = None) -> None:
    """Load the models of the vector columns, or of one, and read the indexes into memory, as far as Lance's cache holds them."""
    columns = list(place.provenances) if column is None else [column]
    for name in columns:
        place.models.load(place.name, name, place.provenance(name))
    for info in describe_indexes(place.dataset):
        if info.column in columns or info.metric is None:
            place.dataset.prewarm_index(info.name)
