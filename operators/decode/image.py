"""Bytes to an RGB picture.

Formats are a closed list with signatures: Pillow would otherwise hand EPS to Ghostscript, and take text for TGA or XBM.
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from operators.batch import Batch, RowError, map_rows
from operators.limits import MAX_PIXELS

COLUMN = "image"
VERSION = 1


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
    """Decode one object. Raises `RowError` where it is no picture."""
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
    return image.width * image.height * 3


def open_header(content: bytes) -> Image.Image:
    """Open without decoding pixels. Raises `RowError` for another format and for a decompression bomb."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as failure:
        raise RowError(f"decompression bomb: {failure}") from failure
    except UnidentifiedImageError as failure:
        raise RowError(f"not an image in a known format, {len(content)} bytes") from failure
    except BROKEN as failure:
        raise RowError(f"broken image: {failure}") from failure
    if image.width * image.height > MAX_PIXELS:
        raise RowError(f"decompression bomb: {image.width} x {image.height} is more than {MAX_PIXELS} pixels")
    return image


def turn_upright(image: Image.Image) -> None:
    """Apply the EXIF orientation in place. A picture with damaged EXIF data stays as it is, as in a browser."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return


def to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image of a loaded image in any of Pillow's modes."""
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        return Image.fromarray(scale_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")
    return image.convert("RGB")


def scale_to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """Scale integers or floats of one channel to uint8.

    Full scale is 65535 for integers (Pillow reads 16 bit of some formats as 32) and 1 or 255 for floats, by which holds
    them all; values outside are stretched from their least to their largest. What is not finite becomes 0.
    """
    values = pixels.astype(np.float64)
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    full_scales = (1.0, 255.0) if pixels.dtype.kind == "f" else (65_535.0,)
    for full_scale in full_scales:
        if low >= 0 and high <= full_scale:
            low, high = 0.0, full_scale
            break
    scaled = (np.where(finite, values, low) - low) * (255 / ((high - low) or 1))
    return np.rint(scaled).astype(np.uint8)
