"""Odd files of pictures: every format and mode that Pillow writes, and what happens to files. `python tests/odd_images.py FOLDER [COUNT] [SEED]`."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from operators.decode.image import FORMATS

PICTURE, REJECT = "picture", "reject"
ORIENTATION = 0x0112
SUFFIXES = (".jpg", ".png", ".JPG", ".jpeg", ".tif", ".txt", ".wav", "", ".gif", ".webp")
# Format, modes, options of the writer.
WRITERS: list[tuple[str, tuple[str, ...], dict[str, object]]] = [
    ("JPEG", ("1", "L", "RGB", "CMYK", "YCbCr"), {"quality": 60}),
    ("JPEG", ("L", "RGB"), {"progressive": True, "optimize": True}),
    ("JPEG", ("RGB",), {"subsampling": 2, "quality": 5}),
    ("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), {}),
    ("PNG", ("P", "L"), {"transparency": 0}),
    ("PNG", ("RGB",), {"transparency": (0, 0, 0)}),
    ("GIF", ("1", "L", "P", "RGB", "RGBA"), {"interlace": 1}),
    ("WEBP", ("RGB", "RGBA", "L"), {"lossless": True}),
    ("WEBP", ("RGB", "RGBA"), {"quality": 10}),
    ("TIFF", ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"), {}),
    ("TIFF", ("1", "L", "RGB", "RGBA", "I;16"), {"compression": "tiff_lzw"}),
    ("TIFF", ("L", "RGB"), {"compression": "tiff_adobe_deflate"}),
    ("TIFF", ("1",), {"compression": "group4"}),
    ("TIFF", ("RGB",), {"compression": "jpeg"}),
    ("TIFF", ("RGB", "L"), {"big_tiff": True}),
    ("BMP", ("1", "L", "P", "RGB", "RGBA"), {}),
    ("DIB", ("L", "RGB"), {}),
    ("JPEG2000", ("L", "LA", "RGB", "RGBA"), {}),
    ("AVIF", ("RGB", "RGBA", "L"), {}),
    ("ICO", ("RGB", "RGBA", "P"), {}),
    ("PPM", ("1", "L", "RGB", "I"), {}),
    ("QOI", ("RGB", "RGBA"), {}),
]


def write_odd_images(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Write `count` files; by name what Pillow makes of each, read whole: "picture" or "reject"."""
    random = Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    kinds, verdicts = sorted(KINDS), {}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        content = KINDS[kind](random)
        name = f"{number:05}-{kind}{random.choice(SUFFIXES)}"
        (folder / name).write_bytes(content)
        verdicts[name] = judge(content)
    return verdicts


def judge(content: bytes) -> str:
    """Pillow's own verdict on a file: whether it opens it as one of our formats and loads its pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.open(io.BytesIO(content), formats=FORMATS).load()
        except Exception:
            return REJECT
    return PICTURE


def picture(random: Random, mode: str, size: tuple[int, int] | None = None) -> Image.Image:
    """Smooth colours and noise in any mode."""
    width, height = size or (random.randint(1, 90), random.randint(1, 90))
    noise = np.random.default_rng(random.randrange(2**31)).integers(0, 255, (height, width, 4), dtype=np.uint8)
    noise[: height // 2] = random.randrange(256)
    image = Image.fromarray(noise, "RGBA")
    if mode == "I;16":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    if mode in {"I", "F"}:
        return Image.fromarray(noise[..., 0].astype(np.int32 if mode == "I" else np.float32))
    if mode == "LAB":
        profile = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        return ImageCms.applyTransform(image.convert("RGB"), profile)
    if mode == "PA":
        return image.convert("LA").convert("PA")
    return image.convert(mode) if mode in {"LA", "RGBA"} else image.convert("RGB").convert(mode)


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    """A picture as bytes."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def whole(random: Random) -> bytes:
    """Any format, mode and setting that Pillow writes."""
    form, modes, options = random.choice(WRITERS)
    return encode(picture(random, random.choice(modes)), form, **options)


