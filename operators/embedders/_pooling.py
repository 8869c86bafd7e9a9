"""From a model's hidden states to one vector a row: which layers, how they are put together, how their places are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from operators.embedders._torch import TorchConfig
from operators.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

Aggregation = Literal["mean", "sum", "max", "concat"]


class LayeredConfig(TorchConfig):
    """Config of a transformer whose hidden states are taken: `layers` counts as transformers does.

    0 is the embedding layer, 1 the first block, -1 the last. Of several, `aggregate` makes one; "concat" puts their numbers
    side by side.
    """

    layers: tuple[int, ...] = Field(default=(-1,), min_length=1)
    aggregate: Aggregation = "mean"

    @property
    def width_factor(self) -> int:
        """By how much the layers multiply the width of the hidden states."""
        return len(self.layers) if self.aggregate == "concat" else 1

    @property
    def needs_hidden_states(self) -> bool:
        """Whether more than the model's last output is wanted."""
        return self.layers != (-1,)

    def check_layers(self, blocks: int) -> None:
        """Raise `SpecError` where a layer is not among those of a model of `blocks` blocks."""
        if wrong := [layer for layer in self.layers if not -blocks - 1 <= layer <= blocks]:
            raise SpecError(f"the model has layers 0 (embeddings) to {blocks}, or -{blocks + 1} to -1; not {wrong[0]}.")


def aggregate_layers(states: Sequence[Tensor], layers: Sequence[int], how: Aggregation) -> Tensor:
    """Hidden states (n, places, width) of the chosen `layers` as one tensor; see `LayeredConfig`."""
    import torch

    chosen = [states[layer] for layer in layers]
    if len(chosen) == 1:
        return chosen[0]
    if how == "concat":
        return torch.cat(chosen, dim=-1)
    stacked = torch.stack(chosen)
    return stacked.mean(0) if how == "mean" else stacked.sum(0) if how == "sum" else stacked.amax(0)


def pool_places(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """Pool (n, places, width) over the places where `mask` (n, places) is 1, wherever the padding is, to (n, width).

    "cls" and "first": the first place; "last_token": the last; "mean"; "max"; "weighted_mean": a place counts as often as
    its number among the row's, from 1 (SGPT, https://arxiv.org/abs/2202.08904); "mean_std": mean beside standard
    deviation (of the population), (n, 2 * width). A row whose mask is all 0 gives zeros, but for the first and last place.
    """
    import torch

    mask = mask.to(states.device)
    if how in ("cls", "first", "last_token"):
        places = torch.arange(mask.shape[1], device=mask.device)
        at = (mask * (places + 1)).argmax(1) if how == "last_token" else mask.argmax(1)
        return states[torch.arange(len(states), device=states.device), at]
    kept = mask.unsqueeze(-1).float()  # half precision would not count to the end of a long row
    if how == "max":
        lowest = torch.finfo(states.dtype).min
        found = states.masked_fill(kept == 0, lowest).amax(1)
        return torch.where(kept.sum(1) > 0, found, torch.zeros_like(found))
    if how == "weighted_mean":
        kept = kept * mask.cumsum(1).unsqueeze(-1)
    mean = (states.float() * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
    if how in ("mean", "weighted_mean"):
        return mean
    if how != "mean_std":
        raise ValueError(f"no pooling '{how}'")
    spread = ((states.float() - mean.unsqueeze(1)) ** 2 * kept).sum(1) / kept.sum(1).clamp(min=1)
    return torch.cat([mean, spread.sqrt()], dim=-1)
