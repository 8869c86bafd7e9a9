"""Models with one space for images and text: a text finds images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from operators.batch import Batch
from operators.embedders._pixels import PixelsConfig, PixelsEmbedder
from operators.embedders.base import DEFAULT_BATCH_COST, Role, short_hash
from operators.errors import SpecError


class JointConfig(PixelsConfig):
    """Config of a family whose models take images and, where they are `joint`, text."""

    @abstractmethod
    def prepare_text(self, batch: Batch, role: Role) -> Batch:
        """Token ids of each text: `input_ids` (int32 arrays), `tokens`, `truncated`, `cost`; see `prepare`."""

    @abstractmethod
    def text_fields(self) -> dict[str, Any]:
        """What decides of how a text is prepared, as JSON-able values."""

    @property
    def takes(self) -> frozenset[str]:
        """Images, and text where it is joint."""
        return self.modalities if self.joint else frozenset({"image"})

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Pixels of images, or token ids of texts. Raises `SpecError` for text where the model takes none."""
        if "text" not in batch:
            return super().prepare(batch, role)
        if not self.joint:
            raise SpecError(
                f"family '{self.family}', as it is set here, embeds images only: no text meets them in one space."
            )
        return self.prepare_text(batch, role)

    def preparation_key(self) -> str:
        """Models that frame pictures alike, and take the same text or none, share what is prepared."""
        text = f"-text-{short_hash(self.text_fields())}" if self.joint else ""
        return super().preparation_key() + text


class JointEmbedder(PixelsEmbedder):
    """A loaded model; `encode_text` is the family's."""

    def encode_text(self, rows: np.ndarray) -> Any:
        """Vectors of the token ids of one batch of texts, as a torch tensor (n, dim)."""
        raise NotImplementedError

    def forward(self, prepared: Batch) -> Any:
        """Vectors of pixels, or of token ids."""
        if "pixels" in prepared:
            return super().forward(prepared)
        import torch

        rows = prepared["input_ids"]  # formed to a budget of pixels, which is no bound for tokens
        step = max(1, DEFAULT_BATCH_COST[self.device.type] // max(len(row) for row in rows))
        return torch.cat([self.encode_text(rows[first : first + step]) for first in range(0, len(rows), step)])
