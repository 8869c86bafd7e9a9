"""Early fusion: the vectors of several models in one column, one behind the other, each scaled to length 1 before.

The cosine of two such vectors is the weighted mean of the models' cosines, so that one search compares by all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, SerializeAsAny, WithJsonSchema, model_validator

from operators.batch import Batch
from operators.embedders import load_config
from operators.embedders.base import Embedder, EmbedderConfig, RemoteConfig, Role, normalize_rows

# Of text: counted per row for the table, and what a batch costs; the largest of the parts' counts stands for all.
COUNTS = ("cost", "tokens")


def read_parts(value: Any) -> Any:
    """Configs of the parts, from what a job or a table says of them. Raises `ValueError`."""
    if not isinstance(value, list | tuple) or not all(isinstance(part, dict | EmbedderConfig) for part in value):
        raise ValueError("parts is a list of models, each with its `family`")
    if any(isinstance(part, dict) and "family" not in part for part in value):
        raise ValueError("each part names its `family`")
    return tuple(load_config(part) if isinstance(part, dict) else part for part in value)


Parts = Annotated[
    tuple[SerializeAsAny[EmbedderConfig], ...],
    BeforeValidator(read_parts),
    WithJsonSchema({"type": "array", "minItems": 2, "items": {"type": "object", "required": ["family"]}}),
]


class Config(EmbedderConfig):
    """The models, and how much each counts: `weights` are those of their cosines, equal if there are none."""

    modalities: ClassVar[frozenset[str]] = frozenset({"text", "image", "audio"})
    covers: ClassVar[str] = "no model of its own: several models of the other families in one vector (early fusion)"

    family: Literal["concat"] = "concat"
    parts: Parts
    weights: tuple[float, ...] = ()

    @model_validator(mode="after")
    def sound(self) -> Self:
        """Two models or more that run here, and a weight above 0 for each or for none."""
        if len(self.parts) < 2:
            raise ValueError("concat puts two models or more together")
        for part in self.parts:
            if isinstance(part, Config | RemoteConfig):
                raise ValueError(f"'{part.family}' cannot be a part: parts are single models that run on this machine")
        if self.weights and len(self.weights) != len(self.parts):
            raise ValueError(f"{len(self.weights)} weights for {len(self.parts)} parts; give one each, or none")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise ValueError("weights must be above 0")
        return self

    @property
    def models(self) -> tuple[EmbedderConfig, ...]:
        """The parts."""
        return self.parts

    def with_models(self, models: Sequence[EmbedderConfig]) -> Self:
        """A copy with other parts."""
        return self.model_copy(update={"parts": tuple(models)})

    @property
    def takes(self) -> frozenset[str]:
        """What every part takes."""
        return frozenset.intersection(*(part.takes for part in self.parts))

    @property
    def joint(self) -> bool:
        """Whether every part is a joint model."""
        return all(part.joint for part in self.parts)

    @property
    def window(self) -> int | None:
        """The shortest window of the parts."""
        return self._shortest.window

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token spans of the part with the shortest window."""
        return self._shortest.spans(texts)

    @property
    def _shortest(self) -> EmbedderConfig:
        return min(self.parts, key=lambda part: math.inf if part.window is None else part.window)

    def resolve(self) -> Self:
        """Look up every part."""
        parts = tuple(part.resolve() for part in self.parts)
        return self.sized(sum(part.dimension for part in parts), parts=parts)

    def fingerprint_fields(self) -> dict[str, Any]:
        """Those of the parts among its own."""
        return {**super().fingerprint_fields(), "parts": [part.fingerprint_fields() for part in self.parts]}

    def prepared_bytes(self) -> int:
        """Those of all parts."""
        return sum(part.prepared_bytes() for part in self.parts)

    def batch_cost(self, device: str) -> int:
        """What the most demanding part allows."""
        return min(part.batch_cost(device) for part in self.parts)

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """What each part takes, its columns after its number; `cost` and `tokens` are the largest, `truncated` that any is."""
        made = [part.prepare(batch, role) for part in self.parts]
        prepared = {f"{number}:{name}": values for number, part in enumerate(made) for name, values in part.items()}
        for name in COUNTS:
            if name in made[0]:
                prepared[name] = np.maximum.reduce([part[name] for part in made])
        if "truncated" in made[0]:
            prepared["truncated"] = np.logical_or.reduce([part["truncated"] for part in made])
        return prepared

    def load(self, device: str, threads: int | None = None) -> ConcatEmbedder:
        """Load every part."""
        return ConcatEmbedder(self, [part.load(device, threads) for part in self.parts])


class ConcatEmbedder:
    """The embedders of the parts; see `Config`."""

    def __init__(self, config: Config, parts: Sequence[Embedder]) -> None:
        self.config = config
        self.parts = parts
        self.device = str(getattr(parts[0], "device", "cpu"))
        weights = np.array(config.weights or [1.0] * len(parts))
        self._scales = np.sqrt(weights / weights.sum()).astype(np.float32)

    def embed(self, prepared: Batch) -> np.ndarray:
        """Vectors float32 (n, dim), of length 1 unless a part's is zero."""
        vectors = []
        for number, (part, scale) in enumerate(zip(self.parts, self._scales, strict=True)):
            mark = f"{number}:"
            own = {name.removeprefix(mark): values for name, values in prepared.items() if name.startswith(mark)}
            vectors.append(scale * normalize_rows(part.embed(own)))
        return self.config.finish(np.concatenate(vectors, axis=1))
