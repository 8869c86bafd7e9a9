"""From a picture to the uint8 pixels that models of images take: what their families have in common.

A picture is resized and cropped with Pillow, on the CPU, as the model's own configuration says; pixels travel as uint8
and are normalised (mean, std) on the actor, so that a quarter of the bytes travel. Models that frame pictures alike
share the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from PIL import Image
from pydantic import Field

from operators.batch import Batch
from operators.embedders._torch import TorchConfig, TorchEmbedder
from operators.embedders.base import Role
from operators.errors import SpecError
from operators.preprocess.image import crop_to_square, resize_shorter_side, resize_to

if TYPE_CHECKING:
    from torch.nn import Module

ResizeMode = Literal["shortest", "longest", "exact"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Channels = tuple[float, float, float]

IMAGES_A_BATCH = {"cpu": 16, "cuda": 256}
FRAMING = ("resize", "resize_mode", "crop", "fill", "interpolation", "mean", "std")


class PixelsConfig(TorchConfig):
    """Config of a model of images. What is None here is filled in by `resolve`, from the model's own configuration.

    `resize` pixels is the shorter side of the resized picture, the longer one, or, "exact", both, whatever its aspect:
    `resize_mode`. Of that, a square of `crop` pixels is cut out of the middle, with `fill` (RGB, 0 to 255) where the
    picture is smaller. `mean` and `std` are those of pixels from 0 to 1.
    """

    # Where an odd pixel is left over by a crop: to the even side (torchvision), or to the right and the bottom.
    crop_rounds_down: ClassVar[bool] = False

    resize: int | None = Field(default=None, ge=1)
    resize_mode: ResizeMode | None = None
    crop: int | None = Field(default=None, ge=1)
    fill: tuple[int, int, int] | None = None
    interpolation: Interpolation | None = None
    mean: Channels | None = None
    std: Channels | None = None

    def framing(self, usual: Mapping[str, Any]) -> dict[str, Any]:
        """The job's word on each of `FRAMING`, or else the model's, `usual`. Raises `SpecError` if neither has one."""
        found = {name: usual.get(name) if getattr(self, name) is None else getattr(self, name) for name in FRAMING}
        if lacking := [name for name, value in found.items() if value is None]:
            raise SpecError(f"the model does not say how it frames pictures; give {', '.join(lacking)}.")
        if found["interpolation"] not in (known := get_args(Interpolation)):
            raise SpecError(
                f"the model resizes by '{found['interpolation']}'; give `interpolation`: {', '.join(known)}."
            )
        return found

    @property
    def side(self) -> int:
        """Height and width of a prepared image, in pixels."""
        assert self.crop is not None, "resolve() first"
        return self.crop

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Frame each image: `pixels`, uint8 (n, crop, crop, 3). An image costs its pixels."""
        images = [self.frame(image) for image in batch["image"]]
        pixels = np.stack(images) if images else np.zeros((0, self.side, self.side, 3), dtype=np.uint8)
        return {"pixels": pixels, "cost": np.full(len(images), self.side**2, dtype=np.int64)}

    def frame(self, image: Image.Image) -> np.ndarray:
        """One RGB image, resized and cropped: uint8 (crop, crop, 3). Raises `RowError` for more than `MAX_PIXELS`."""
        assert self.resize and self.resize_mode and self.fill is not None and self.interpolation, "resolve() first"
        resized = RESIZE[self.resize_mode](image, self.resize, self.interpolation)
        return np.asarray(crop_to_square(resized, self.side, self.fill, self.crop_rounds_down))

    def preparation_key(self) -> str:
        """Models that frame pictures alike share their prepared pixels."""
        rounding = "-down" if self.crop_rounds_down and self.resize_mode != "exact" else ""
        fill = "-".join(str(level) for level in self.fill or ())
        return f"pixels-{self.resize_mode}-{self.resize}-{self.crop}-{fill}-{self.interpolation}{rounding}"

    def prepared_bytes(self) -> int:
        """One uint8 image."""
        return self.side**2 * 3

    def batch_cost(self, device: str) -> int:
        """Pixels of a batch."""
        return IMAGES_A_BATCH["cuda" if device.startswith("cuda") else "cpu"] * self.side**2


class PixelsEmbedder(TorchEmbedder):
    """A model whose `forward` turns images (n, 3, side, side) to vectors (n, dim)."""

    config: PixelsConfig

    def forward(self, prepared: Batch) -> Any:
        """Vectors of uint8 pixels."""
        return self.model(self.normalized(prepared))

    def normalized(self, prepared: Batch) -> Any:
        """Uint8 pixels as the model takes them."""
        assert self.config.mean is not None and self.config.std is not None, "resolve() first"
        return self.images(prepared["pixels"], self.config.mean, self.config.std)


def resize_longer_side(image: Image.Image, size: int, resample: Interpolation) -> Image.Image:
    """What timm's and open_clip's `ResizeKeepRatio(size, longest=1)` makes of a PIL image."""
    ratio = max(image.size) / size
    return resize_to(image, (max(1, round(image.width / ratio)), max(1, round(image.height / ratio))), resample)


def resize_to_square(image: Image.Image, size: int, resample: Interpolation) -> Image.Image:
    """Make both sides `size` pixels, whatever the aspect."""
    return resize_to(image, (size, size), resample)


RESIZE: dict[ResizeMode, Callable[[Image.Image, int, Interpolation], Image.Image]] = {
    "shortest": resize_shorter_side,
    "longest": resize_longer_side,
    "exact": resize_to_square,
}


def square(size: int | Sequence[int]) -> int | None:
    """The side of a square, given as a number or as height and width; None for another rectangle."""
    sides = {size} if isinstance(size, int) else set(size)
    return sides.pop() if len(sides) == 1 else None


def channels(value: float | Sequence[float]) -> tuple[float, ...]:
    """One number for each of the three channels."""
    return (float(value),) * 3 if isinstance(value, (int, float)) else tuple(float(number) for number in value)


def build_on_meta(build: Callable[[], Module]) -> Module:
    """The module that `build` makes, without storage: its tensors have shapes and no values (torch's meta device)."""
    import torch

    try:
        with torch.device("meta"):
            module = build()
    except RuntimeError:  # some architectures compute widths with tensors, which the meta device cannot do
        module = build()
    return module.eval().to("meta")


def vector_width(module: Module, side: int, model: str) -> int:
    """How many numbers a vector of `build_on_meta`'s module has, told from shapes: nothing is computed.

    Raises `SpecError` if it does not take images of `side` pixels.
    """
    import torch

    try:
        with torch.inference_mode():
            return int(module(torch.empty(1, 3, side, side, device="meta")).shape[-1])
    except (AssertionError, RuntimeError, TypeError, ValueError) as failure:
        raise SpecError(
            f"model '{model}' does not take images of {side} x {side} pixels: {str(failure).splitlines()[0]}\n"
            "  Leave `crop` out, or give a side that the model takes."
        ) from failure


def scaled_side(side: int, crop_pct: float) -> int:
    """Side to resize to, of which a crop of `side` pixels is the part `crop_pct`."""
    return math.floor(side / crop_pct)
