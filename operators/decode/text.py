"""Bytes to text.

A byte order mark or strict UTF-8 decides; otherwise charset_normalizer guesses on a sample, and the whole content must
then decode strictly. What is no text in any of these is rejected rather than turned into mojibake.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from operators.batch import Batch, RowError, map_rows
from operators.limits import MAX_CHARS

COLUMN = "text"
VERSION = 1

# Longest first: the mark of UTF-32-LE starts with that of UTF-16-LE.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# Of legacy encodings those that browsers decode (https://encoding.spec.whatwg.org/#names-and-labels), less the rarest:
# with EBCDIC and cp1006 among the candidates a lone "café" in Latin-1 comes out as "cafﻠ".
LEGACY = (
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp866", "cp874"),
    *("iso8859_2", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_8", "iso8859_15", "koi8_r", "koi8_u"),
    *("mac_roman", "mac_cyrillic", "gb18030", "big5", "big5hkscs", "cp932", "shift_jis", "euc_jp", "cp949", "euc_kr"),
)
WIDE = ("utf_16_le", "utf_16_be", "utf_32_le", "utf_32_be")
PREFERRED = "cp1252"  # among equal guesses, as in browsers

SAMPLE_BYTES = 65_536
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")


def decode(batch: Batch) -> Batch:
    """Decode `content` (bytes; str passes as it is) to str in `text`.

    A row without text gets `error="decode: empty"`, one that is no text `error="decode: not text: <reason>"`.
    """
    return map_rows(batch, decode_content, column="content", into=COLUMN, stage="decode")


def decode_content(content: Any) -> str:
    """Decode one object. Raises `RowError` where there is no text."""
    if content is None:
        raise RowError("no content")
    check_length(len(content) // 4 if isinstance(content, bytes) else 0)  # no character takes more bytes
    if isinstance(content, str):
        check_length(len(content))
        text = check_encodable(content)
    elif isinstance(content, bytes | bytearray | memoryview):
        text = decode_bytes(bytes(content))
    else:
        raise RowError(f"not text: a {type(content).__name__}")
    check_length(len(text))
    if not text or text.isspace():
        raise RowError("empty")
    return text


def check_length(chars: int) -> None:
    """Raise `RowError` for a text that is longer than a row may be."""
    if chars > MAX_CHARS:
        raise RowError(f"{chars} characters or more, above {MAX_CHARS}: split the object")


def check_encodable(text: str) -> str:
    """Return `text`; raise `RowError` for lone surrogates, which neither Arrow nor a tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as failure:
        raise RowError(f"not text: a lone surrogate at character {failure.start}") from failure
    return text


def decode_bytes(content: bytes) -> str:
    """Decode by mark, as UTF-8, or by the best guess. Raises `RowError` where none fits."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return refuse_nul(decode_as(content, encoding))
    if b"\0" in content:
        return refuse_nul(decode_guess(content, content[:SAMPLE_BYTES], WIDE))
    try:
        return content.decode()
    except UnicodeDecodeError as failure:
        sample = sample_around(content, failure.start)
        if mostly_utf8(sample):
            raise RowError(f"not text: broken UTF-8 at byte {failure.start}") from failure
        return decode_guess(content, sample, LEGACY)


def decode_as(content: bytes, encoding: str) -> str:
    """Decode strictly. Raises `RowError` with the encoding and where it breaks."""
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as failure:
        raise RowError(f"not text: broken {encoding.upper()} at byte {failure.start}") from failure


def decode_guess(content: bytes, sample: bytes, encodings: tuple[str, ...]) -> str:
    """Decode with the first of the guesses on `sample`, best first, that decodes all of `content` to printable text."""
    for encoding in guess_encodings(sample, encodings):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        head = text[:SAMPLE_BYTES]
        if len(CONTROL.findall(head)) <= 1 + len(head) // 100:
            return text
    raise RowError(f"not text: {len(content)} bytes in no known encoding")


def guess_encodings(sample: bytes, encodings: tuple[str, ...]) -> list[str]:
    """Those of `encodings` that charset_normalizer takes for likely, the best first."""
    from charset_normalizer import from_bytes

    matches = list(from_bytes(sample, cp_isolation=list(encodings), enable_fallback=False))
    if not matches:
        return []
    tied = [m for m in matches if (m.chaos, m.coherence) == (matches[0].chaos, matches[0].coherence)]
    first = [PREFERRED] if any(PREFERRED in m.could_be_from_charset for m in tied) else []
    return first + [m.encoding for m in matches]


def sample_around(content: bytes, position: int) -> bytes:
    """About `SAMPLE_BYTES` of `content` around `position`, cut where no character of a multi-byte encoding is split.

    Bytes up to a space stand for themselves in all of `LEGACY`, so the cuts are made at a line break or a space.
    """
    low, high = max(0, position - SAMPLE_BYTES // 2), position + SAMPLE_BYTES // 2
    start = max(content.rfind(b"\n", low, position), content.rfind(b" ", low, position)) + 1 if low else 0
    stop = max(content.rfind(b"\n", position, high), content.rfind(b" ", position, high))
    return content[start or low : stop if stop >= 0 and high < len(content) else high]


def mostly_utf8(sample: bytes) -> bool:
    """Whether more of what is not ASCII in `sample` is valid UTF-8 than is not: a damaged file, no legacy encoding."""
    text = sample.decode(errors="replace")
    broken = text.count("\ufffd")
    return sum(not c.isascii() for c in text) - broken > broken


def refuse_nul(text: str) -> str:
    """Return `text`; raise `RowError` where it holds a NUL, which no text does."""
    if (position := text.find("\0")) >= 0:
        raise RowError(f"not text: a NUL at character {position}")
    return text
