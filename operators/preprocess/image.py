"""Operators on images: resize and crop, to the pixel as torchvision does on PIL images."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from PIL import Image, ImageOps
from pydantic import Field

from operators.batch import Batch, RowError, map_rows
from operators.limits import MAX_PIXELS
from operators.preprocess import operator

Pixels = Annotated[int, Field(ge=1, le=math.isqrt(MAX_PIXELS))]  # of a side: no picture with a longer one is made
Resample = Literal["bilinear", "bicubic", "lanczos"]


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


def resize_shorter_side(image: Image.Image, size: int, resample: str) -> Image.Image:
    """What torchvision's `Resize(size)` makes of a PIL image; `resample` names one of Pillow's filters.

    Raises `RowError` for more than `MAX_PIXELS`.
    """
    long_side = int(size * max(image.size) / min(image.size))
    target = (size, long_side) if image.width <= image.height else (long_side, size)
    return resize_to(image, target, resample)


def resize_to(image: Image.Image, size: tuple[int, int], resample: str) -> Image.Image:
    """Resize to (width, height), whatever the aspect. Raises `RowError` for more than `MAX_PIXELS`."""
    if size[0] * size[1] > MAX_PIXELS:
        raise RowError(
            f"{image.width} x {image.height} would become {size[0]} x {size[1]}, more than {MAX_PIXELS} pixels: "
            "center_crop before it cuts strips, or take a smaller size"
        )
    return image if size == image.size else image.resize(size, Image.Resampling[resample.upper()])


def crop_to_square(
    image: Image.Image, size: int, fill: int | tuple[int, int, int] = 0, round_down: bool = False
) -> Image.Image:
    """What torchvision's `CenterCrop(size)` makes of a PIL image, with `fill` where it is smaller.

    An odd pixel is cut off at the side that makes the offset even, or, `round_down`, at the right and the bottom.
    """
    left, top = (
        max(0, over // 2 if round_down else round(over / 2)) for over in (image.width - size, image.height - size)
    )
    # What is too long is cut off before the rest is filled up: a strip would grow without need.
    cut = image.crop((left, top, left + min(size, image.width), top + min(size, image.height)))
    wide, high = size - cut.width, size - cut.height
    if wide or high:  # an odd pixel goes to the right and to the bottom
        return ImageOps.expand(cut, (wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2), fill=fill)
    return cut