def strip(random: Random) -> bytes:
    """One pixel, or long and thin."""
    size = random.choice(((1, 1), (1, 4000), (4000, 1), (2, 9000), (65_000, 1)))
    return encode(picture(random, "RGB", size), random.choice(("PNG", "BMP", "TIFF", "PPM", "QOI")))


def turned(random: Random) -> bytes:
    """EXIF that turns the picture, says nonsense, or is damaged."""
    exif = Image.Exif()
    exif[ORIENTATION] = random.choice((1, 2, 3, 6, 8, 0, 9, 65_535))
    told = exif.tobytes()
    if random.random() < 0.4:
        told = told[: random.randrange(7, len(told))] + random.randbytes(random.randrange(20))
    return encode(picture(random, "RGB"), random.choice(("JPEG", "PNG", "WEBP")), exif=told)


def animated(random: Random) -> bytes:
    """Several frames or pages, of which the first counts."""
    mode = random.choice(("RGB", "RGBA", "L"))
    frames = [picture(random, mode, (31, 17)) for _ in range(random.randint(2, 6))]
    form = random.choice(("GIF", "PNG", "WEBP", "TIFF", "AVIF"))
    return encode(frames[0], form, save_all=True, append_images=frames[1:], duration=40)


def profiled(random: Random) -> bytes:
    """A colour profile, whole or damaged, and texts."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if random.random() < 0.5:
        profile = profile[: random.randrange(1, len(profile))]
    form = random.choice(("JPEG", "PNG", "WEBP", "TIFF"))
    options: dict[str, object] = {"icc_profile": profile}
    if form == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("Title", "grüße \u202e")
        texts.add_text("Comment", "x" * random.randrange(5000), zip=True)
        options["pnginfo"] = texts
    return encode(picture(random, "RGB"), form, **options)


def cut(random: Random) -> bytes:
    """Truncated anywhere."""
    content = whole(random)
    return content[: random.randrange(len(content))]


def trailed(random: Random) -> bytes:
    """Something behind the picture, or before it."""
    junk = random.choice((b"\0" * 400, b"<?php ?>", random.randbytes(90), whole(random)))
    return whole(random) + junk if random.random() < 0.7 else junk + whole(random)


def flipped(random: Random) -> bytes:
    """A few bytes are others."""
    content = bytearray(whole(random))
    for _ in range(random.randint(1, 6)):
        content[random.randrange(len(content))] ^= random.randrange(1, 256)
    return bytes(content)


def header(random: Random) -> bytes:
    """A header that claims an absurd size, with next to no data."""
    width, height = random.choice(
        ((100_000, 100_000), (2**31 - 1, 1), (0, 5), (5, 0), (20_000, 20_000), (13_000, 13_000))
    )
    if random.random() < 0.5:
        told = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        parts = [told, b"IDAT" + zlib.compress(bytes(100)), b"IEND"]
        chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width % 2**31, height, 1, 24, 0, 0, 0, 0, 0, 0)


def other(random: Random) -> bytes:
    """No picture at all."""
    return random.choice(
        (
            b"", b"\0", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"RIFF\0\0\0\0WEBP", b"P6 1 1 255\n",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"a text",
            b"#define im_width 1\n#define im_height 1\nstatic char im_bits[] = {0};", random.randbytes(500),
            encode(picture(random, "RGB"), "TGA"), encode(picture(random, "RGB"), "PDF"), encode(picture(random, "RGB"), "EPS"),
        )
    )  # fmt: skip


KINDS: dict[str, Callable[[Random], bytes]] = {
    "whole": whole, "whole2": whole, "strip": strip, "turned": turned, "animated": animated, "profiled": profiled, "cut": cut,
    "trailed": trailed, "flipped": flipped, "header": header, "other": other,
}  # fmt: skip

if __name__ == "__main__":
    place, *numbers = sys.argv[1:]
    verdicts = write_odd_images(Path(place), *(int(number) for number in numbers or (1000, 0)))
    print(
        f"{sum(v == PICTURE for v in verdicts.values())} pictures, {sum(v == REJECT for v in verdicts.values())} rejects"
    )
