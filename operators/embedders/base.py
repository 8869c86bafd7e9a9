"""The seam every model family implements: a config that is cheap, and an embedder that holds the weights.

The config crosses processes, is hashed into the fingerprint and is written to the table; it loads no model library
until `load` (and, where a dimension needs the architecture, `resolve`). `prepare` runs in the tasks that read, `embed`
on the model's actor.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from operators.batch import Batch
from operators.errors import SpecError

Role = Literal["document", "query"]

# The actor's batches hold at most this many units of cost (see `prepare`), unless the job says otherwise.
DEFAULT_BATCH_COST = {"cpu": 1024, "cuda": 32_768}


class Embedder(Protocol):
    """Weights on a device."""

    def embed(self, prepared: Batch) -> np.ndarray:
        """Vectors of one batch, float32 (n, dim), in the batch's order. The caller bounds the batch's cost."""


class EmbedderConfig(BaseModel, ABC):
    """What a model family needs to know, without its weights. Frozen, hashable, serialisable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: ClassVar[frozenset[str]]
    # Fields that do not change a vector's numbers: paths (their content is in `revision`), speeds, query prompts.
    not_in_fingerprint: ClassVar[frozenset[str]] = frozenset()

    family: str
    normalize: bool = False

    @abstractmethod
    def resolve(self) -> Self:
        """A copy with revision, dimension and all that the model's files say filled in.

        Reads configuration files and hashes weights; never runs the model. Raises `ModelNotFound`, `MissingExtra`.
        """

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length of the vectors. Known once resolved."""

    @abstractmethod
    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Turn `text` or `image` of every row into what `embed` takes, on the CPU, without weights.

        The result has one entry a row: `cost` (int64, tokens or the like: what a padded row of a batch costs), and, for
        text, `tokens` (int64, before truncation) and `truncated` (bool). Its other columns are the model's own.
        """

    @abstractmethod
    def load(self, device: str, threads: int | None = None) -> Embedder:
        """Load the weights onto `device` ("cpu", "cuda"). `threads` bounds the CPU threads of the model's library.

        Runs no code of the model's own unless a field `trust_remote_code` says so, and fetches nothing unless
        `operators.model_files.downloads_allowed()`.
        """

    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything of this config that changes a vector's numbers, as JSON-able values."""
        return self.model_dump(mode="json", exclude=set(self.not_in_fingerprint))

    def preparation_key(self) -> str:
        """Two configs with one key prepare a row to the same values, so that the job prepares it once."""
        return short_hash({"config": self.model_dump(mode="json")})

    def prepared_bytes(self) -> int:
        """About how many bytes one prepared row takes: what bounds a shard. Text: a few hundred token ids."""
        return 2048

    def batch_cost(self, device: str) -> int:
        """How much cost a batch may hold on `device`, where the job does not say."""
        return DEFAULT_BATCH_COST["cuda" if device.startswith("cuda") else "cpu"]

    # Families of text that can tell where their tokens lie override these two (see `operators.preprocess.Tokenizer`).

    @property
    def window(self) -> int | None:
        """How many tokens of content the model takes; None where there is no limit."""
        return None

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token spans of each text, int64 (n, 3): start, end, word."""
        raise SpecError(f"family '{self.family}' has no tokenizer with offsets; chunk by a column of another family.")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def short_hash(value: Any) -> str:
    """First 32 hex digits of the sha256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of (n, dim) to length 1 (L2), float32. A zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms == 0, 1, norms)).astype(np.float32)
