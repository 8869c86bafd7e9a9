"""Where a vector column comes from: its fingerprint, kept in the metadata of the column's field in the table's schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from operators.chain import Chain
from operators.embedders import load_config
from operators.embedders.base import EmbedderConfig, short_hash
from operators.errors import FingerprintMismatch

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

    @property
    def config(self) -> EmbedderConfig:
        """The embedder's config, as it was resolved when the column was made."""
        return load_config(dict(self.embedder))

    @property
    def modality(self) -> str:
        """Modality of the objects: "text" or "image"."""
        return str(self.chain["modality"])

    def to_json(self) -> str:
        """JSON that `from_json` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Provenance:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def identity_of(config: EmbedderConfig, chain: Chain, dtype: str) -> dict[str, Any]:
    """All that changes a stored vector's numbers, as JSON-able values. `config` must be resolved."""
    return {**config.fingerprint_fields(), **chain.fingerprint_fields(), "dtype": dtype}


def fingerprint_of(config: EmbedderConfig, chain: Chain, dtype: str) -> str:
    """The fingerprint of a column: 32 hex digits over `identity_of`."""
    return short_hash(identity_of(config, chain, dtype))


def columns_of(schema: pa.Schema) -> dict[str, Provenance]:
    """Provenance of every vector column of a table's schema, by column, in the schema's order."""
    return {
        f.name: Provenance.from_json(f.metadata[FIELD_KEY])
        for f in schema
        if f.metadata is not None and FIELD_KEY in f.metadata
    }


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


def shown(value: Any) -> str:
    """A value for an error message, at most 60 characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
