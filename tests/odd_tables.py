"""Odd Parquet files: what writers in the wild produce, and what disks and networks make of it. Each has pyarrow's own verdict."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

CODECS = ("none", "snappy", "gzip", "zstd", "brotli", "lz4")
ENCODINGS = ("PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY")
TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string()))
ID_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.int64(), pa.uint32(), pa.dictionary(pa.int8(), pa.string()))  # fmt: skip
WORDS = ("grüße", "世界", "🙂", "plain", "İstanbul", "\u202eright", "line\nbreak", "tab\t", "   x ")

# What pyarrow says of a file, in a process that may die of it: by id, the text of each row, null where it cannot read that; or null
# where it cannot read the file's ids. Row group by row group, for it reads the others where the pages of one are damaged.
JUDGE = """
import sys, json, pyarrow as pa, pyarrow.parquet as pq

def text_of(value):
    value = value.as_py()
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return None

def texts_of(file, group, rows):
    try:
        column = file.read_row_group(group, columns=["text"])["text"].combine_chunks()
        column = column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
        found = [text_of(value) for value in column.cast(pa.large_binary())]
    except Exception:
        return [None] * rows
    return found if len(found) == rows else [None] * rows

for name in sys.stdin:
    print(json.dumps({"asked": name.strip()}), flush=True)
    try:
        file = pq.ParquetFile(name.strip(), pre_buffer=False)
        told = {}
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["id"])["id"].to_pylist()
            told |= zip(map(str, ids), texts_of(file, group, len(ids)), strict=True)
    except Exception:
        told = None
    print(json.dumps({"told": told}), flush=True)
