"""What a lake keeps of a bridge: one file beside the table, `_latentlake/<table>/bridges/<hash>.npz`, written whole.

It holds a header, JSON with the number of its format, and the map's arrays, as numpy's own format without pickles.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from latentlake.bridges.maps import Arrays
from latentlake.formats import StoredFormat
from latentlake.provenance import Provenance
from latentlake.storage import Storage
from operators.embedders.base import short_hash
from operators.errors import NotFound, Unreadable

WORK = "_latentlake"
FOLDER = "bridges"
SUFFIX = ".npz"
HEADER = "header"
MAX_BYTES = 2**30  # of a file's arrays; a map between 8,192 numbers has 256 MiB
FORMAT = StoredFormat("a bridge between two columns")


class Shape(TypedDict):
    """What the header must have."""

    column: str
    fingerprint: str
    new_column: str
    new_fingerprint: str
    new_provenance: str
    dimension: int
    kind: str
    setting: float | None
    recall: float
    low: float
    high: float
    measured: int
    without: float | None
    k: int
    pairs: int
    pool: int
    pairs_table: str
    pairs_version: int
    version: int
    tried: list[tuple[str, float | None, float]]
    created_at: str


SHAPE = TypeAdapter(Shape)


@dataclass(frozen=True)
class Bridge:
    """A map from the space of `new_column`'s model to that of `column`, and how well it did.

    `recall` (its 95 % interval: `low` to `high`) is the share of the `k` native neighbours that a mapped vector finds, on
    `measured` rows that took no part in the fit, among `pool` rows; `without` is the same with no bridge, None where the
    dimensions differ.
    """

    column: str
    fingerprint: str
    new_column: str
    new_fingerprint: str
    new_provenance: str  # `Provenance.to_json`: it names the model that embeds queries
    dimension: int  # of `column`'s model
    kind: str
    setting: float | None
    recall: float
    low: float
    high: float
    measured: int
    without: float | None
    k: int
    pairs: int  # that it was fitted on
    pool: int
    pairs_table: str
    pairs_version: int
    version: int  # of the table
    tried: tuple[tuple[str, float | None, float], ...]  # kind, setting, recall
    created_at: str  # ISO 8601, UTC
    arrays: Arrays

    @property
    def new(self) -> Provenance:
        """What made the new column. Raises `Unreadable`."""
        return Provenance.from_json(self.new_provenance)

    def facts(self) -> dict[str, Any]:
        """All but the map itself and the provenance, for JSON."""
        return {name: value for name, value in header_of(self).items() if name != "new_provenance"}


def header_of(bridge: Bridge) -> dict[str, Any]:
    """All but the arrays."""
    return {name: value for name, value in asdict(bridge).items() if name != "arrays"}


def folder_of(lake: Storage, table: str) -> Storage:
    """Where the bridges of a table lie."""
    return lake.child(WORK, table, FOLDER)


def name_of(column: str, new_column: str) -> str:
    """Name of the file of a bridge."""
    return short_hash({"column": column, "new_column": new_column}) + SUFFIX


def write_bridge(lake: Storage, table: str, bridge: Bridge) -> None:
    """Keep a bridge, in place of one between the same columns."""
    header = np.frombuffer(FORMAT.write(header_of(bridge)).encode(), dtype=np.uint8)
    arrays: dict[str, Any] = {HEADER: header, **bridge.arrays}
    file = io.BytesIO()
    np.savez(file, **arrays)
    folder_of(lake, table).put(name_of(bridge.column, bridge.new_column), file.getvalue())


def read_bridge(lake: Storage, table: str, column: str, new_column: str) -> Bridge:
    """The bridge between two columns. Raises `NotFound`, `Unreadable`."""
    folder = folder_of(lake, table)
    try:
        content = folder.fs.cat_file(folder.path(name_of(column, new_column)))
    except FileNotFoundError as failure:
        known = [f"{one.column} <- {one.new_column}" for one in read_bridges(lake, table)]
        raise NotFound(
            f"table '{table}' has no bridge to column '{column}' from '{new_column}'.\n"
            f"  Bridges: {', '.join(known) or 'none'}. Fit one: latentlake align {lake.uri} {table} --from {column} --to "
            f"{new_column}"
        ) from failure
    return parse_bridge(content)


def read_bridges(lake: Storage, table: str) -> list[Bridge]:
    """All bridges of a table. Raises `Unreadable`."""
    folder = folder_of(lake, table)
    names = [name for name in folder.list_names() if name.endswith(SUFFIX)]
    return [parse_bridge(folder.fs.cat_file(folder.path(name))) for name in names]


def parse_bridge(content: bytes) -> Bridge:
    """A bridge of what `write_bridge` wrote. Raises `Unreadable`."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MAX_BYTES:
            raise Unreadable(f"{FORMAT.what} claims to hold {size} bytes; at most {MAX_BYTES} are read.")
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as failure:
        raise Unreadable(f"{FORMAT.what} is not whole: {failure}") from failure
    header = arrays.pop(HEADER, np.zeros(0, np.uint8))
    values = FORMAT.check(SHAPE, FORMAT.read(header.tobytes()))
    fields: dict[str, Any] = {name: value for name, value in values.items() if name in Bridge.__dataclass_fields__}
    bridge = Bridge(**{**fields, "tried": tuple(values["tried"]), "arrays": arrays})
    check_arrays(bridge.arrays, bridge.new.dimension, bridge.dimension)
    return bridge


def check_arrays(arrays: Mapping[str, np.ndarray], dimension: int, old_dimension: int) -> None:
    """Raise `Unreadable` unless the arrays map vectors of `dimension` numbers to `old_dimension` finite ones."""
    known = {"weight", "down", "up", "hidden", "hidden_bias", "out", "bias"}
    parts = {name: values.shape for name, values in arrays.items()}
    rank = parts.get("down", (0, 0))[-1:]
    width = parts.get("hidden", (0, 0))[-1:]
    expected: dict[str, tuple[int, ...]] = {
        "weight": (dimension, old_dimension),
        "down": (dimension, *rank),
        "up": (*rank, old_dimension),
        "hidden": (dimension, *width),
        "hidden_bias": width,
        "out": (*width, old_dimension),
        "bias": (old_dimension,),
    }
    whole = ("weight" in parts) != ({"down", "up"} <= parts.keys()) and "bias" in parts
    whole &= len({"hidden", "hidden_bias", "out"} & parts.keys()) in (0, 3)
    wrong = [name for name, shape in parts.items() if name not in known or shape != expected[name]]
    wrong += [name for name, values in arrays.items() if values.dtype != np.float32 or not np.isfinite(values).all()]
    if wrong or not whole:
        raise Unreadable(
            f"{FORMAT.what} has arrays that do not map {dimension} numbers to {old_dimension}: {parts}.\n"
            "  Fit it again: latentlake align URI TABLE --from OLD --to NEW"
        )
