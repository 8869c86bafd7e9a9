"""Whole files to damage, of every kind that is read; made by our own generators, small, so that many are tried."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import odd_images
import odd_sounds
import pyarrow as pa
import pyarrow.parquet as pq
from look_maker import write_encrypted

TEXTS = [
    "a short text", "grüße aus Köln, 世界 🙂", "two\nlines, \"quoted\"", "", " ", "x" * 3000, "naïve\tcafé", "0123",
    "\u202eright to left", "e\u0301 combined", "İstanbul", "NULL",
]  # fmt: skip
METADATA = ["number", "when", "flag", "tags", "nested", "amount"]


def rows(random: Random) -> list[dict[str, object]]:
    """Rows of every type that a metadata column may have."""
    return [
        {
            "id": f"row {n}",
            "text": random.choice(TEXTS),
            "number": random.choice([n, -n, n * 10**12, None]),
            "when": datetime.datetime(2024, 1, 1 + n % 28, 3, 4, 5, random.randrange(10**6)),
            "flag": random.choice([True, False, None]),
            "tags": [random.choice(TEXTS)[:20] for _ in range(n % 4)],
            "nested": {"a": n, "b": random.choice([None, "x", "ü"])},
            "amount": decimal.Decimal(random.randrange(10**6)) / 100,
        }
        for n in range(random.choice([1, 3, 20]))
    ]


def parquet(random: Random) -> bytes:
    """Parquet of some codec, encoding and version; now and then with encrypted columns."""
    if random.random() < 0.05:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.parquet"
            write_encrypted(path, [random.choice(["id", "text"])], plain_footer=random.random() < 0.7)
            return path.read_bytes()
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(rows(random)),
        out,
        row_group_size=random.choice([2, 7, 1000]),
        compression=random.choice(["none", "snappy", "gzip", "zstd", "lz4", "brotli"]),
        use_dictionary=random.random() < 0.5,
        version=random.choice(["1.0", "2.4", "2.6"]),
        data_page_version=random.choice(["1.0", "2.0"]),
        store_schema=random.random() < 0.7,
        write_page_checksum=random.random() < 0.3,
        coerce_timestamps="us",
    )
    return out.getvalue()


def jsonl(random: Random) -> bytes:
    """JSON lines, escaped or not."""
    ascii_only = random.random() < 0.5
    return b"".join(json.dumps(row, default=str, ensure_ascii=ascii_only).encode() + b"\n" for row in rows(random))


def csv_file(random: Random) -> bytes:
    """CSV, in one encoding or another, quoted or not."""
    out = io.StringIO(newline="")
    quoting = random.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    writer = csv.writer(out, quoting=quoting, lineterminator=random.choice(["\n", "\r\n", "\r"]))
    made = rows(random)
    writer.writerow(made[0])
    writer.writerows([str(value) for value in row.values()] for row in made)
    return out.getvalue().encode(random.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]), "replace")


def text(random: Random) -> bytes:
    """Text in an encoding."""
    encoding = random.choice(
        ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "shift_jis", "gb18030", "iso2022_jp", "koi8-r", "cp1252"]
    )
    return " ".join(random.choice(TEXTS) for _ in range(random.choice([1, 5, 40]))).encode(encoding, "replace")


@cache
def odd_files(modality: str) -> tuple[bytes, ...]:
    """Files that other tests have found to be worth a try."""
    with tempfile.TemporaryDirectory() as folder:
        write = odd_images.write_odd_images if modality == "image" else odd_sounds.write_odd_sounds
        write(Path(folder), 120 if modality == "image" else 60, 7)
        return tuple(path.read_bytes() for path in sorted(Path(folder).iterdir()))


CORPUS: dict[str, Callable[[Random], bytes]] = {
    "parquet": parquet,
    "jsonl": jsonl,
    "csv": csv_file,
    "text": text,
    "image": lambda random: random.choice(odd_files("image")),
    "audio": lambda random: random.choice(odd_files("audio")),
}
