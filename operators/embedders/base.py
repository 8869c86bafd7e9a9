"""The seam every model family implements: a config that is cheap, and an embedder that holds the weights.

The config crosses processes, is hashed into the fingerprint and is written to the table; it loads no model library
until `load` (and, where a dimension needs the architecture, `resolve`). `prepare` runs in the tasks that read, `embed`
on the model's actor.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from operators.batch import Batch
from operators.errors import MissingExtra, SpecError

Role = Literal["document", "query"]
RunsOn = Literal["cpu", "gpu", "remote"]

# The actor's batches hold at most this many units of cost (see `prepare`), unless the job says otherwise.
DEFAULT_BATCH_COST = {"cpu": 1024, "cuda": 32_768}


class Embedder(Protocol):
    """Weights on a device.

    One that was made smaller may have a dict `measured`: what that costs, by name, for the report of the run.
    """

    def embed(self, prepared: Batch) -> np.ndarray:
        """Vectors of one batch, float32 (n, dim), in the batch's order. The caller bounds the batch's cost."""


class RemoteEmbedder(Protocol):
    """A model that a service runs. It raises `Unavailable` where the service cannot be reached, or wants to be asked later.

    It bounds each call itself: one that hangs is ended by the job's watchdog as a row that hangs is.
    """

    async def embed(self, prepared: Batch) -> np.ndarray:
        """See `Embedder.embed`; several calls may be under way at once."""


class Limiter(Protocol):
    """How fast a service may be asked, by all embedders that were handed it."""

    async def acquire(self, cost: int) -> None:
        """Return once a call of rows of so much `cost` (see `prepare`) may go out."""


class EmbedderConfig(BaseModel, ABC):
    """What a model family needs to know, without its weights. Frozen, hashable, serialisable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: ClassVar[frozenset[str]]
    # Fields that do not change a vector's numbers: paths (their content is in `revision`), speeds, query prompts.
    not_in_fingerprint: ClassVar[frozenset[str]] = frozenset()
    # Fields that are younger than tables of the family: they stand in the fingerprint where they are not their default.
    younger_fields: ClassVar[frozenset[str]] = frozenset()
    # Modules that have to be installed, and the extra of this project that brings them; None: they come with it.
    requires: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str | None] = None
    covers: ClassVar[str] = ""  # which models, in a line for people
    # Where the model computes: on an actor's CPUs, on its GPU, or elsewhere, asked over the network.
    runs_on: ClassVar[frozenset[RunsOn]] = frozenset({"cpu", "gpu"})
    calibrates: ClassVar[bool] = True  # whether its own rate may be timed, on rows that are then embedded again

    family: str
    normalize: bool = False
    # Keep the first numbers of each vector, scaled to length 1 again: for models trained so (Matryoshka).
    truncate_dim: int | None = Field(default=None, ge=1)
    dim: int | None = None  # what the model gives; filled in by `resolve`

    @abstractmethod
    def resolve(self) -> Self:
        """A copy with revision, dimension and all that the model's files say filled in.

        Reads configuration files and hashes weights; never runs the model. Raises `ModelNotFound`, `MissingExtra`.
        """

    @property
    def dimension(self) -> int:
        """Length of the vectors. Known once resolved."""
        assert self.dim is not None, "resolve() first"
        return self.dim if self.truncate_dim is None else self.truncate_dim

    @property
    def concurrency(self) -> int:
        """How many batches an actor may have under way at once, where `embed` is a coroutine."""
        return 1

    @property
    def joint(self) -> bool:
        """Whether its modalities meet in one space, so that a text finds images (or sound)."""
        return False

    @property
    def takes(self) -> frozenset[str]:
        """Modalities that this very model takes, of its family's; known once resolved."""
        return self.modalities

    @property
    def models(self) -> tuple[EmbedderConfig, ...]:
        """The configs that name a model each: itself, unless the family puts several together."""
        return (self,)

    def with_models(self, models: Sequence[EmbedderConfig]) -> EmbedderConfig:
        """The config with other `models`, as many."""
        (model,) = models
        return model

    def sized(self, dim: int, **found: Any) -> Self:
        """A copy with `dim` and what else `resolve` found. Raises `SpecError` where `truncate_dim` is longer."""
        if self.truncate_dim is not None and self.truncate_dim > dim:
            raise SpecError(f"truncate_dim is {self.truncate_dim}, and the model's vectors have {dim} numbers.")
        return self.model_copy(update={**found, "dim": dim})

    def finish(self, vectors: np.ndarray) -> np.ndarray:
        """The model's vectors (n, dim) as the column wants them: cut to `truncate_dim`, scaled to length 1; float32."""
        kept = vectors[:, : self.dimension]
        scaled = self.normalize or self.truncate_dim is not None
        return normalize_rows(kept) if scaled else np.ascontiguousarray(kept, dtype=np.float32)

    @classmethod
    def missing(cls) -> list[str]:
        """Modules of `requires` that are not installed. Imports none of them."""
        return [name for name in cls.requires if importlib.util.find_spec(name) is None]

    @classmethod
    def missing_extra(cls) -> MissingExtra:
        """The error for a family whose modules are not installed."""
        family = cls.model_fields["family"].default
        return MissingExtra(f"family '{family}' needs an extra: pip install 'latentlake[{cls.extra}]'")

    @abstractmethod
    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Turn `text`, `image` or `audio` of every row into what `embed` takes, on the CPU, without weights.

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
        fields = self.model_dump(mode="json", exclude=set(self.not_in_fingerprint))
        young = {"truncate_dim", *self.younger_fields}
        return {
            name: value
            for name, value in fields.items()
            if name not in young or getattr(self, name) != type(self).model_fields[name].default
        }

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


class RemoteConfig(EmbedderConfig):
    """The config of a family whose models a service runs. Its rows cost money, so that it is not timed unless it says so.

    `base_url` is the service's address, where it is not the family's own: a reader of a table allows its host (`connect`).
    """

    runs_on: ClassVar[frozenset[RunsOn]] = frozenset({"remote"})
    calibrates: ClassVar[bool] = False

    base_url: str | None = None

    @abstractmethod
    def load(  # type: ignore[override]
        self, device: str, threads: int | None = None, limiter: Limiter | None = None
    ) -> RemoteEmbedder:
        """What asks the service, within what `limiter` allows; `device` and `threads` do not matter.

        Raises `Unavailable` where the service cannot be reached, or wants to be asked later.
        """


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
