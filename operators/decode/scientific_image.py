"""Bytes to the numbers that an instrument measured: TIFF, FITS and .npy, without a squeeze to 8 bits.

What it decodes to is embedded as modality `image`, once `normalize_intensity` has made a picture of it.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from operators.batch import Batch, RowError, live_rows, map_rows
from operators.errors import MissingExtra
from operators.limits import MAX_PIXELS

COLUMN = "image"
EMBEDDED_AS = "image"
VERSION = 1

SIGNATURES = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"SIMPLE  =": "FITS",
    b"\x93NUMPY": "npy",
}
LIBRARIES = {"TIFF": "tifffile", "FITS": "astropy"}


def decode(batch: Batch) -> Batch:
    """Decode `content` to an array in `image`: float32 (h, w), or (h, w, 3) where there are three channels, all finite.

    Values are the instrument's own, scaled as the file says (FITS: BZERO and BSCALE). The first page of a TIFF and the
    first picture of a FITS file stand for it; an alpha channel is left out; row 0 is the top, as viewers show it. What
    is not finite becomes the median of what is. A row that is no whole picture, or one of more than `MAX_PIXELS`
    numbers, gets `error="decode: <reason>"`. Raises `MissingExtra` if the library of a format that turns up is not
    installed.
    """
    for row in live_rows(batch):
        check_library(batch["content"][row])
    return map_rows(batch, decode_content, column="content", into=COLUMN, stage="decode")


def decode_content(content: Any) -> np.ndarray:
    """Decode one object. Raises `RowError` if it is no scientific image."""
    if content is None:
        raise RowError("no content")
    if len(content) == 0:
        raise RowError("empty")
    if isinstance(content, str):
        raise RowError("not an image: text")
    found = format_of(content)
    if found is None:
        raise RowError(f"not TIFF, FITS or .npy, {len(content)} bytes; for other pictures there is modality 'image'")
    return as_picture(READERS[found](bytes(content)))


def decoded_bytes(content: Any) -> int:
    """About how much memory a decoded object takes, told from a TIFF's header, else from the file's size."""
    try:
        if format_of(content) != "TIFF":
            return 4 * len(content)  # bytes to float32
        with open_tiff(bytes(content)) as file:
            return 4 * math.prod(file.pages[0].shape)
    except Exception:  # whatever is wrong with it, `decode` says so
        return 0


def format_of(content: Any) -> str | None:
    """Format of a file by its first bytes; None for another."""
    head = bytes(content[:9]) if isinstance(content, bytes | bytearray | memoryview) else b""
    return next((name for signature, name in SIGNATURES.items() if head.startswith(signature)), None)


def check_library(content: Any) -> None:
    """Raise `MissingExtra` where the library that reads `content` is not installed."""
    found = format_of(content)
    library = LIBRARIES.get(found or "")
    if library and importlib.util.find_spec(library) is None:
        raise MissingExtra(f"{found} files need {library}: pip install 'latentlake[science]'")


def check_size(shape: tuple[int, ...]) -> None:
    """Raise `RowError` for an array that holds nothing, or too much."""
    if math.prod(shape) == 0:
        raise RowError(f"an empty array, {describe_shape(shape)}")
    if math.prod(shape) > MAX_PIXELS:
        raise RowError(
            f"decompression bomb: {describe_shape(shape)} is more than {MAX_PIXELS} numbers: cut it up, or scale it down"
        )


def check_numbers(dtype: np.dtype) -> None:
    """Raise `RowError` for an array of something else, whose elements may be of any size."""
    if dtype.kind not in "buif":
        raise RowError(f"an array of {dtype}, not of numbers")


def describe_shape(shape: tuple[int, ...]) -> str:
    """A shape in words: `3 x 40 x 50`."""
    return " x ".join(str(size) for size in shape)


def open_tiff(content: bytes) -> Any:
    """A TIFF file with its first page's header read."""
    from tifffile import TiffFile

    return TiffFile(io.BytesIO(content))


def read_tiff(content: bytes) -> np.ndarray:
    """Pixels of the first page of a TIFF file (classic or BigTIFF), channels last, without alpha."""
    with open_tiff(content) as file:
        page = file.pages[0]
        check_size(page.shape)
        if page.dtype is not None:
            check_numbers(page.dtype)
        if page.photometric.name == "PALETTE":
            raise RowError("colours of a palette, which are no intensities; for those there is modality 'image'")
        pixels = page.asarray()
        if page.axes.startswith("S"):
            pixels = np.moveaxis(pixels, 0, -1)
        if page.axes not in ("YX", "YXS", "SYX"):
            raise RowError(f"axes {page.axes}, not one picture")
        if page.photometric.name == "MINISWHITE" and pixels.dtype.kind == "u":
            pixels = np.iinfo(pixels.dtype).max - pixels
        kept = pixels.shape[-1] - len(page.extrasamples) if pixels.ndim == 3 and page.extrasamples else None
        return pixels[..., :kept] if kept else pixels


def read_fits(content: bytes) -> np.ndarray:
    """Numbers of the first picture of a FITS file, tile-compressed ones too, row 0 at the top."""
    from astropy.io import fits

    with fits.open(io.BytesIO(content), memmap=False) as units:
        for unit in units:
            if unit.is_image and unit.header.get("NAXIS", 0) >= 2:
                check_size(unit.shape)
                return np.flip(np.asarray(unit.data), axis=-2)
    raise RowError("FITS without a picture")


def read_npy(content: bytes) -> np.ndarray:
    """The array of an .npy file. One of Python objects, which would run code, is refused."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    check_size(shape)
    if not dtype.hasobject:  # which `load` refuses itself
        check_numbers(dtype)
    file.seek(0)
    return np.asarray(np.load(file, allow_pickle=False))


READERS: dict[str, Callable[[bytes], np.ndarray]] = {"TIFF": read_tiff, "FITS": read_fits, "npy": read_npy}


def as_picture(pixels: np.ndarray) -> np.ndarray:
    """An array as float32 (h, w) or (h, w, 3), finite. Raises `RowError` if it is no picture.

    Axes of length 1 are dropped; three channels may stand first.
    """
    check_size(pixels.shape)
    check_numbers(pixels.dtype)
    shape = pixels.shape
    while pixels.ndim > 2 and 1 in (pixels.shape[0], pixels.shape[-1]):
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[-1] != 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim != 2 and not (pixels.ndim == 3 and pixels.shape[-1] == 3):
        raise RowError(f"an array of {describe_shape(shape)}, not a picture of one channel or three")
    with np.errstate(over="ignore"):  # what float32 cannot hold is not finite, and is seen to below
        values = np.ascontiguousarray(pixels, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        raise RowError("no finite number")
    if not finite.all():
        values = values if values.flags.writeable and values is not pixels else values.copy()
        values[~finite] = np.median(values[finite])
    return values
