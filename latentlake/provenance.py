"""Where a vector column comes from: its fingerprint, kept in the metadata of the column's field in the table's schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NotRequired

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from latentlake.formats import StoredFormat
from latentlake.stored import Metric, StoredDtype
from operators.chain import Chain
from operators.embedders import load_config
from operators.embedders.base import EmbedderConfig, short_hash
from operators.errors import FingerprintMismatch, UnknownName, Unreadable
from operators.preprocess import find_operator

FIELD_KEY = b"latentlake"


@dataclass(frozen=True)
class Provenance:
    """What made the vectors of one column."""

    fingerprint: str
    identity: Mapping[str, Any]  # every field that the fingerprint covers
    embedder: Mapping[str, Any]  # the resolved config; `load_config` is its inverse
    chain: Mapping[str, Any]  # `Chain.to_json`
    dtype: str  # stored: "float32" | "float16" | "binary"
    metric: str = "cosine"  # what the column is searched with
    run_id: str = ""
    created_at: str = ""  # ISO 8601, UTC
    versions: Mapping[str, str] = field(default_factory=dict)  # libraries that took part; not in the fingerprint

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self.config.dimension

    @cached_property  # to find a family takes a millisecond, and each query asks for its dimension
    def config(self) -> EmbedderConfig:
        """The embedder's config, as it was resolved when the column was made.

        Raises `UnknownName` (no such family here), `Unreadable` (a field that this release does not know).
        """
        try:
            return load_config(dict(self.embedder))
        except (ValidationError, KeyError) as failure:
            told = " ".join(str(failure).split())
            raise Unreadable(
                f"the model that the table names cannot be understood by this release: {told}"
            ) from failure

    @property
    def modality(self) -> str:
        """Modality of the objects: "text" or "image"."""
        return str(self.chain["modality"])

    def to_json(self) -> str:
        """JSON that `from_json` reads."""
        return FORMAT.write(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Provenance:
        """Read what `to_json`, of this release or an earlier one, wrote. Raises `Unreadable`."""
        values = FORMAT.read(text)
        FORMAT.check(SHAPE, values)
        return cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__})


class StepShape(TypedDict):
    """A step of `Chain.to_json`; its other keys are the operator's."""

    op: str


class ChainShape(TypedDict):
    """See `Chain.to_json`."""

    modality: str
    steps: list[StepShape]


class EmbedderShape(TypedDict):
    """An embedder's config; its other keys are the family's."""

    family: str


class Shape(TypedDict):
    """What a stored provenance must have to be understood at all."""

    fingerprint: str
    identity: dict[str, Any]
    embedder: EmbedderShape
    chain: ChainShape
    dtype: StoredDtype
    metric: NotRequired[Metric]


FORMAT = StoredFormat("the provenance of a vector column")
SHAPE = TypeAdapter(Shape)


def identity_of(config: EmbedderConfig, chain: Chain, dtype: str) -> dict[str, Any]:
    """All that changes a stored vector's numbers, as JSON-able values. `config` must be resolved."""
    return {**config.fingerprint_fields(), **chain.fingerprint_fields(), "dtype": dtype}


def fingerprint_of(config: EmbedderConfig, chain: Chain, dtype: str) -> str:
    """The fingerprint of a column: 32 hex digits over `identity_of`."""
    return short_hash(identity_of(config, chain, dtype))


def columns_of(schema: pa.Schema) -> dict[str, Provenance]:
    """Provenance of every vector column of a table's schema, by column, in the schema's order. Raises `Unreadable`."""
    return {name: read_provenance(schema, name) for name in vector_columns(schema)}


def vector_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns that have a provenance, in the schema's order."""
    return [f.name for f in schema if f.metadata is not None and FIELD_KEY in f.metadata]


def read_provenance(schema: pa.Schema, column: str) -> Provenance:
    """Provenance of one vector column. Raises `Unreadable`, naming the column."""
    try:
        return Provenance.from_json(schema.field(column).metadata[FIELD_KEY])
    except Unreadable as failure:
        raise Unreadable(f"column '{column}': {failure}") from failure


def check_fingerprint(column: str, table: str, stored: Provenance, identity: Mapping[str, Any], verb: str) -> None:
    """Raise `FingerprintMismatch`, with a line of what differs, unless `identity` is what the column holds.

    `verb` says who brings the other one: "this job makes", "this query has".
    """
    other = short_hash(identity)
    if other == stored.fingerprint:
        return
    names = sorted(set(stored.identity) | set(identity))
    differing = [
        f"{name} ({shown(stored.identity.get(name))} -> {shown(identity.get(name))})"
        for name in names
        if stored.identity.get(name) != identity.get(name)
    ]
    raise FingerprintMismatch(
        f"column '{column}' of table '{table}' holds vectors of {stored.fingerprint[:8]}…, {verb} {other[:8]}….\n"
        f"  They differ in: {', '.join(differing)}.\n"
        "  Write to a new column, or rebuild it with `mode: rebuild`."
    )


def check_query(column: str, table: str, stored: Provenance, config: EmbedderConfig) -> None:
    """Raise `FingerprintMismatch` unless a query that `config` embeds can be compared with the column's vectors.

    Its model must be the column's, and so must the operators that a query goes through. What made the documents alone, the
    decoder and all other operators, may be of another version by now, or unknown here.
    """
    made = ("modality", "decode", "preprocess", "dtype")
    identity = {name: stored.identity[name] for name in made if name in stored.identity} | config.fingerprint_fields()
    if "preprocess" in identity:
        identity["preprocess"] = [as_of_now(step) for step in identity["preprocess"]]
    check_fingerprint(column, table, stored, identity, verb="this query has")


def as_of_now(step: Any) -> Any:
    """A step of an identity, at the version that its operator has here, if queries go through it; else as it is."""
    try:
        known = find_operator(str(step["op"]))
    except (UnknownName, KeyError, TypeError):
        return step
    return {**step, "version": known.version} if known.at_query else step


def shown(value: Any) -> str:
    """A value for an error message, at most 60 characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
