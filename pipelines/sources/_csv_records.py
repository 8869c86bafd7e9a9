"""Where the records of a CSV file lie, broken ones included: RFC 4180, read as bytes in bounded memory.

The shape of a file (quotes, delimiters, line ends) is read off its bytes, so that a byte that is no text costs one record,
and a record can be read again from its place. An encoding whose ASCII is not ASCII's bytes has its shape translated first.

A record is broken by a quote that is not closed, by text behind a closing quote and by a lone carriage return (a lone line
feed where lines end in carriage returns). What follows a broken record is ambiguous: is the next line a record, or inside a
field whose quote was opened in the broken one? The next quote tells. Behind a delimiter and before text it opens a field, so
the lines before it are records. Behind text and before a delimiter it closes one, so they are part of the broken record. Where
it could be either they count as broken too: no part of a broken record passes for a record.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, NamedTuple

import numpy as np

BLOCK_BYTES = 1 << 20
RECORD_BYTES = 1 << 27  # of a longer record no end is looked for

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
UNITS = {"utf-16-le": ("<u2", 2), "utf-16-be": (">u2", 2), "utf-32-le": ("<u4", 4), "utf-32-be": (">u4", 4)}
# Encodings of one to four bytes where a byte below 0x30 always stands for its ASCII character.
MULTIBYTE = frozenset(
    {
        *("big5", "big5hkscs", "cp932", "cp949", "cp950", "euc_jis_2004", "euc_jisx0213", "euc_jp", "euc_kr"),
        *("gb18030", "gb2312", "gbk", "johab", "shift_jis", "shift_jis_2004", "shift_jisx0213"),
    }
)
OTHER = 0xFF  # stands for whatever is not ASCII


class Stretch(NamedTuple):
    """`size` bytes of a file from `position` on that are one record, or, with a `fault`, a broken one. Lines count from 1."""

    position: int
    size: int
    content: bytes  # empty if it is broken
    first_line: int
    last_line: int
    fault: str | None = None

    @property
    def lines(self) -> str:
        """Its lines, in words."""
        one = self.first_line == self.last_line
        return f"line {self.first_line}" if one else f"lines {self.first_line} to {self.last_line}"


@dataclass(frozen=True)
class Encoding:
    """How the text of a file is written: Python's name of a codec, the bytes of its smallest unit, and of the file's mark."""

    codec: str
    unit: int = 1
    mark: int = 0

    def shape_of(self, content: bytes) -> bytes:
        """One byte for each unit of `content`: its ASCII character, or `OTHER`."""
        if self.unit == 1:
            table = shape_table(self.codec)
            return content if table is None else content.translate(table)
        units = np.frombuffer(content, UNITS[self.codec][0])
        return np.where(units < 128, units, OTHER).astype(np.uint8).tobytes()


def codec_of(name: str) -> str:
    """Python's name of an encoding that tables may be in. Raises `ValueError`."""
    try:
        "".encode(name)
        codec = codecs.lookup(name).name
    except (LookupError, ValueError) as failure:
        raise ValueError(f"no encoding '{name}'; Python's names hold, such as cp1252, shift_jis or utf-16") from failure
    codec = "utf-8" if codec == "utf-8-sig" else codec
    if codec not in ("utf-16", "utf-32", *UNITS):
        try:
            shape_table(codec)
        except ValueError as failure:
            raise ValueError(f"{failure}; convert the file to UTF-8 first") from failure
    return codec


@lru_cache(maxsize=64)
def shape_table(codec: str) -> bytes | None:
    """What each byte stands for in a file's shape; None: for itself. Raises `ValueError` if that depends on others."""
    if codec in ("utf-8", "ascii") or codec in MULTIBYTE:
        return None
    every = bytes(range(256))
    letters = "" if codec == "hz" or "escape" in codec else every.decode(codec, "replace")
    if len(letters) != 256 or any(every[k : k + 1].decode(codec, "replace") != letters[k] for k in range(256)):
        raise ValueError(f"{codec} has no bytes that always stand for one character")
    return bytes(ord(letter) if letter.isascii() else OTHER for letter in letters)


