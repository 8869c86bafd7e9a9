from __future__ import annotations

import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from operators.batch import make_batch
from operators.decode import find_decoder
from operators.decode.image import decode

CIFAR = Path(os.environ.get("LATENTLAKE_TEST_DATA", "../shared/data")) / "cifar10"
GRADIENT = np.linspace(0, 65_535, 32 * 24).reshape(24, 32).astype(np.uint16)
NOISE = Image.frombytes("RGB", (40, 30), random.Random(1).randbytes(3600))
ORIENTATION = 0x0112


def decode_one(content: object) -> tuple[Image.Image | None, str | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = decode(make_batch(["a"], [content]))
    image, error = batch["image"][0], batch["error"][0]
    assert (image is None) != (error is None)
    if image is not None:
        assert type(image) is Image.Image and image.mode == "RGB" and image.info == {}
    return image, error


def decoded(content: bytes) -> np.ndarray:
    image, error = decode_one(content)
    assert error is None
    return np.asarray(image)


def as_bytes(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims `width` x `height`, with next to no data."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_is_the_modality_image() -> None:
    module = find_decoder("image")
    assert (module.COLUMN, module.VERSION) == ("image", 1)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    assert np.array_equal(decoded(as_bytes(NOISE, form, **options)), np.asarray(NOISE))


@pytest.mark.parametrize("form", ["JPEG", "GIF", "AVIF", "JPEG2000"])
def test_lossy_formats(form: str) -> None:
    flat = Image.new("RGB", (32, 32), (200, 30, 60))
    assert np.abs(decoded(as_bytes(flat, form)).astype(int) - [200, 30, 60]).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(form: str, orientation: int) -> None:
    upright = Image.new("RGB", (64, 32), (0, 0, 0))
    upright.paste((255, 0, 0), (0, 0, 32, 16))
    upright.paste((0, 0, 255), (32, 16, 64, 32))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose: what a camera held that way recorded
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    shown = decoded(as_bytes(stored, form, exif=exif))
    assert shown.shape == (32, 64, 3)
    assert np.abs(shown.astype(int) - np.asarray(upright)).mean() < 4


def test_damaged_exif_does_not_cost_the_picture() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    good = as_bytes(NOISE, "JPEG", exif=exif)
    place = good.index(b"Exif\0\0") + 6
    rng = random.Random(5)
    for _ in range(100):
        bad = bytearray(good)
        for _ in range(4):
            bad[place + rng.randrange(26)] = rng.randrange(256)
        image, error = decode_one(bytes(bad))
        assert error is None and image is not None and sorted(image.size) == [30, 40]


def test_cmyk() -> None:
    pixels = decoded(as_bytes(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 6


def test_greyscale_and_1_bit() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(decoded(as_bytes(Image.fromarray(grey), "PNG")), np.stack([grey] * 3, axis=-1))
    bits = Image.fromarray(grey > 99)
    assert bits.mode == "1"
    assert np.array_equal(decoded(as_bytes(bits, "PNG"))[..., 1], np.where(grey > 99, 255, 0))


def test_palette() -> None:
    pixels = decoded(as_bytes(NOISE.quantize(16), "PNG"))
    assert np.array_equal(pixels, np.asarray(NOISE.quantize(16).convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((40, 40, 40, 255), (0, 0, 8, 16))
    if mode == "P":
        stored = image.convert("RGB").quantize(4)
        content = as_bytes(stored, "PNG", transparency=stored.getpixel((15, 0)))
    else:
        content = as_bytes(image.convert(mode), "PNG")
    pixels = decoded(content)
    assert (pixels[:, 8:] == 255).all()
    assert (pixels[:, :8] == 40).all()


def test_half_transparency() -> None:
    pixels = decoded(as_bytes(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG"))
    assert np.abs(pixels.astype(int) - 127).max() <= 1


def test_colour_key_of_rgb_and_grey_png() -> None:
    for mode, key in (("RGB", (9, 9, 9)), ("L", 9)):
        assert (decoded(as_bytes(Image.new(mode, (3, 3), key), "PNG", transparency=key)) == 255).all()


def test_16_bit_is_scaled() -> None:
    expected = np.rint(GRADIENT / 257).astype(np.uint8)
    little, big = Image.fromarray(GRADIENT), Image.frombytes("I;16B", (32, 24), GRADIENT.astype(">u2").tobytes())
    for image, form in ((little, "PNG"), (little, "TIFF"), (big, "TIFF"), (little.convert("I"), "TIFF")):
        assert np.array_equal(decoded(as_bytes(image, form))[..., 0], expected), (image.mode, form)
    pgm = b"P5\n32 24\n65535\n" + GRADIENT.astype(">u2").tobytes()
    assert np.array_equal(decoded(pgm)[..., 0], expected)


def test_16_bit_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    expected = np.rot90(np.rint(GRADIENT / 257).astype(np.uint8), -1)
    assert np.array_equal(decoded(as_bytes(Image.fromarray(GRADIENT), "PNG", exif=exif))[..., 0], expected)


def test_32_bit_and_float_are_scaled() -> None:
    ramp = np.linspace(0, 1, 24 * 32).reshape(24, 32)
    expected = np.rint(ramp.astype(np.float32).astype(np.float64) * 255)
    for scale, offset in ((1, 0), (255, 0), (1000, -300)):
        image = Image.fromarray((ramp * scale + offset).astype(np.float32))
        assert image.mode == "F"
        assert np.abs(decoded(as_bytes(image, "TIFF"))[..., 0] - expected).max() <= 1, scale
    wide = Image.fromarray((ramp * 2_000_000_000 - 1_000_000_000).astype(np.int32))
    assert wide.mode == "I"
    assert np.abs(decoded(as_bytes(wide, "TIFF"))[..., 0] - expected).max() <= 1


def test_float_without_a_range_is_black() -> None:
    for value in (np.nan, np.inf, -5.0):
        values = np.full((4, 4), value, dtype=np.float32)
        assert (decoded(as_bytes(Image.fromarray(values), "TIFF")) == 0).all()


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(form: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    pixels = decoded(as_bytes(frames[0], form, save_all=True, append_images=frames[1:]))
    assert np.abs(pixels.astype(int) - [250, 0, 0]).max() <= 8


def test_decompression_bombs_are_refused_from_the_header() -> None:
    for width, height in ((40_000, 40_000), (20_000, 9_000), (2_000_000_000, 2_000_000_000)):
        assert "decompression bomb" in str(decode_one(png(width, height))[1])


def test_the_limit_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.decode.image.MAX_PIXELS", 1199)
    assert (
        decode_one(as_bytes(NOISE, "PNG"))[1]
        == "decode: decompression bomb: 40 x 30 is more than 1199 pixels: scale it down"
    )


def test_large_pictures_do_not_warn() -> None:
    image, error = decode_one(png(12_000, 9_000))
    # It is above Pillow's limit for a warning, which `decode_one` makes an error.
    assert (image is None) == (error is not None)


def test_rejects_say_why() -> None:
    assert decode_one(None)[1] == "decode: no content"
    assert decode_one(b"")[1] == "decode: empty"
    assert decode_one("words")[1] == "decode: not an image: text"
    assert decode_one(b"words in a .jpg")[1] == "decode: not an image in a known format, 15 bytes"
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    assert str(decode_one(eps)[1]).startswith("decode: not an image")


def test_truncated_jpeg_is_rejected() -> None:
    whole = as_bytes(NOISE.resize((400, 300)), "JPEG")
    assert str(decode_one(whole[: len(whole) // 2])[1]).startswith("decode: broken JPEG: image file is truncated")
    for length in range(1, 600, 37):
        assert decode_one(whole[:length])[0] is None


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_truncated_pictures_are_rejected(form: str) -> None:
    whole = as_bytes(NOISE, form)
    assert decode_one(whole[: len(whole) // 2])[0] is None


def test_image_is_independent_of_the_bytes() -> None:
    content = bytearray(as_bytes(NOISE, "BMP"))
    image, _ = decode_one(content)
    assert image is not None
    content[:] = bytes(len(content))
    assert np.array_equal(np.asarray(image), np.asarray(NOISE))


@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF"]), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_damaged_pictures_never_crash(form: str, rng: random.Random) -> None:
    content = bytearray(as_bytes(NOISE, form))
    for _ in range(8):
        content[rng.randrange(min(len(content), 300))] = rng.randrange(256)
    image, error = decode_one(bytes(content))
    assert (image is None) == (error is not None)


def test_cifar_jpegs() -> None:
    if not CIFAR.is_dir():
        pytest.skip(f"no CIFAR-10 pictures at {CIFAR.resolve()}: set LATENTLAKE_TEST_DATA")
    paths = sorted(CIFAR.glob("*/000*.jpg"))
    assert paths
    batch = decode(make_batch([str(p) for p in paths], [p.read_bytes() for p in paths]))
    assert all(error is None for error in batch["error"])
    assert {image.size for image in batch["image"]} == {(32, 32)}
    with Image.open(paths[0]) as plain:
        assert np.array_equal(np.asarray(batch["image"][0]), np.asarray(plain))
