"""What decoders and operators take of memory at their peak, against the bounds in `operators.limits`."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peak_memory import peaks_of
from PIL import Image
from pydantic import ValidationError
from sound_maker import sndfile_bytes

from operators.batch import Waveform, make_batch, object_array
from operators.decode import find_decoder, modality_names
from operators.embedders.hashing import Config
from operators.limits import PEAKS
from operators.preprocess import find_operator, operators_by_name

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"), pytest.mark.slow]
SLACK = 20 * 2**20  # what libraries take beside

SIDE = 1200  # of pictures
SAMPLES = 6_000_000
CHARS = 3_000_000
CHUNKS = 40_000

# Each operator goes once over something tiny, so that what it imports is there before it is measured.
TOOLS = """
import numpy as np
from PIL import Image
from operators.batch import Waveform, make_batch, object_array
from operators.decode import find_decoder
from operators.preprocess import find_operator
def apply(name, into, values, /, **params):
    for value, run in zip(values, (lambda _, work: work(), measure)):
        batch = {**make_batch(["a"], [b""]), into: object_array([value])}
        made = run(name, lambda: find_operator(name).apply(batch, **params))
    assert made["error"][0] is None, made["error"][0]
    assert made["filtered"][0] is None, made["filtered"][0]
def decode(modality):
    tiny, *contents = inputs
    for content in tiny:
        find_decoder(modality).decode_content(content)
    for content in contents:
        measure("decode " + modality, lambda: find_decoder(modality).decode_content(content))
def galaxy(side):
    line = 240 * np.exp(-((np.arange(side) - side / 2.5) ** 2) / (side / 6) ** 2)
    return np.sqrt(np.outer(line, line[::-1])).astype(np.float32)
