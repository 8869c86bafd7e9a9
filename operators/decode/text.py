"""Bytes to text.

A byte order mark or strict UTF-8 decides; otherwise charset_normalizer guesses on a sample, the whole content must then decode
strictly, and chardet must come to the same text by more than `MARGIN`. What is no text in any of these, or could as well be
another one, is rejected rather than turned into mojibake, unless the job states the encoding.

A guess only ever loses by a younger rule: what is decoded is what VERSION 1 made of it, or a reject.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from operators.batch import Batch, RowError, map_rows
from operators.decode._guessing import LEGACY, SAMPLE_BYTES, WIDE, guess_encodings, rival_of, shifting_encoding
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

CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")


class Options(BaseModel):
    """What a job may say of its texts: `encoding`, Python's name of one, is what all of them are in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoding: str | None = None

    @field_validator("encoding")
    @classmethod
    def a_known_encoding(cls, name: str | None) -> str | None:
        """Python's own name of it."""
        try:
            "".encode(name or "utf-8")
            return None if name is None else codecs.lookup(name).name
        except (LookupError, ValueError) as failure:
            raise ValueError("no encoding of that name; Python's names hold, such as cp437 or iso2022_jp") from failure


def decode(batch: Batch, *, encoding: str | None = None) -> Batch:
    """Decode `content` (bytes; str passes as it is) to str in `text`; see `Options`.

    A row without text gets `error="decode: empty"`, one that is no text `error="decode: not text: <reason>"`.
    """

    def decode_one(content: Any) -> str:
        return decode_content(content, encoding)

    return map_rows(batch, decode_one, column="content", into=COLUMN, stage="decode")


def decode_content(content: Any, encoding: str | None = None) -> str:
    """Decode one object. Raises `RowError` if there is no text."""
    if content is None:
        raise RowError("no content")
    check_length(len(content) // 4 if isinstance(content, bytes) else 0)  # no character takes more bytes
    if isinstance(content, str):
        check_length(len(content))
        text = check_encodable(content)
    elif isinstance(content, bytes | bytearray | memoryview):
        text = decode_bytes(bytes(content)) if encoding is None else decode_stated(bytes(content), encoding)
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


def decode_stated(content: bytes, encoding: str) -> str:
    """Decode strictly in the encoding that the job states; a mark at the beginning is no text."""
    return check_encodable(refuse_nul(decode_as(content, encoding)).removeprefix("\ufeff"))


def check_encodable(text: str) -> str:
    """Return `text`; raise `RowError` for lone surrogates, which neither Arrow nor a tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as failure:
        raise RowError(f"not text: a lone surrogate at character {failure.start}") from failure
    return text


def decode_bytes(content: bytes) -> str:
    """Decode by mark, as UTF-8, or by the best guess. Raises `RowError` if none fits."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return refuse_nul(decode_as(content, encoding))
    if b"\0" in content:
        return refuse_nul(decode_guess(content, content[:SAMPLE_BYTES], WIDE))
    if content.isascii() and (shifting := shifting_encoding(content)):
        raise RowError(f"not text: {shifting.upper()} perhaps; state `decode: {{encoding: {shifting}}}`")
    try:
        text = content.decode()
    except UnicodeDecodeError as failure:
        sample = sample_around(content, failure.start)
        if mostly_utf8(sample):
            raise RowError(f"not text: broken UTF-8 at byte {failure.start}") from failure
        return decode_guess(content, sample, LEGACY)
    head = text[:SAMPLE_BYTES]
    if len(CONTROL.findall(head)) > len(head) // 4:
        raise RowError("not text: control characters, of UTF-16 perhaps; state `decode: {encoding: …}` if it is")
    return text


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
            if other := rival_of(encoding, sample):
                raise RowError(
                    f"not text: {encoding.upper()} perhaps, or {other.upper()}; state `decode: {{encoding: …}}`"
                )
            return text
    raise RowError(f"not text: {len(content)} bytes in no known encoding")


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
