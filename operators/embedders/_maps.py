"""From a vision model's features to one vector an image.

Features are places with a width: the tokens of a transformer, of which the first `prefix` are no patches (class,
distillation, registers), or the pixels of a feature map.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from operators.embedders._pooling import Aggregation, aggregate_layers
from operators.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor


def places_of(features: Tensor, channels_last: bool = False) -> Tensor:
    """Tokens (n, places, width) as they are; feature maps (n, width, h, w), or channels last, as (n, h * w, width)."""
    if features.ndim == 3:
        return features
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)


def pool_places(places: Tensor, how: str, prefix: int = 0) -> Tensor:
    """Pool (n, places, width) to (n, width).

    "cls": the first place; "mean_patch" and "gap": the mean of the patches (global average pooling); "gmp": their maximum.
    """
    if how == "cls":
        return places[:, 0]
    patches = places[:, prefix:]
    return patches.amax(1) if how == "gmp" else patches.mean(1)


def poolings_of_places(features: Tensor, prefix: int, class_token: bool) -> list[str]:
    """What `pool_places` can make of features: tokens have patches, and often a class token; maps have neither."""
    if features.ndim == 4:
        return ["gap", "gmp"]
    cls = ["cls"] if class_token else []
    has_patches = features.ndim == 3 and features.shape[1] > prefix
    return [*cls, "mean_patch", "gap", "gmp"] if has_patches else cls


def check_pooling(how: str, known: Collection[str], model: str) -> None:
    """Raise `SpecError`, naming the poolings that there are, where `how` is none of them."""
    if how not in known:
        raise SpecError(f"model '{model}' has no pooling '{how}'; it has {', '.join(known)}.")


def join_layers(vectors: Sequence[Tensor], how: Aggregation) -> Tensor:
    """Vectors (n, width) of several layers as one. Raises `SpecError` if widths differ and are not put side by side."""
    widths = [vector.shape[-1] for vector in vectors]
    if how != "concat" and len(set(widths)) > 1:
        raise SpecError(f"layers of the widths {', '.join(map(str, widths))} can only be put together by 'concat'.")
    return aggregate_layers(vectors, range(len(vectors)), how)
