from __future__ import annotations

import encodings.aliases
import io
import random
import re
import time
import zlib
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from languages import TEXTS as LANGUAGES
from languages import encodings_of
from PIL import Image

from operators.batch import RowError, make_batch
from operators.decode import find_decoder
from operators.decode.text import CONTROL, SAMPLE_BYTES, decode, decode_content

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
        ("L'été, à Paris", "cp1252"),
        ("Une journée à la plage", "latin-1"),
        ("José García, São Paulo", "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN * 3, "koi8_r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (CHINESE, "gb18030"),
    ],
)
def test_legacy_encodings(text: str, encoding: str) -> None:
    assert decode_one(text.encode(encoding)) == (text, None)


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        ("naïve", "cp1252", "CP1252"),
        ("“hi” – he said", "cp1252", "CP1252"),
        ("มนุษย์ทั้งหลาย", "utf-16-le", "control characters"),
        (GERMAN, "cp850", ""),
        (RUSSIAN, "cp855", ""),
        (JAPANESE, "iso2022_jp", "ISO2022_JP"),
        ("한국어 텍스트입니다", "iso2022_kr", "ISO2022_KR"),
        (CHINESE, "hz", "HZ"),
        ("Größe und Fläche der Häuser", "utf-7", "UTF_7"),
    ],
)
def test_what_could_be_another_text_is_rejected_with_the_guess(text: str, encoding: str, guess: str) -> None:
    decoded, error = decode_one(text.encode(encoding))
    assert decoded is None and error is not None
    assert (
        error.startswith(f"decode: not text: {guess}") and "perhaps" in error and "state `decode: {encoding: " in error
    )
    assert decode(make_batch(["a"], [text.encode(encoding)]), encoding=encoding)["text"][0] == text


@pytest.mark.parametrize(
    "text",
    [
        "".join(map(chr, range(1, 32)))
        + "all control characters, in a text that is long enough for them to be few; a naughty string " * 2,
        "\x1b[31mred\x1b[0m and \x1b(B\x1b[m plain",
        'call +49-30-1234 or +1-800-555-0199, "C++"-style +abc- x',
        '(format t "~{~A~^, ~}" list) ~{ab~} ~ {x}',
        "dGhpcyBpcyBiYXNlNjQ+abc/def== a+b=c+d",
        "x ~{!!~ y",
    ],
)
def test_ascii_stays_ascii(text: str) -> None:
    assert decode_one(text.encode()) == (text, None)


CODECS = sorted(set(encodings.aliases.aliases.values()) - {"idna", "punycode", "unicode_escape", "raw_unicode_escape"})


def test_a_stated_encoding_holds() -> None:
    for text in LANGUAGES.values():
        for codec, content in encodings_of(text, CODECS).items():
            assert decode(make_batch(["a"], [content]), encoding=codec)["text"][0] == text
    assert decode_content("é".encode(), "utf-8") == "é"
    assert (
        decode_content(b"\xef\xbb\xbfa", "utf-8") == decode_content("\ufeffa".encode("utf-16-le"), "utf-16-le") == "a"
    )
    with pytest.raises(RowError, match="not text: broken CP932 at byte 1"):
        decode_content(b"a\x81", "cp932")
    with pytest.raises(RowError, match="not text: a NUL"):
        decode_content(b"a\0", "cp437")


def test_few_texts_are_decoded_to_other_ones() -> None:
    """Every third of the texts in every encoding. Of all 4,236, version 1 alone decoded 1,733 wrongly, and now 17."""
    verdicts = Counter[str]()
    for language, text in LANGUAGES.items():
        sentence = re.split(r"(?<=[.。։]) ?", text)[0]
        for size, part in (
            ("words", " ".join(text.split()[:4])[:30]),
            ("sentence", sentence),
            ("page", (text + "\n") * 5),
        ):
            for codec, content in encodings_of(part, CODECS).items():
                if content.isascii() and content.decode("ascii") == part:
                    continue
                if zlib.crc32(f"{language} {size} {codec}".encode()) % 3:
                    continue
                decoded, _ = decode_one(content)
                verdicts["reject" if decoded is None else "right" if decoded == part else "wrong"] += 1
    assert verdicts.total() > 900
    assert verdicts["wrong"] <= 0.01 * verdicts.total()
    assert verdicts["right"] >= 0.35 * verdicts.total()  # the others are mostly in encodings that nobody used for them


def test_the_usual_encodings_are_known() -> None:
    usual = {
        "cp1252": ("french", "german", "spanish", "portuguese", "swedish", "danish", "icelandic"),
        "cp1251": ("russian", "ukrainian", "serbian"),
        "koi8_r": ("russian",),
        "cp1253": ("greek",),
        "cp1255": ("hebrew",),
        "cp1256": ("arabic",),
        "shift_jis": ("japanese",),
        "euc_jp": ("japanese",),
        "gb18030": ("chinese",),
        "big5": ("taiwanese",),
        "cp949": ("korean",),
        "utf_16_le": ("russian", "english", "greek", "japanese"),
        "utf_32_be": ("russian", "english", "greek", "japanese"),
    }
    for codec, languages in usual.items():
        for language in languages:
            page = (LANGUAGES[language] + "\n") * 3
            assert decode_one(page.encode(codec)) == (page, None), (codec, language)


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
    assume(len(CONTROL.findall(text)) <= len(text) // 4)
    assert decode_one(text.encode()) == (text, None)
