"""Operators on images: resize and crop, to the pixel as torchvision does on PIL images."""

from __future__ import annotations

from typing import Annotated, Literal

from PIL import Image, ImageOps
from pydantic import Field

from operators.batch import Batch, RowError, map_rows
from operators.decode.image import MAX_PIXELS
from operators.preprocess import operator

Pixels = Annotated[int, Field(ge=1)]
Resample = Literal["bilinear", "bicubic", "lanczos"]

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@operator("image")
def resize_image(batch: Batch, *, size: Pixels, resample: Resample = "bilinear") -> Batch:
    """Make the shorter side `size` pixels, keep the aspect. A strip that would grow past `MAX_PIXELS` is rejected."""

    def resize(image: Image.Image) -> Image.Image:
        return resize_shorter_side(image, size, resample)

    return map_rows(batch, resize, column="image", into="image", stage="resize_image")


@operator("image")
def center_crop(batch: Batch, *, size: Pixels) -> Batch:
    """Cut `size` x `size` pixels out of the middle, with black where the image is smaller."""

    def crop(image: Image.Image) -> Image.Image:
        return crop_to_square(image, size)

    return map_rows(batch, crop, column="image", into="image", stage="center_crop")


def resize_shorter_side(image: Image.Image, size: int, resample: Resample) -> Image.Image:
    """What torchvision's `Resize(size)` makes of a PIL image. Raises `RowError` for more than `MAX_PIXELS`."""
    long_side = int(size * max(image.size) / min(image.size))
    target = (size, long_side) if image.width <= image.height else (long_side, size)
    if size * long_side > MAX_PIXELS:
        raise RowError(f"{image.width} x {image.height} would become {target[0]} x {target[1]}")
    return image if target == image.size else image.resize(target, RESAMPLING[resample])


def crop_to_square(image: Image.Image, size: int) -> Image.Image:
    """What torchvision's `CenterCrop(size)` makes of a PIL image."""
    wide, high = max(0, size - image.width), max(0, size - image.height)
    if wide or high:  # an odd pixel goes to the right and to the bottom
        image = ImageOps.expand(image, (wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2), fill=0)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))
