"""Maps that a table keeps: two columns of coordinates, NAME_x and NAME_y, whose metadata says what made them.

A row that came, or changed, after the map was made has none: its coordinates are null until the map is made again.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from latentlake.exploration.maps import MapProvenance
from latentlake.stored import MAP_KEY
from operators.errors import NotFound, did_you_mean

AXES = ("_x", "_y")


@dataclass(frozen=True)
class StoredMap:
    """A map among the columns of a table."""

    name: str
    provenance: MapProvenance

    @property
    def columns(self) -> list[str]:
        """Names of its two columns."""
        return axis_names(self.name)


def axis_names(name: str) -> list[str]:
    """Names of the two columns of the map `name`."""
    return [name + axis for axis in AXES]


def stored_maps(schema: pa.Schema) -> dict[str, StoredMap]:
    """The maps of a table by name, in the schema's order. Raises `Unreadable`."""
    found = {}
    for field in schema:
        if field.name.endswith(AXES[0]) and MAP_KEY in (field.metadata or {}):
            name = field.name.removesuffix(AXES[0])
            if axis_names(name)[1] in schema.names:
                found[name] = StoredMap(name, MapProvenance.from_json(field.metadata[MAP_KEY]))
    return found


def find_map(schema: pa.Schema, name: str) -> StoredMap:
    """The map `name` of a table. Raises `NotFound`, `Unreadable`."""
    found = stored_maps(schema)
    if name not in found:
        raise NotFound(
            f"the table keeps no map '{name}'.{did_you_mean(name, found)}\n"
            f"  Maps: {', '.join(found) or 'none'}; `latentlake project URI TABLE --store NAME` makes one."
        )
    return found[name]
