from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
from galaxies import npy_bytes
from PIL import Image

from operators.batch import make_batch
from operators.decode import embedded_as, find_decoder
from operators.decode import scientific_image as module
from operators.decode.scientific_image import decode
from operators.errors import MissingExtra

tifffile = pytest.importorskip("tifffile")

DEEP = np.linspace(0, 65_535, 12 * 17).reshape(12, 17).astype(np.uint16)
PALETTE = np.zeros((3, 256), dtype=np.uint16)
COLOUR = np.stack([DEEP, DEEP[::-1], DEEP // 2], axis=-1)


def decode_one(content: Any) -> tuple[np.ndarray | None, str | None]:
    batch = decode(make_batch(["a"], [content]))
    image, error = batch["image"][0], batch["error"][0]
    assert (image is None) != (error is None)
    return image, error


def decoded(content: Any) -> np.ndarray:
    image, error = decode_one(content)
    assert error is None and image is not None
    assert image.dtype == np.float32 and image.flags.c_contiguous and np.isfinite(image).all()
    return image


def reason(content: Any) -> str:
    _, error = decode_one(content)
    assert error is not None and error.startswith("decode: ")
    return error.removeprefix("decode: ")


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def pillow_tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    return file.getvalue()


def test_is_a_modality_that_image_models_embed() -> None:
    found = find_decoder("scientific_image")
    assert (found.COLUMN, found.VERSION) == ("image", 1)
    assert embedded_as("scientific_image") == "image" and embedded_as("image") == "image"


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64])
def test_no_bit_is_lost(kind: type) -> None:
    pixels = (DEEP // 256 if kind is np.uint8 else DEEP // 2).astype(kind)
    for content in (tiff(pixels), tiff(pixels, compression="zlib"), tiff(pixels, bigtiff=True), npy_bytes(pixels)):
        np.testing.assert_array_equal(decoded(content), pixels.astype(np.float32))
    np.testing.assert_array_equal(decoded(npy_bytes(pixels.astype(pixels.dtype.newbyteorder(">")))), pixels)


def test_tiff_as_another_library_writes_it() -> None:
    for pixels in (DEEP, DEEP.astype(np.float32) / 7):
        np.testing.assert_array_equal(decoded(pillow_tiff(pixels)), pixels)


def test_channels() -> None:
    plane = np.moveaxis(COLOUR, -1, 0)
    alpha = np.concatenate([COLOUR, DEEP[..., None]], axis=-1)
    for content in (
        tiff(COLOUR, photometric="rgb"),
        tiff(plane, photometric="rgb", planarconfig="separate"),
        tiff(alpha, photometric="rgb", extrasamples=["unassalpha"]),
        npy_bytes(COLOUR),
        npy_bytes(plane),
        npy_bytes(COLOUR[None]),
    ):
        np.testing.assert_array_equal(decoded(content), COLOUR)
    for shape in ((12, 17, 1), (1, 12, 17), (1, 12, 17, 1)):
        np.testing.assert_array_equal(decoded(npy_bytes(DEEP.reshape(shape))), DEEP)
    with_alpha = tiff(
        np.stack([DEEP, DEEP], -1), photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig"
    )
    np.testing.assert_array_equal(decoded(with_alpha), DEEP)


def test_the_first_page_stands_for_a_file() -> None:
    np.testing.assert_array_equal(decoded(tiff(np.stack([DEEP, DEEP[::-1]]), photometric="minisblack")), DEEP)


def test_white_that_is_zero_is_turned() -> None:
    np.testing.assert_array_equal(decoded(tiff(DEEP, photometric="miniswhite")), 65_535 - DEEP.astype(np.float32))


def test_what_is_not_finite_becomes_the_median() -> None:
    pixels = DEEP.astype(np.float64)
    pixels[0, 0], pixels[1, 1], pixels[2, 2] = np.nan, np.inf, 1e300  # the last is infinite as float32
    image = decoded(npy_bytes(pixels))
    kept = np.setdiff1d(pixels[np.isfinite(pixels)], [1e300])
    assert image[0, 0] == image[1, 1] == image[2, 2] == np.float32(np.median(kept))
    assert reason(npy_bytes(np.full((3, 3), np.nan))) == "no finite number"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no content"),
        (b"", "empty"),
        ("text", "not an image: text"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 99, "not TIFF, FITS or .npy, 107 bytes; for other pictures there is modality"),
        (npy_bytes(DEEP)[:-1], "ValueError"),
        (npy_bytes(DEEP)[:20], "ValueError"),
        (tiff(DEEP)[:-1], "failed to read"),
        (tiff(DEEP, compression="zlib")[:-9], "rror"),
        (tiff(DEEP)[:100], "corrupted"),
        (b"II*\0", ""),
        (npy_bytes(DEEP.astype(complex)), "an array of complex128, not of numbers"),
        (npy_bytes(np.array([[None, {}]])), "Object arrays cannot be loaded when allow_pickle=False"),
        (npy_bytes(np.zeros((2, 2), dtype=[("a", "f4")])), "an array of [('a', '<f4')], not of numbers"),
        (npy_bytes(np.zeros((4, 5, 6))), "an array of 4 x 5 x 6, not a picture of one channel or three"),
        (npy_bytes(np.zeros(7)), "an array of 7, not a picture"),
        (npy_bytes(np.zeros((0, 4))), "an empty array, 0 x 4"),
        (tiff(np.zeros((9, 9), np.uint8), photometric="palette", colormap=PALETTE), "colours of a palette"),
    ],
)  # fmt: skip
def test_what_is_no_picture(content: Any, expected: str) -> None:
    assert expected in reason(content)