def check_delimiter(delimiter: str, codec: str | None) -> None:
    """Raise `ValueError` for a delimiter that cannot be told from the rest of a file in this encoding."""
    if delimiter in '"\r\n\0':
        raise ValueError(f"{delimiter!r} cannot separate fields")
    if not delimiter.isascii() and codec not in (None, "utf-8"):
        raise ValueError(f"a delimiter in {codec} is an ASCII character, and {delimiter!r} is none")
    if codec in MULTIBYTE:
        for lead in range(0x80, 0x100):
            pair = bytes([lead, ord(delimiter)])
            try:
                second = len(pair.decode(codec)) == 1
            except UnicodeDecodeError:
                continue
            if second:
                raise ValueError(
                    f"{delimiter!r} is also the second byte of characters in {codec}; convert to UTF-8 first"
                )


def encoding_of(head: bytes, stated: str | None) -> Encoding:
    """The encoding of a file that begins with `head`: as its mark says, unless another one is stated; else UTF-8."""
    for mark, codec in MARKS:
        if head.startswith(mark) and (stated is None or stated in (codec, codec[:6])):
            return Encoding(codec, UNITS.get(codec, ("", 1))[1], len(mark))
    codec = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(stated or "utf-8", stated or "utf-8")
    return Encoding(codec, UNITS.get(codec, ("", 1))[1])


@dataclass(frozen=True)
class Grammar:
    """Regular expressions of records, for a delimiter and the way lines end."""

    record: re.Pattern[bytes]  # with its line end
    last: re.Pattern[bytes]  # with its line end, or the file's
    field: re.Pattern[bytes]  # as far as it is right; it may be empty
    rest: re.Pattern[bytes]  # what may follow a closing quote: more fields, and the line end
    line_end: bytes
    delimiter: bytes

    def walk(self, shape: bytes, at: int) -> tuple[int, int]:
        """Where the last of the fields from `at` on begins, and where it is no field any more."""
        while True:
            end = self.field.match(shape, at).end()  # type: ignore[union-attr]
            if not shape.startswith(self.delimiter, end):
                return at, end
            at = end + len(self.delimiter)


@lru_cache(maxsize=16)
def grammar_of(delimiter: bytes, line_end: bytes) -> Grammar:
    """The grammar of files whose lines end in `line_end`: a line feed, also behind a carriage return, or the other way round."""
    between = re.escape(delimiter)
    if len(delimiter) == 1:
        plain = b'[^"' + between + rb"\r\n][^" + between + rb"\r\n]*+"
    else:
        plain = b'(?!"|' + between + rb")[^\r\n](?:(?!" + between + rb")[^\r\n])*+"
    field = b'(?:"[^"]*+(?:""[^"]*+)*+"|' + plain + b"|)"
    fields, more = field + b"(?:" + between + field + b")*+", b"(?:" + between + field + b")*+"
    end = rb"\r?\n" if line_end == b"\n" else rb"(?:\r\n|\r(?!\n|\Z))"
    last = rb"(?:\r?\n|\Z)" if line_end == b"\n" else rb"(?:\r\n|\r|\Z)"
    return Grammar(
        record=re.compile(fields + end),
        last=re.compile(fields + last),
        field=re.compile(field),
        rest=re.compile(more + last),
        line_end=line_end,
        delimiter=delimiter,
    )


