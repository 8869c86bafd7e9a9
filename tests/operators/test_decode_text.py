from __future__ import annotations

import io
import random
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from operators.batch import make_batch
from operators.decode import find_decoder
from operators.decode.text import SAMPLE_BYTES, decode

FRENCH = "L'été dernier, à la plage, nous avons mangé des crêpes où il faisait très chaud."
GERMAN = "Der Fluß fließt schön durch Köln; größere Änderungen sind möglich."
RUSSIAN = "Привет, как дела? Это обычный русский текст для проверки."
JAPANESE = "日本語のテキストです。これはシフトJISで書かれています。"
CHINESE = "这是一个中文文本,用于测试编码检测。今天天气很好。"


def decode_one(content: object) -> tuple[str | None, str | None]:
    batch = decode(make_batch(["a"], [content]))
    return batch["text"][0], batch["error"][0]


def as_bytes(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def test_is_the_modality_text() -> None:
    module = find_decoder("text")
    assert (module.COLUMN, module.VERSION) == ("text", 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("text", ["hello, world", FRENCH, JAPANESE + "\n" + JAPANESE, "smile 😀 and the like"])
def test_unicode(text: str, encoding: str) -> None:
    assert decode_one(text.encode(encoding)) == (text, None)


@pytest.mark.parametrize("mark", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_mark_decides(mark: str) -> None:
    assert decode_one(("\ufeff" + JAPANESE).encode(mark)) == (JAPANESE, None)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "latin-1"),
        (GERMAN, "cp1252"),
        ("café", "latin-1"),
        ("naïve", "cp1252"),
        ("“hi” – he said", "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN * 3, "koi8_r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (CHINESE, "gb18030"),
    ],
)
def test_legacy_encodings(text: str, encoding: str) -> None:
    assert decode_one(text.encode(encoding)) == (text, None)


def test_str_passes() -> None:
    assert decode_one("déjà str") == ("déjà str", None)


@pytest.mark.parametrize("content", [b"", "", b" \n\t ", "\u3000\n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_no_text_is_empty(content: bytes | str) -> None:
    assert decode_one(content)[1] == "decode: empty"


def test_no_content() -> None:
    assert decode_one(None) == (None, "decode: no content")


NOISE = Image.frombytes("RGB", (40, 40), random.Random(1).randbytes(4800))


@pytest.mark.parametrize(
    "content",
    [
        *(as_bytes(NOISE, form) for form in ("JPEG", "PNG", "WEBP", "TIFF", "GIF")),
        as_bytes(Image.new("RGB", (4, 4)), "JPEG"),
        zlib.compress(random.Random(2).randbytes(500)),
        b"\0" * 100,
        b"text with a\0NUL",
        b"\xff\xfe" + random.Random(3).randbytes(999),
        b"\xef\xbb\xbf" + b"\xff" * 9,
        bytes(range(256)),
        17,
        "lone \udc80 surrogate",
    ],
)
def test_what_is_no_text_is_rejected(content: object) -> None:
    text, error = decode_one(content)
    assert text is None
    assert error is not None and error.startswith("decode: not text: ")


def test_damaged_utf8_is_not_taken_for_a_legacy_encoding() -> None:
    good = ("The café is closed today. " * 20).encode()
    assert decode_one(good[:100] + b"\xff" + good[100:])[1] == "decode: not text: broken UTF-8 at byte 100"


def test_rows_answer_for_themselves() -> None:
    batch = make_batch(["a", "b", "c"], [b"one", b"\x00\x01\x02", b"three"])
    out = decode(batch)
    assert list(out["text"]) == ["one", None, "three"]
    assert [e is None for e in out["error"]] == [True, False, True]
    assert "text" not in batch and batch["error"][1] is None


@pytest.mark.parametrize("length", [SAMPLE_BYTES + k for k in range(-3, 4)])
@pytest.mark.parametrize("pad", ["", "a", "ab"])
def test_sample_does_not_split_characters(length: int, pad: str) -> None:
    line = JAPANESE + "\n"
    text = pad + line * (2 * length // len(line.encode("shift_jis")))
    assert decode_one(text.encode("shift_jis")) == (text, None)
    wide = "😀 wide and more wide text\n" * 4000
    assert decode_one((pad + wide).encode("utf-16-le")) == (pad + wide, None)


def test_20_mb_take_bounded_time() -> None:
    ascii_mb = b"plain ascii words on a line of a log\n" * 28_340
    latin = FRENCH.encode("latin-1")
    start = time.perf_counter()
    text, error = decode_one(ascii_mb * 19 + latin + ascii_mb)
    assert error is None and text is not None and FRENCH in text
    assert decode_one(ascii_mb * 20)[1] is None
    assert decode_one(random.Random(4).randbytes(20_000_000))[0] is None
    assert decode_one(random.Random(4).randbytes(20_000_000).replace(b"\0", b""))[0] is None
    assert time.perf_counter() - start < 10


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_never_crashes(content: bytes) -> None:
    text, error = decode_one(content)
    assert (text is None) != (error is None)
    if error is not None:
        assert error == "decode: empty" or error.startswith("decode: not text: ")
    if text is not None:
        assert "\0" not in text and text.strip()


@given(st.text(max_size=200).filter(lambda t: t.strip() and "\0" not in t and not t.startswith("\ufeff")))
@settings(max_examples=100, deadline=None)
def test_utf8_round_trip(text: str) -> None:
    assert decode_one(text.encode()) == (text, None)