"""

OPERATORS = {
    "resize_image": f'"image", [Image.new("RGB", (1, 9)), Image.new("RGB", (1, 600))], size={SIDE // 25}',
    "center_crop": f'"image", [Image.new("RGB", (9, 9)), Image.new("RGB", (60_000, 40))], size={SIDE}',
    **dict.fromkeys(
        ("center_mass", "align_principal_axis", "scale_to_radius", "normalize_intensity"),
        f'"image", [galaxy(64), np.stack([galaxy({SIDE})] * 3, axis=-1)]',
    ),
    **dict.fromkeys(
        ("trim_silence", "normalize_loudness"),
        f'"audio", [Waveform(np.ones(9000, np.float32), 8_000), Waveform(np.ones({SAMPLES}, np.float32), 8_000)]',
    ),
    "limit_duration": f'"audio", [Waveform(np.ones({SAMPLES}, np.float32), 8_000)] * 2, max_seconds=900, action="cut"',
    "resample": f'"audio", [Waveform(np.ones(n, np.float32), 8_000) for n in (9, {SAMPLES // 2})], rate=16_000',
    "window_audio": f'"audio", [Waveform(np.ones({CHUNKS}, np.float32), 8_000)] * 2, seconds=1e-3, overlap_seconds=8.7e-4',
    "clean_text": f'"text", ["a", ("wörd  &amp; " * 500 + "\\n\\t") * {CHARS // 5502}]',
    "truncate_text": f'"text", ["日本" * {CHARS // 2}] * 2, max_chars={CHARS - 1}',
    "drop_short_text": f'"text", ["日本" * {CHARS // 2}] * 2, min_chars=3',
    "chunk_text": f'"text", ["a b", "word other " * {CHUNKS}], column="v", max_tokens=2, tokenizer='
    "__import__('operators.embedders.hashing', fromlist=['Config']).Config()",
}
UNITS = {"pixels": SIDE**2, "samples": SAMPLES, "characters": CHARS, "rows": CHUNKS}


def check(peaks: dict[str, int]) -> None:
    for name, peak in peaks.items():
        bound = PEAKS[name]
        units = UNITS[bound.unit]
        print(f"{name}: {peak / units:.1f} bytes per unit")
        assert peak <= bound.bytes_per_unit * units + SLACK, (name, peak / units)


def test_there_is_a_bound_for_each():
    known = {*operators_by_name(), *(f"decode {name}" for name in modality_names())}
    assert set(PEAKS) == known == {*OPERATORS, *DECODED}


@pytest.mark.parametrize("modality", [("image", "scientific_image"), ("audio",), ("text",)])
def test_operators_keep_to_their_bounds(modality: tuple[str, ...]):
    names = [name for name, known in operators_by_name().items() if set(known.modalities) & set(modality)]
    check(peaks_of(TOOLS + "\n".join(f"apply({name!r}, {OPERATORS[name]})" for name in names)))


def pictures() -> list[Any]:
    """Tiny ones to begin with, then a picture in each format at its most expensive: several frames, alpha, deep, one strip."""
    ramp = (np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 251).astype(np.uint8)
    color, alpha = np.stack([ramp] * 3, axis=-1), np.stack([ramp] * 4, axis=-1)
    frames = {"save_all": True, "append_images": [Image.new("RGB", (SIDE, SIDE), "red")] * 2}
    wanted: list[tuple[np.ndarray, str, dict[str, Any]]] = [
        (color, "JPEG", {"progressive": True, "subsampling": 0}),
        (alpha, "PNG", {"compress_level": 1}),
        (ramp.astype(np.uint16) * 250, "PNG", {"compress_level": 1}),
        (color, "PNG", {"compress_level": 1, **frames}),
        (ramp.astype(np.float32), "TIFF", {}),
        (ramp.astype(np.uint16) * 250, "TIFF", {"compression": "tiff_lzw", "tiffinfo": {278: SIDE}}),
        (color, "TIFF", frames),
        (color, "WEBP", {"quality": 10, "method": 0, **frames}),
        (alpha, "AVIF", {"speed": 10, "quality": 30}),
        (alpha, "JPEG2000", {}),
        (color, "GIF", frames),
    ]
    tiny = [saved(Image.new("RGB", (9, 9)).save, form) for form in dict.fromkeys(form for _, form, _ in wanted)]
    return [tiny, *(saved(Image.fromarray(pixels).save, form, **how) for pixels, form, how in wanted)]


def scientific_images() -> list[Any]:
    """Likewise, of float64 with NaN, of one strip, of tiles, and of compressed tiles."""
    fits = pytest.importorskip("astropy.io.fits")
    tifffile = pytest.importorskip("tifffile")
    deep = np.random.default_rng(0).normal(size=(SIDE, SIDE))
    deep[::7, ::7] = np.nan
    whole = (np.nan_to_num(deep) * 1000).astype(np.int32)

    def files(deep: np.ndarray, whole: np.ndarray) -> list[bytes]:
        return [
            saved(lambda file: np.save(file, deep)),
            saved(tifffile.imwrite, deep, compression="zlib", rowsperstrip=len(deep)),
            saved(tifffile.imwrite, whole, tile=(512, 512)),
            saved(fits.PrimaryHDU(deep).writeto),
            saved(fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(whole)]).writeto),
        ]

    return [files(deep[:20, :20], whole[:20, :20]), *files(deep, whole)]


def sounds() -> list[Any]:
    """Likewise, by libsndfile and by ffmpeg."""
    samples = (np.random.default_rng(0).normal(size=SAMPLES) * 0.1).astype(np.float32)
    return [
        [sndfile_bytes(samples[:9000], 44_100, form) for form in ("FLAC", "MP3")],
        *(sndfile_bytes(samples, 44_100, form) for form in ("FLAC", "MP3", "WAV")),
    ]


def texts() -> list[Any]:
    """Likewise, where one character needs the most room, and in UTF-16."""
    return [
        [b"a"],
        ("a" * (CHARS - 1) + "\U0001f600").encode(),
        ("日本" * (CHARS // 2)).encode("utf-16"),
        "é" * CHARS,
    ]


def saved(write: Callable[..., Any], *what: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    write(file, *what, **how)
    return file.getvalue()


DECODED: dict[str, Callable[[], list[Any]]] = {
    "decode image": pictures,
    "decode scientific_image": scientific_images,
    "decode audio": sounds,
    "decode text": texts,
}


@pytest.mark.parametrize("name", DECODED)
def test_decoders_keep_to_their_bounds(name: str):
    check(peaks_of(f"{TOOLS}\ndecode({name.removeprefix('decode ')!r})", DECODED[name]()))


def png_header(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + head
        + struct.pack(">I", zlib.crc32(head))
        + b"\0\0\0\x0aIDAT"
        + bytes(64)
    )


def tiff_header(width: int, height: int) -> bytes:
    """A TIFF of one strip that is not there, of 16 bits."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1)]
    entries += [(278, 4, height), (279, 4, 2 * width * height % 2**32)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(200)


def black() -> Image.Image:
    """200 megapixels."""
    return Image.new("1", (20_000, 10_000))


def picture_bombs() -> list[bytes]:
    """Contents that are small, and say that they are large."""
    return [
        saved(black().save, "TIFF", compression="group4"),
        saved(black().save, "PNG"),
        saved(black().convert("L").save, "GIF"),
        png_header(2**31 - 1, 2**31 - 1),
        png_header(65_000, 65_000),
        tiff_header(65_000, 65_000),
        b"BM" + struct.pack("<IIIIiiHH", 200, 0, 54, 40, 60_000, 60_000, 1, 24) + bytes(100),
        b"P6 60000 60000 255\n" + bytes(100),
        b"qoif" + struct.pack(">IIBB", 60_000, 60_000, 3, 0) + bytes(50),
    ]


def scientific_bombs() -> list[bytes]:
    """Likewise."""
    npy = saved(lambda file: np.save(file, np.zeros((1, 1)))).replace(b"(1, 1)", b"(99999, 99999)")
    fits = b"".join(
        f"{name:8}= {value:>20}".ljust(80).encode()
        for name, value in (("SIMPLE", "T"), ("BITPIX", 16), ("NAXIS", 2), ("NAXIS1", 99_999), ("NAXIS2", 99_999))
    )
    deflated = saved(black().save, "TIFF", compression="tiff_deflate")
    return [deflated, tiff_header(65_000, 65_000), npy, (fits + b"END".ljust(80)).ljust(2880)]


def sound_bombs() -> list[bytes]:
    """Likewise."""
    return [sndfile_bytes(np.zeros(22_000_000, np.int16), 1_000, "FLAC")]


BOMBS = {"image": picture_bombs, "scientific_image": scientific_bombs, "audio": sound_bombs}


@pytest.mark.parametrize("modality", BOMBS)
def test_bombs_are_rejected_before_they_take_memory(modality: str):
    contents = BOMBS[modality]()
    code = f"""
from operators.batch import make_batch
from operators.decode import find_decoder
module = find_decoder({modality!r})
for content in inputs:
    module.decode(make_batch(["a"], [content[:40]]))
errors = measure("all", lambda: module.decode(make_batch([str(k) for k in range(len(inputs))], inputs)))["error"]
wrong = [error for error in errors if "bomb" not in error]
assert not wrong, wrong
"""
    assert peaks_of(code, contents)["all"] < 48 * 2**20


STRIPS = """
from operators.chain import Chain, Step
from operators.batch import make_batch
chain = Chain("image", (Step("resize_image", {"size": 64}),))
chain.run(make_batch(["a"], inputs[:1]), {})
for count in (8, 40):
    def run():
        for piece in chain.pieces(make_batch([str(k) for k in range(count)], inputs[:count]), {}, 2**25):
            pass
    measure(str(count), run)
"""


def test_memory_does_not_grow_with_the_objects_of_a_shard():
    """Strips of 1 x 600, which become 64 x 38,400: 10 MB each."""
    strips = [saved(Image.new("RGB", (1, 600), (number, 5, 9)).save, "PNG") for number in range(40)]
    peaks = peaks_of(STRIPS, strips)
    assert peaks["40"] < 2**25 + 2 * 64 * 38_400 * 4 + SLACK
    assert peaks["40"] < 1.3 * peaks["8"]


def test_the_page_states_the_bounds():
    page = (Path(__file__).parents[2] / "docs" / "preprocess.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if "bytes per" in line]
    found = {name.strip("| "): row for row in rows for name in row[0].split(", ")}
    assert set(found) == set(PEAKS)
    for name, bound in PEAKS.items():
        _, most, memory = found[name]
        assert f"{bound.most:,}" in most, name
        assert f"{bound.bytes_per_unit:,} bytes per {bound.unit.removesuffix('s')}" in memory, name
        assert f"{bound.bytes_per_unit * bound.most / 2**30:.1f} GB" in memory, name


def rejects(operator: str, into: str, values: list[Any], /, **params: Any) -> list[str | None]:
    batch = {**make_batch([str(k) for k in range(len(values))], [b""] * len(values)), into: object_array(values)}
    return find_operator(operator).apply(batch, **params)["error"].tolist()


def test_what_would_grow_too_much_is_rejected_with_the_bound_and_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("operators.preprocess.audio.MAX_ROWS", 10)
    monkeypatch.setattr("operators.preprocess.text.MAX_ROWS", 10)
    sounds = [Waveform(np.ones(n, np.float32), 1_000) for n in (1_000, 20_000)]
    short, long = rejects("window_audio", "audio", sounds, seconds=1.0)
    assert short is None and str(long).startswith("window_audio: 20 windows of 1000 samples are more than 10")
    assert "limit_duration" in str(long)
    short, *_, long = rejects("chunk_text", "text", ["a b", "a " * 50], column="v", max_tokens=2, tokenizer=Config())
    assert short is None
    assert long == (
        "chunk_text: 50 tokens make more than 10 chunks: raise max_tokens, lower overlap, or split the object"
    )
    monkeypatch.setattr("operators.preprocess.text.MAX_CHARS", 100)
    (error,) = rejects("chunk_text", "text", ["a " * 9], column="v", max_tokens=9, overlap=8, tokenizer=Config())
    assert error is None
    monkeypatch.setattr("operators.preprocess.text.MAX_CHARS", 10)
    assert "characters, more than 10: raise" in str(
        rejects("chunk_text", "text", ["a " * 9], column="v", max_tokens=9, tokenizer=Config())[0]
    )
    monkeypatch.setattr("operators.decode.text.MAX_CHARS", 10)
    texts = find_decoder("text").decode(make_batch(["a", "b", "c"], [b"x" * 11, "y" * 11, b"z" * 400]))
    assert all("above 10: split the object" in error for error in texts["error"])
    monkeypatch.setattr("operators.preprocess.scientific_image.MAX_MEASURED_PIXELS", 99)
    for picture in (np.ones((10, 10), np.float32), Image.new("RGB", (10, 10))):
        assert "10 x 10 is more than the 99 pixels" in str(rejects("normalize_intensity", "image", [picture])[0])
    for name in ("resize_image", "center_crop"):
        with pytest.raises(ValidationError):
            find_operator(name).params.model_validate({"size": 20_000})