class Window:
    """A stretch of a file, with its shape. It grows at its end, and is cut at its start."""

    def __init__(self, file: BinaryIO, encoding: Encoding) -> None:
        self.file, self.encoding = file, encoding
        self.start = encoding.mark  # in bytes of the file
        self.content = self.shape = b""
        self.complete = False
        file.seek(self.start)

    def grow(self, keep_from: int) -> bool:
        """Drop what lies before `keep_from` (in units) and read on, as much again as is there; False at the file's end."""
        if self.complete:
            return False
        unit = self.encoding.unit
        self.start += keep_from * unit
        kept = self.content[keep_from * unit :]
        shape = self.shape[keep_from:]
        size = -(-max(BLOCK_BYTES, len(kept)) // unit) * unit
        fresh = read_fully(self.file, size)
        self.complete = len(fresh) < size
        self.content = kept + fresh
        odd = len(fresh) % unit  # a file that ends within a unit
        fresh_shape = self.encoding.shape_of(fresh[: len(fresh) - odd]) + (bytes([OTHER]) if odd else b"")
        self.shape = self.content if self.encoding.unit == 1 and fresh_shape is fresh else shape + fresh_shape
        return True


def read_fully(file: BinaryIO, size: int) -> bytes:
    """So many bytes of a file, fewer only at its end."""
    parts, missing = [], size
    while missing and (part := file.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def read_records(file: BinaryIO, encoding: Encoding, delimiter: str) -> Iterator[Stretch]:
    """Every record of a file in order, the header first; blank lines are left out."""
    return Records(file, encoding, delimiter).read()


class Records:
    """The way through one file: a window, a place in it, and the number of the line there."""

    def __init__(self, file: BinaryIO, encoding: Encoding, delimiter: str) -> None:
        self.window = Window(file, encoding)
        self.delimiter = delimiter.encode("ascii" if encoding.codec != "utf-8" else "utf-8")
        self.at, self.line = 0, 1
        self.window.grow(0)
        self.grammar = grammar_of(self.delimiter, self._line_end())
        self.told: tuple[int, int, str] | None = None  # what `_next_quote` found last, and behind which place
        self.inside_line = False  # whether the rest of a line that was too long is still to be dropped

    def read(self) -> Iterator[Stretch]:
        """See `read_records`."""
        while not self.inside_line or self._skip_line():
            yield from self._right_records()
            if self.at == len(self.window.shape) and self.window.complete:
                return
            fault = self._fault()
            if fault is not None:
                yield self._take_broken(self._end_of_broken(fault[1]), fault[0])
            else:
                self.window.grow(self.at)
                self.at, self.told = 0, None

    def _right_records(self) -> Iterator[Stretch]:
        """Records from here on, up to one that is broken or not wholly here."""
        window, line_end = self.window, self.grammar.line_end
        shape, content, unit = window.shape, window.content, window.encoding.unit
        match = (self.grammar.last if window.complete else self.grammar.record).match
        while (found := match(shape, self.at)) is not None and (end := found.end()) > self.at:
            at, line = self.at, self.line
            ends = shape.count(line_end, at, end)
            self.at, self.line = end, line + ends
            if end - at > 2 or shape[at] not in b"\r\n":
                last = line + ends - 1 if ends and shape[end - 1] in b"\r\n" else line + ends
                yield Stretch(window.start + at * unit, (end - at) * unit, content[at * unit : end * unit], line, last)

    def _line_end(self) -> bytes:
        """How the first line ends, for all of them do."""
        while True:
            shape = self.window.shape
            at = next((k for k, byte in enumerate(shape) if byte not in b"\r\n"), len(shape))
            _, end = grammar_of(self.delimiter, b"\n").walk(shape, at)
            known = end < len(shape) - 1 and shape[end : end + 1] not in (b'"', b"")
            if known or len(self.window.content) >= RECORD_BYTES or not self.window.grow(0):
                return b"\r" if shape[end : end + 1] == b"\r" and shape[end + 1 : end + 2] != b"\n" else b"\n"

    def _skip_line(self) -> bool:
        """Drop the rest of a line that is too long to be held; False if it is the last."""
        while (found := self.window.shape.find(self.grammar.line_end, self.at)) < 0:
            if not self.window.grow(len(self.window.shape)):
                return False
            self.at = 0
        self.at, self.line, self.inside_line, self.told = found + 1, self.line + 1, False, None
        return True

    def _take_broken(self, end: int, fault: str) -> Stretch:
        """The units up to `end`, of the window, that a broken record takes."""
        unit, window = self.window.encoding.unit, self.window
        ends = window.shape.count(self.grammar.line_end, self.at, end)
        closed = ends and window.shape[end - 1] in b"\r\n"
        position, size = window.start + self.at * unit, (end - self.at) * unit
        stretch = Stretch(position, size, b"", self.line, self.line + ends - (1 if closed else 0), fault)
        self.at, self.line = end, self.line + ends
        return stretch

    def _fault(self) -> tuple[str, int] | None:
        """What is wrong with the record here, and the unit whose line it begins to be wrong in; None: not all of it is here."""
        window = self.window
        shape, complete = window.shape, window.complete
        begin, end = self.grammar.walk(shape, self.at)
        full = (len(shape) - self.at) * window.encoding.unit >= RECORD_BYTES
        if end >= len(shape) - 1 and not complete:
            return ("the record is longer than 128 MiB", begin) if full else None
        if shape[end : end + 1] == b'"':
            line = self.line + shape.count(self.grammar.line_end, self.at, end)
            if complete:
                return f"the quote that opens in line {line} is not closed", end
            return (f"the quote that opens in line {line} is not closed within 128 MiB", end) if full else None
        if shape[end : end + 1] in (b"\r", b"\n"):
            name = "carriage return" if self.grammar.line_end == b"\n" else "line feed"
            return f"a {name} alone, outside quotes", end
        opened, line = (self.line + shape.count(self.grammar.line_end, self.at, at) for at in (begin, end))
        closed = "" if line == opened else f" in line {line}"
        return f"text behind the closing quote{closed} of the quote that opens in line {opened}", begin

    def _end_of_broken(self, anchor: int) -> int:
        """Where the record that is broken at `anchor` ends, as far as the next quote tells."""
        base = self._line_behind(anchor)
        at, verdict = self._next_quote(base)
        if verdict == "opens":
            return base
        if verdict == "closes":
            rest = self.grammar.rest.match(self.window.shape, at + 1)
            return rest.end() if rest else self._line_behind(at)
        return max(base, self._line_before(at))

    def _next_quote(self, base: int) -> tuple[int, str]:
        """The first quote behind `base` that tells, and what: it "opens" a field, "closes" one, or, "unsure", it opens one
        behind others that could be either. Where none tells, the file's end opens, or is unsure.
        """
        if self.told is not None and self.told[0] <= base <= self.told[1] and self.told[2] != "unsure":
            return self.told[1:]
        at, unsure = base, False
        while True:
            run, size = self._quotes_behind(at)
            if not size:
                verdict = "unsure" if unsure else "opens"
                break
            starts, ends = self._starts_field(run, base), self._ends_field(run + size)
            at = run + size
            if size % 2 == 0:  # an empty field, or quotes inside one
                unsure = unsure or not (starts and ends)
                continue
            if not starts and not ends:
                continue
            if starts and ends:
                unsure = True
            elif starts:
                verdict = "unsure" if unsure else "opens"
                break
            else:
                run, verdict = run + size - 1, "closes"
                break
        self.told = (base, run, verdict)
        return run, verdict

    def _quotes_behind(self, at: int) -> tuple[int, int]:
        """Where the next quotes stand that follow each other, and how many they are; 0 if none is near."""
        while True:
            shape = self.window.shape
            run = shape.find(b'"', at)
            size = 0
            while run >= 0 and shape[run + size : run + size + 1] == b'"':
                size += 1
            if run >= 0 and run + size + 3 < len(shape):
                return run, size
            if self._is_long() or not self._grow():
                return (run, size) if run >= 0 else (len(shape), 0)

    def _grow(self) -> bool:
        """Read on without letting go of anything, as places in the window are in use."""
        return self.window.grow(0)

    def _is_long(self) -> bool:
        """Whether more is held behind this place than a record may take."""
        return (len(self.window.shape) - self.at) * self.window.encoding.unit >= 2 * RECORD_BYTES

    def _starts_field(self, at: int, base: int) -> bool:
        return at == base or self.window.shape[max(0, at - 4) : at].endswith((self.delimiter, b"\n", b"\r"))

    def _ends_field(self, at: int) -> bool:
        return self.window.shape.startswith((self.delimiter, b"\n", b"\r"), at) or at >= len(self.window.shape)

    def _line_behind(self, at: int) -> int:
        """Start of the line behind the one that `at` is in."""
        while True:
            found = self.window.shape.find(self.grammar.line_end, at)
            if found >= 0:
                end = found + 1
                if self.grammar.line_end == b"\r" and (end < len(self.window.shape) or self._grow()):
                    end += self.window.shape[end : end + 1] == b"\n"
                return end
            if self._is_long():
                self.inside_line = True
                return len(self.window.shape)
            if not self._grow():
                return len(self.window.shape)

    def _line_before(self, at: int) -> int:
        """Start of the line that `at` is in; the file's end is no line."""
        if at >= len(self.window.shape) and self.window.complete:
            return at
        return self.window.shape.rfind(self.grammar.line_end, 0, at) + 1