def test_a_header_that_claims_too_much_allocates_nothing() -> None:
    header = npy_bytes(np.zeros((4, 4))).replace(b"(4, 4)", b"(400000, 400000)")
    assert reason(header).startswith("decompression bomb: 400000 x 400000 is more than")
    claimed = bytearray(tiff(np.zeros((4, 4), np.uint8)))
    with tifffile.TiffFile(io.BytesIO(bytes(claimed))) as file:
        width, height = (file.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength"))
    claimed[width : width + 2], claimed[height : height + 2] = b"\xff\xff", b"\xff\xff"
    assert reason(bytes(claimed)).startswith("decompression bomb: 65535 x 65535 is more than")


def test_broken_files_are_rejects_whatever_breaks() -> None:
    for content in (tiff(COLOUR, photometric="rgb", compression="zlib"), npy_bytes(DEEP)):
        for seed in range(60):
            damaged = bytearray(content)
            rng = random.Random(seed)
            for _ in range(4):
                damaged[rng.randrange(8, len(damaged))] = rng.randrange(256)
            decode_one(bytes(damaged))


def test_how_much_memory_a_row_takes() -> None:
    packed = tiff(np.zeros((500, 400), np.uint16), compression="zlib")
    assert module.decoded_bytes(packed) == 500 * 400 * 4 > len(packed)
    assert module.decoded_bytes(npy_bytes(DEEP)) >= DEEP.size * 4
    assert module.decoded_bytes(b"II*\0") == 0


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"FITS files need astropy: pip install 'latentlake\[science\]'"):
        decode(make_batch(["a"], [b"SIMPLE  =                    T"]))
    assert decoded(npy_bytes(DEEP)).shape == DEEP.shape


def test_fits() -> None:
    fits = pytest.importorskip("astropy.io.fits")

    def write(*units: Any) -> bytes:
        file = io.BytesIO()
        fits.HDUList(list(units)).writeto(file)
        return file.getvalue()

    for pixels in (DEEP, DEEP.astype(np.float32) / 3, DEEP.astype(np.int32) - 9, DEEP.astype(np.float64)):
        upright = pixels[::-1].astype(np.float32)
        np.testing.assert_array_equal(decoded(write(fits.PrimaryHDU(pixels))), upright)
        np.testing.assert_array_equal(decoded(write(fits.PrimaryHDU(), fits.ImageHDU(pixels))), upright)
        np.testing.assert_array_equal(decoded(write(fits.PrimaryHDU(pixels[None]))), upright)
    colour = np.moveaxis(COLOUR, -1, 0)
    np.testing.assert_array_equal(decoded(write(fits.PrimaryHDU(colour))), COLOUR[::-1])
    packed = write(fits.PrimaryHDU(), fits.CompImageHDU(DEEP.astype(np.int32)))
    np.testing.assert_array_equal(decoded(packed), DEEP[::-1])
    assert module.decoded_bytes(packed) >= DEEP.size * 4
    assert reason(write(fits.PrimaryHDU())) == "FITS without a picture"
    assert reason(write(fits.PrimaryHDU(DEEP))[:2900])
