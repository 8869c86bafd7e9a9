"""CSV files, well-formed and broken: compared with Python's csv and with DuckDB, and what becomes of each kind of fault."""

from __future__ import annotations

import codecs
import csv
import encodings.aliases
import io
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from source_maker import TABLE, Store, list_all, read_all

from operators.errors import SourceError
from pipelines.sources import _csv_records as records
from pipelines.sources import source_class
from pipelines.sources._csv_records import codec_of, encoding_of, read_records
from pipelines.sources.csv import fields_of

NAMES = {"id": "id", "content": "body"}


@pytest.fixture
def disk(tmp_path: Path) -> Store:
    (tmp_path / "in").mkdir()
    return Store(str(tmp_path / "in"), {})


def read_file(content: bytes, delimiter: str = ",", stated: str | None = None) -> list[list[str] | str]:
    """Fields of each record, or what is wrong with it."""
    encoding = encoding_of(content[:4], stated)
    found = list(read_records(io.BytesIO(content), encoding, delimiter))
    return [fields_of(stretch, encoding, delimiter) for stretch in found]


def outcome(disk: Store, content: bytes, **fields: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Contents by id, and reasons by the id of what is no object."""
    disk.put("x.csv", content)
    source = disk.source("csv", **{**NAMES, **fields})
    listing = list_all(source)
    errors = {n: e for n, e in zip(listing["object_id"].to_pylist(), listing["error"].to_pylist(), strict=True) if e}
    contents, _ = read_all(source)
    return {name: content for name, content in contents.items() if name not in errors}, errors


# well-formed files

texts = st.text(
    st.sampled_from('ab,;"\n\r\té日😀 \x1c\x85\u2028')
    | st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    max_size=6,
)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(texts, min_size=width, max_size=width), min_size=1, max_size=6)
)


def written(rows: list[list[str]], **dialect: Any) -> str:
    """A file by Python's csv, whose writer leaves line ends unquoted that are not its own."""
    if any("\r" in field or "\n" in field for row in rows for field in row):
        dialect["quoting"] = csv.QUOTE_ALL
    out = io.StringIO(newline="")
    csv.writer(out, **dialect).writerows(rows)
    return out.getvalue()


@given(
    rows=tables,
    delimiter=st.sampled_from(",;\t|§"),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"]),
    last_line_ends=st.booleans(),
    block=st.integers(4, 40),
)
@settings(max_examples=120, deadline=None)
def test_reads_what_pythons_csv_wrote(
    rows: list[list[str]],
    delimiter: str,
    line_end: str,
    quoting: int,
    encoding: str,
    last_line_ends: bool,
    block: int,
) -> None:
    assume(delimiter.isascii() or encoding.startswith("utf-8"))
    assume(not rows[0][0].startswith("\ufeff"))
    text = written(rows, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    assume(last_line_ends or text.rstrip("\r\n") + line_end == text)
    text = text if last_line_ends else text.removesuffix(line_end)
    expected = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    stated = "utf-16-be" if encoding == "utf-16-be" else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK_BYTES", block)  # records reach over the ends of blocks
        assert read_file(text.encode(encoding), delimiter, stated) == expected


@given(rows=tables, quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
@settings(max_examples=60, deadline=None)
def test_reads_what_duckdb_reads(rows: list[list[str]], quoting: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "compared.csv"
    text = written([[f"c{k}" for k in range(len(rows[0]))], *rows], lineterminator="\n", quoting=quoting)
    path.write_bytes(text.encode())
    columns = {f"c{k}": "VARCHAR" for k in range(len(rows[0]))}
    with duckdb.connect() as connection:
        theirs = connection.read_csv(
            str(path), columns=columns, auto_detect=False, header=True, sep=",", quotechar='"', escapechar='"', parallel=False
        )  # fmt: skip
        expected = [[value or "" for value in row] for row in theirs.fetchall()]
    expected = [row for row in expected if len(row) > 1 or row != [""]]  # DuckDB takes a blank line for a record of one
    assert [row for row in read_file(text.encode())[1:] if row != [""]] == expected


def test_positions_are_those_of_the_records() -> None:
    content = 'id,body\n1,"a\nb"\n\n2,c\n3,d'.encode("utf-16")
    found = list(read_records(io.BytesIO(content), encoding_of(content[:4], None), ","))
    assert [content[s.position : s.position + s.size].decode("utf-16-le") for s in found] == [
        *('id,body\n', '1,"a\nb"\n', "2,c\n", "3,d"),
    ]  # fmt: skip
    assert [(s.first_line, s.last_line) for s in found] == [(1, 1), (2, 3), (5, 5), (6, 6)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"id,body\n", []),
        (b"id,body", []),
        (b'id,body\n1,""\n', [["1", ""]]),
        (b'id,body\n1,"""quoted"""\n', [["1", '"quoted"']]),
        (b'id,body\n1,6" pipe\n', [["1", '6" pipe']]),
        (b"id,body\n1, a \n", [["1", " a "]]),
        (b"\n\r\nid,body\n1,a\n", [["1", "a"]]),
        (b'"id","body"\r\n"1","a,b"\r\n', [["1", "a,b"]]),
        (b"id,body\r1,a\r\r2,b", [["1", "a"], ["2", "b"]]),
        (b'id,body\r1,"a\nb\r\nc"\r', [["1", "a\nb\r\nc"]]),
        (b"id,body\r\n1,a\n2,b\r\n", [["1", "a"], ["2", "b"]]),
        (b'\xef\xbb\xbf"id",body\n1,a\n', [["1", "a"]]),
        (b'id,body\n1,"a\n\n\nb"\n', [["1", "a\n\n\nb"]]),
        (b"id,body\n1,a\n\n\n\n", [["1", "a"]]),
    ],
)
def test_odd_but_right(content: bytes, expected: list[list[str]]) -> None:
    assert read_file(content)[1:] == expected
    assert read_file(content)[0] == ["id", "body"]


# broken files


def test_an_unclosed_quote_swallows_nothing(disk: Store) -> None:
    rows = "".join(f"{k},row {k}\n" for k in range(3, 200))
    contents, errors = outcome(disk, ('id,body\n1,one\n2,"two\n' + rows).encode())
    assert errors == {"x.csv:14": "line 3: the quote that opens in line 3 is not closed"}
    assert contents == {"1": "one", **{str(k): f"row {k}" for k in range(3, 200)}}


@pytest.mark.parametrize(
    ("content", "kept", "lines"),
    [
        # a quote that is not closed, and the next one opens a field
        (b'id,body\n1,"a\n2,b\n3,"c"\n4,d\n', ["2", "3", "4"], ["line 2"]),
        (b'id,body\n1,"a\n2,"b\n3,"c\n4,"d"\n', ["4"], ["line 2", "line 3", "line 4"]),
        # quotes inside a field that are not written twice: its other lines belong to it
        (b'id,body\n1,"say "hi" to\n2,me\n3,too"\n4,d\n', ["4"], ["lines 2 to 4"]),
        (b'id,body\n1,"a"b\n2,c\n', ["2"], ["line 2"]),
        (b'id,body\n1,"a" \n2,c\n', ["2"], ["line 2"]),
        (b'id,body\n1,"a\n2,b"c\n3,d\n', ["2", "3"], ["line 2"]),
        # the next quote could open a field or close one: the lines before it are left out, and it is said which
        (b'id,body\n1,"x "y" z\n2,bar\n",b\n3,"ok"\n', ["3"], ["lines 2 to 4"]),
        (b'id,body\n1,"a\n2,"",x\n3,c\n', ["3"], ["line 2", "line 3"]),
        (b"id,body\n1,a\rb\n2,c\n", ["2"], ["line 2"]),
        (b"id,body\r1,a\nb\r2,c\r", ["2"], ["line 2"]),
        (b"id,body\n1\n2,b,c\n3,d\n", ["3"], ["line 2", "line 3"]),
        (b"id,body\n1,a\0b\n2,c\n", ["2"], ["line 2"]),
        (b"id,body\n1,caf\xe9\n2,c\n", ["2"], ["line 2"]),
        (b"id,body\n1,a\n2,b\n\xff", ["1", "2"], ["line 4"]),
    ],
)
def test_a_broken_record_costs_itself(disk: Store, content: bytes, kept: list[str], lines: list[str]) -> None:
    contents, errors = outcome(disk, content)
    assert list(contents) == kept
    assert [reason.split(":")[0] for reason in errors.values()] == lines


def test_one_byte_of_another_encoding_is_one_reject(disk: Store) -> None:
    content = b"id,body\n" + b"".join(b"%d,x%d\n" % (k, k) for k in range(50)) + b"50,caf\xe9\n51,z\n"
    contents, errors = outcome(disk, content)
    assert len(contents) == 51 and contents["51"] == "z"
    assert list(errors.values()) == ["line 52: not UTF-8 at byte 344 (0xE9)"]
    contents, errors = outcome(disk, content, encoding="latin-1")
    assert contents["50"] == "café" and not errors


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty, without even a header"),
        (b"\n\n", "the file is empty, without even a header"),
        (b"\xef\xbb\xbf", "the file is empty, without even a header"),
        (b"id,body,body\n1,a,b\n", "column 'body' stands 2 times in the header"),
        ("id,body\n1,a\n".encode("utf-16-le"), "the header cannot be read: line 1: a NUL at character 1; state `encoding`"),
        ("id,body,größe\n1,a,b\n".encode("cp1252"), "the header cannot be read: line 1: not UTF-8 at byte 10 (0xF6); state"),
        (b'id,"body\n1,a\n2,b\n', "the header cannot be read: line 1: the quote that opens in line 1 is not closed"),
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_read_is_one_reject(disk: Store, content: bytes, reason: str) -> None:
    disk.put("good.csv", b"id,body\n9,nine\n")
    contents, errors = outcome(disk, content)
    assert contents == {"9": "nine"}
    assert list(errors) == ["x.csv:0"] and errors["x.csv:0"].startswith(reason)


def test_a_column_twice_that_the_job_does_not_name(disk: Store) -> None:
    assert outcome(disk, b"id,x,body,x,\n1,a,b,c,\n") == ({"1": "b"}, {})


def test_a_lacking_column_is_the_jobs_mistake(disk: Store) -> None:
    with pytest.raises(SourceError, match="has no column 'id'"):
        outcome(disk, b"id;body\n1;a\n")


def test_a_record_without_an_end_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RECORD_BYTES", 1000)
    monkeypatch.setattr(records, "BLOCK_BYTES", 100)
    plain = "".join(f"{k},row {k}\n" for k in range(3, 2000))
    rows = read_file(('id,body\n1,one\n2,"two\n' + plain).encode())
    assert isinstance(rows[2], str) and "is not closed within" in rows[2]
    assert rows[3:] == [[str(k), f"row {k}"] for k in range(3, 2000)]
    rows = read_file(f"id,body\n1,{'x' * 50_000}\n2,b\n".encode())
    assert isinstance(rows[1], str) and "longer than" in rows[1]
    assert rows[-1] == ["2", "b"] and len(rows) == 3


single = st.lists(st.lists(st.text("ab ", max_size=3), min_size=2, max_size=2), min_size=3, max_size=8)
lined = st.lists(st.lists(st.text("ab\n ", max_size=5), min_size=2, max_size=2), min_size=3, max_size=8)


@given(
    rows=lined, data=st.data(), quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), block=st.integers(4, 40)
)
@settings(max_examples=120, deadline=None)
def test_one_quote_too_many_invents_no_record(
    rows: list[list[str]], data: st.DataObject, quoting: int, block: int
) -> None:
    """Every accepted record was written so, or holds the place of the quote; every other line is in a reject's."""
    rows = [[f"x{row[0]}", f"x{row[1]}"] for row in rows]
    text = written(rows, lineterminator="\n", quoting=quoting)
    at = data.draw(st.integers(0, len(text) - 1))
    broken = text[:at] + '"' + text[at:]
    content = broken.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK_BYTES", block)
        found = list(read_records(io.BytesIO(content), records.Encoding("utf-8"), ","))
    reach = 0
    for stretch in found:
        assert not broken[reach : stretch.position].strip("\n"), "bytes in no record and no reject"
        reach = stretch.position + stretch.size
        fields = fields_of(stretch, records.Encoding("utf-8"), ",")
        if isinstance(fields, list) and len(fields) == 2 and not stretch.position <= at < reach:
            assert fields in rows or any('"' in field for field in fields)  # 24" is no fault
    assert not broken[reach:].strip("\n")


@given(rows=single, data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_closing_quote_too_few_costs_one_line(rows: list[list[str]], data: st.DataObject) -> None:
    rows = [[f"i{k}", *row] for k, row in enumerate(rows)]
    lines = written(rows, lineterminator="\n", quoting=csv.QUOTE_ALL).splitlines()
    broken = data.draw(st.integers(0, len(rows) - 1))
    lines[broken] = lines[broken].removesuffix('"')
    assert [fields for fields in read_file("\n".join(lines).encode()) if isinstance(fields, list)] == [
        row for k, row in enumerate(rows) if k != broken
    ]


@given(st.binary(max_size=80) | st.text('",\n\ra', max_size=40).map(str.encode), st.integers(4, 30))
@example(b'"', 4)
@example(b"\xff\xfe\x00", 4)
@settings(max_examples=120, deadline=None)
def test_any_bytes_are_read_to_their_end(content: bytes, block: int) -> None:
    encoding = encoding_of(content[:4], None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK_BYTES", block)
        found = list(read_records(io.BytesIO(content), encoding, ","))
    whole = list(read_records(io.BytesIO(content), encoding, ","))
    assert found == whole
    for stretch in found:
        fields_of(stretch, encoding, ",")


# encodings


def test_every_codec_is_right_or_refused() -> None:
    """A codec is taken only where a record from the middle decodes as it does in the whole."""
    taken = 0
    for name in sorted(set(encodings.aliases.aliases.values())):
        try:
            codec = codec_of(name)
        except ValueError:
            continue
        taken += 1
        letters = [chr(k) for k in [*range(0x20, 0x250), *range(0x370, 0x700), 0x3042, 0x30BD, 0x65E5, 0x8868, 0xAC00]]
        kept = [letter for letter in letters if encodes(letter, codec)]
        rows = [["id", "body"], *([str(k), f"{letter}x{letter}"] for k, letter in enumerate(kept) if letter != '"')]
        content = written(rows, lineterminator="\n").encode(codec)
        expected = [[field.encode(codec).decode(codec) for field in row] for row in rows]
        stated = codec if codec.startswith(("utf-16-", "utf-32-")) or not codec.startswith("utf") else None
        assert read_file(content, stated=stated) == expected, codec
    assert taken > 80


def encodes(letter: str, codec: str) -> bool:
    try:
        return letter.encode(codec).decode(codec) == letter
    except UnicodeError:
        return False


@pytest.mark.parametrize("name", ["utf-7", "hz", "iso2022_jp", "idna", "rot13", "hex", "nonsense", "unicode_escape"])
def test_encodings_that_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="encoding"):
        source_class("csv")(uri="x", encoding=name, **TABLE)


@pytest.mark.parametrize(("delimiter", "encoding"), [('"', None), ("\n", None), ("|", "shift_jis"), ("§", "cp1252")])
def test_delimiters_that_are_refused(delimiter: str, encoding: str | None) -> None:
    with pytest.raises(ValidationError):
        source_class("csv")(uri="x", delimiter=delimiter, encoding=encoding, **TABLE)


@pytest.mark.parametrize("encoding", ["cp1252", "shift_jis", "gb18030", "cp037", "utf-16", "utf-16-le", "utf-32-be"])
def test_a_stated_encoding(disk: Store, encoding: str) -> None:
    word = {"shift_jis": "日本ソ表", "gb18030": "中文㐀"}.get(encoding, "ü\né")
    content = written([["id", "body"], ["1", word], ["2", "plain"]], lineterminator="\r\n").encode(encoding)
    assert outcome(disk, content, encoding=encoding) == ({"1": word, "2": "plain"}, {})


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE])
def test_a_mark_tells_the_encoding(disk: Store, mark: bytes) -> None:
    codec = encoding_of(mark, None).codec
    assert outcome(disk, mark + "id,body\n1,日😀\n".encode(codec)) == ({"1": "日😀"}, {})


def test_the_default_encoding_is_not_in_the_identity() -> None:
    make = source_class("csv")
    plain = make(uri="x", **TABLE)
    assert "encoding" not in plain.identity()
    assert make(uri="x", encoding="cp1252", **TABLE).identity() == {**plain.identity(), "encoding": "cp1252"}