"""

Verdict = dict[str, str | None] | None


def write_odd_tables(folder: Path, count: int, seed: int) -> dict[str, Verdict]:
    """Write `count` Parquet files with columns `id`, `text` and `m`, no id twice; the verdict of pyarrow on each, see `JUDGE`.

    `m` is an int64 in every file that is whole. The same seed writes the same kinds of files.
    """
    random = Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = sorted(KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        KINDS[kind](folder / f"{number:05}-{kind}.parquet", number, random)
    return judge(sorted(folder.glob("*.parquet")))


def judge(files: list[Path]) -> dict[str, Verdict]:
    """What pyarrow itself reads of each file, by name; None where it refuses the file, or dies of it."""
    found: dict[str, Verdict] = {}
    waiting = list(files)
    while waiting:
        given = "\n".join(map(str, waiting)) + "\n"
        told = subprocess.run([sys.executable, "-c", JUDGE], input=given, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in told.stdout.splitlines()]
        for asked, answer in zip(lines[::2], [*lines[1::2], {"told": None}], strict=False):
            found[Path(asked["asked"]).name] = answer["told"]
        waiting = [file for file in waiting if file.name not in found]
    return found


def other_verdicts(verdicts: Mapping[str, Verdict], texts: Mapping[str, str], rejects: Iterable[str]) -> list[str]:
    """Files and rows of which a table (`texts` by id, `rejects` by object id) says other than pyarrow does."""
    refused = {name.partition(".parquet")[0] + ".parquet" if ".parquet" in name else name for name in rejects}
    wrong = []
    for name, rows in verdicts.items():
        if rows is None or name in refused:
            wrong += [name] if rows is not None or name not in refused else []
            continue
        wrong += [at for at, text in rows.items() if (text is None) != (at in refused) or texts.get(at) != text]
    known = {at for rows in verdicts.values() for at in rows or ()}
    return sorted([*wrong, *(texts.keys() - known)])


def make_rows(number: int, random: Random, rows: int | None = None, text: pa.DataType | None = None) -> pa.Table:
    """A table of 0 to 40 rows whose ids belong to file `number` alone."""
    rows = random.randint(1, 40) if rows is None else rows
    kind = random.choice(ID_TYPES)
    names: list[int | str] = [number * 1000 + at for at in range(rows)]
    if not pa.types.is_integer(kind):
        names = [f"{name}" if at % 3 else f"ü {name}" for at, name in enumerate(names)]
    texts = [f"{random.choice(WORDS)} {number} {at} {random.random()}" for at in range(rows)]
    text = text or random.choice(TEXT_TYPES)
    values = [t.encode() for t in texts] if pa.types.is_binary(text) else texts
    return pa.table({"id": array(names, kind), "text": array(values, text), "m": pa.array(range(rows), pa.int64())})


def array(values: list, kind: pa.DataType) -> pa.Array:
    """An array of a type; of a dictionary too."""
    return (
        pa.array(values, kind.value_type).dictionary_encode().cast(kind)
        if pa.types.is_dictionary(kind)
        else pa.array(values, kind)
    )


def whole(path: Path, number: int, random: Random) -> None:
    """A sound file by a writer with any settings."""
    pq.write_table(
        make_rows(number, random),
        path,
        compression=random.choice(CODECS),
        row_group_size=random.choice((1, 3, 7, 1000)),
        data_page_size=random.choice((64, 1024, 1 << 20)),
        data_page_version=random.choice(("1.0", "2.0")),
        write_page_index=random.random() < 0.5,
        write_page_checksum=random.random() < 0.5,
        store_schema=random.random() < 0.5,
        version=random.choice(("1.0", "2.4", "2.6")),
    )


def encoded(path: Path, number: int, random: Random) -> None:
    """Columns in encodings that few writers use."""
    encoding = random.choice(ENCODINGS)
    rows = make_rows(number, random, text=pa.string())
    rows = rows.set_column(0, "id", rows["id"].cast(pa.string()))
    pq.write_table(
        rows,
        path,
        use_dictionary=False,
        column_encoding={"id": encoding, "text": encoding, "m": "DELTA_BINARY_PACKED"},
    )


def empty(path: Path, number: int, random: Random) -> None:
    """No rows; with and without a row group."""
    with pq.ParquetWriter(path, make_rows(number, random, rows=0, text=pa.string()).schema) as writer:
        if random.random() < 0.5:
            writer.write_table(writer.schema.empty_table())


def many_columns(path: Path, number: int, random: Random) -> None:
    """Columns that the job does not name, of every type, under every name."""
    rows = make_rows(number, random)
    extra = {
        "Größe": [1.5], "a.b": ["dot"], "a`b": [1], "": [True], "far": [dt.date(9999, 12, 31)], "money": [Decimal("1.10")],
        "list": [[1, None]], "struct": [{"x": 1, "y": None}], "map": [[("k", 1)]], "uuid": [uuid.UUID(int=number).bytes],
        "null": [None], "time": [dt.time(1, 2, 3, 4)], "span": [dt.timedelta(days=1)],
    }  # fmt: skip
    for name, value in extra.items():
        kind = pa.map_(pa.string(), pa.int64()) if name == "map" else None
        rows = rows.append_column(name, pa.array(value * rows.num_rows, kind))
    pq.write_table(rows, path)


def cut(path: Path, number: int, random: Random) -> None:
    """Truncated anywhere."""
    whole(path, number, random)
    content = path.read_bytes()
    path.write_bytes(content[: random.randrange(len(content))])


def flipped(path: Path, number: int, random: Random) -> None:
    """A few bytes of the pages are others; a checksum tells of each."""
    rows = make_rows(number, random, rows=40, text=pa.string())
    pq.write_table(rows, path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    for _ in range(8):  # zstd's frames fail to decode where their headers are hit
        content[random.randrange(4, 40)] ^= random.randrange(1, 256)
    path.write_bytes(content)


def footer(path: Path, number: int, random: Random) -> None:
    """The footer is damaged, or says an absurd length."""
    whole(path, number, random)
    content = bytearray(path.read_bytes())
    at = random.choice((-8, -7, -6, -5, -4, -1)) if random.random() < 0.5 else -random.randrange(9, len(content) // 2)
    content[at] ^= random.randrange(1, 256)
    path.write_bytes(content)


def other(path: Path, number: int, random: Random) -> None:
    """No Parquet at all."""
    path.write_bytes(
        random.choice((b"", b"PAR1", b"PAR1PAR1", b"{}\n", b"id,text\n1,a\n", bytes(1000), b"\xff\xd8\xff\xe0" * 50))
    )


def encrypted(path: Path, number: int, random: Random) -> None:
    """Columns encrypted under a key that nobody has; the footer in plain text or not."""

    class Keys(pe.KmsClient):
        """Wraps keys by writing them down."""

        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            return key_bytes.hex().encode()

        def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
            return bytes.fromhex(wrapped_key.decode())

    factory = pe.CryptoFactory(lambda config: Keys())
    config = pe.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["id", "text"]}, plaintext_footer=random.random() < 0.5
    )
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    rows = make_rows(number, random, text=pa.string())
    with pq.ParquetWriter(path, rows.schema, encryption_properties=properties) as writer:
        writer.write_table(rows)


KINDS: dict[str, Callable[[Path, int, Random], None]] = {
    "whole": whole, "encoded": encoded, "empty": empty, "many-columns": many_columns, "cut": cut, "flipped": flipped,
    "footer": footer, "other": other, "encrypted": encrypted,
}  # fmt: skip
