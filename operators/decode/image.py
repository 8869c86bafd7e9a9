"""Bytes to an RGB picture.

Formats are a closed list with signatures: Pillow would otherwise hand EPS to Ghostscript, and take text for TGA or XBM.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from operators.batch import Batch, RowError, map_rows
from operators.limits import MAX_PIXELS

COLUMN = "image"
VERSION = 1

AT_ONCE = 2**18  # pixels that are converted at once, so that a large picture does not stand in memory several times
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "JPEG2000", "AVIF", "ICO", "PPM", "QOI")
WHITE = (255, 255, 255, 255)
# What Pillow's plugins raise for damaged files, by what they meet first.
BROKEN = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, LookupError, TypeError, OverflowError, struct.error)


def decode(batch: Batch) -> Batch:
    """Decode `content` to a PIL.Image in `image`: RGB, 8 bit, upright, loaded, independent of the bytes.

    The first frame of an animation stands for it. Transparency is laid on white, 16 bit and float are scaled to 8 bit.
    A row that is no whole picture, or one of more than `MAX_PIXELS`, gets `error="decode: <reason>"`.
    """
    with warnings.catch_warnings():  # Pillow warns of odd metadata, and of pictures of half of `MAX_PIXELS`
        warnings.simplefilter("ignore")
        return map_rows(batch, decode_content, column="content", into=COLUMN, stage="decode")


def decode_content(content: Any) -> Image.Image:
    """Decode one object. Raises `RowError` if it is no picture."""
    if content is None:
        raise RowError("no content")
    if len(content) == 0:
        raise RowError("empty")
    if isinstance(content, str):
        raise RowError("not an image: text")
    image = open_header(bytes(content))
    try:
        image.load()
    except BROKEN as failure:
        raise RowError(f"broken {image.format}: {failure}") from failure
    turn_upright(image)
    rgb = to_rgb(image)
    rgb.info = {}  # profiles and EXIF would travel with every row
    return rgb


def decoded_bytes(content: Any) -> int:
    """About how much memory a decoded object takes, told from its header; 0 for what is no picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = open_header(bytes(content))
        except Exception:  # whatever is wrong with it, `decode` says so
            return 0
    return image.width * image.height * 4  # Pillow keeps a word a pixel


def open_header(content: bytes) -> Image.Image:
    """Open without decoding pixels. Raises `RowError` for another format and for a decompression bomb."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as failure:
        raise RowError(f"decompression bomb: {failure} Scale it down.") from failure
    except UnidentifiedImageError as failure:
        raise RowError(f"not an image in a known format, {len(content)} bytes") from failure
    except BROKEN as failure:
        raise RowError(f"broken image: {failure}") from failure
    if image.width * image.height > MAX_PIXELS:
        raise RowError(
            f"decompression bomb: {image.width} x {image.height} is more than {MAX_PIXELS} pixels: scale it down"
        )
    return image


def turn_upright(image: Image.Image) -> None:
    """Apply the EXIF orientation in place. A picture with damaged EXIF data stays as it is, as in a browser."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return


def to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image of a loaded image in any of Pillow's modes."""
    deep = image.mode.startswith("I;16") or image.mode in {"I", "F"}
    if not deep and not image.has_transparency_data:
        return image.convert("RGB")
    low, high = range_of(np.asarray(strip) for _, strip in strips_of(image)) if deep else (0.0, 0.0)
    rgb = Image.new("RGB", image.size)
    for top, strip in strips_of(image):
        rgb.paste(scaled_to_8_bit(strip, low, high) if deep else laid_on_white(strip), (0, top))
    return rgb


def strips_of(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image from top to bottom, in strips of about `AT_ONCE` pixels, each with the row that it begins at."""
    rows = max(1, AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


def laid_on_white(image: Image.Image) -> Image.Image:
    """An image with transparency as RGB."""
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")


def range_of(parts: Iterable[np.ndarray]) -> tuple[float, float]:
    """The values that become 0 and 255, of a picture of integers or floats of one channel.

    Full scale is 65535 for integers (Pillow reads 16 bit of some formats as 32) and 1 or 255 for floats, by which holds
    them all; values outside are stretched from their least to their largest.
    """
    low, high = np.inf, -np.inf
    full_scales: tuple[float, ...] = (65_535.0,)
    for part in parts:
        full_scales = (1.0, 255.0) if part.dtype.kind == "f" else full_scales
        values = part[np.isfinite(part)] if part.dtype.kind == "f" else part
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low > high:
        low, high = 0.0, 0.0
    for full_scale in full_scales:
        if low >= 0 and high <= full_scale:
            return 0.0, full_scale
    return low, high


def scaled_to_8_bit(image: Image.Image, low: float, high: float) -> Image.Image:
    """An image of one channel as RGB, `low` black and `high` white. What is not finite becomes black."""
    values = np.asarray(image).astype(np.float64)
    scaled = (np.where(np.isfinite(values), values, low) - low) * (255 / ((high - low) or 1))
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
