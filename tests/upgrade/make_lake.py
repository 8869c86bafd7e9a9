"""Make a small lake as the release that is checked out makes it, to see later whether it still works: see `test_upgrade`.

    git worktree add ../release COMMIT
    PYTHONPATH=../release:../release/tests/pipelines python tests/upgrade/make_lake.py tests/upgrade/COMMIT.tar.xz

The archive holds `source/` (the objects, with their times), `lake/` and `jobs.json`. Addresses of objects are part of what a
lake remembers, so the source must lie at `SOURCE` when the archive is made, and when its jobs are run again.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import wave
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SOURCE = Path("/tmp/latentlake-upgrade-source")
WRITTEN_AT = 1_790_000_000  # seconds since the epoch: when the objects were last changed
HASHING = {"column": "h", "family": "hashing", "dim": 16, "pool": {"min": 1, "max": 1}}
WORDS = ("boat", "train", "river", "bridge", "night", "paper", "cloud", "glass", "stone", "garden")
KILLED_AFTER = 2  # shards of the run that is killed


def sentence(number: int) -> str:
    """A text of twelve words, another one for each number."""
    words = np.random.default_rng(number).choice(WORDS, 12)
    return f"object {number}: {' '.join(words)}"


def write(name: str, content: bytes) -> None:
    """Write an object of the source, always with one time."""
    path = SOURCE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (WRITTEN_AT, WRITTEN_AT))


def picture(number: int) -> bytes:
    """A PNG of 8 x 8 pixels."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def sound(number: int) -> bytes:
    """A WAV of a tenth of a second."""
    samples = 8000 * np.sin(2 * np.pi * (300 + 40 * number) * np.arange(800) / 8000)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as JSON lines, and a line that is no JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode() + b"{not json\n"


def csv_rows(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as CSV with a header."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def product(number: int, what: str = "") -> dict[str, Any]:
    """A row of the Parquet files: metadata of many types."""
    return {
        "sku": f"sku-{number:03}",
        "title": f"{sentence(1000 + number)} {what}",
        "price": number + 0.25,
        "stock": number,
        "sold": number % 3 == 0,
        "since": date(2026, 1, 1 + number % 28),
        "seen": datetime(2026, 2, 1, number % 24, 30, tzinfo=UTC),
        "cost": Decimal(number) / 4 if number % 5 else None,
    }


PRODUCTS = pa.schema(
    [
        ("sku", pa.string()), ("title", pa.string()), ("price", pa.float64()), ("stock", pa.int32()), ("sold", pa.bool_()),
        ("since", pa.date32()), ("seen", pa.timestamp("us", "UTC")), ("cost", pa.decimal128(10, 2)),
    ]
)  # fmt: skip


def parquet(numbers: Sequence[int], what: str = "") -> bytes:
    """Products as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([product(n, what) for n in numbers], schema=PRODUCTS), file)
    return file.getvalue()


def write_source() -> None:
    """The source as the first runs find it."""
    for number in range(24):
        text = "\n\n".join(sentence(100 * number + at) for at in range(10))
        write(f"docs/{number % 3}/{number:03}.txt", text.encode())
    write("docs/empty.txt", b"")
    write("docs/short.txt", b"hi")
    notes = [
        {
            "id": f"n{n}",
            "text": sentence(200 + n),
            "stars": n % 5,
            "share": n / 8,
            "tag": WORDS[n % 10],
            "old": n % 2 == 0,
        }
        for n in range(40)
    ]
    write(
        "notes.jsonl", jsonl([*notes, {"id": "blank", "text": "  ", "stars": 1, "share": 0.5, "tag": "", "old": False}])
    )
    items = [{"id": n, "text": sentence(300 + n), "count": n * 3, "kind": WORDS[n % 10]} for n in range(40)]
    write("items.csv", csv_rows([*items, {"id": 40, "text": "", "count": 0, "kind": "none"}]))
    write("products/a.parquet", parquet(range(40)))
    for number in range(12):
        write(f"pictures/{number:02}.png", picture(number))
        write(f"sounds/{number:02}.wav", sound(number))
    write("pictures/broken.png", picture(99)[:60])
    write("sounds/broken.wav", b"RIFF not a sound")


def change_source() -> None:
    """What the second runs find changed: of `docs` and of `products`."""
    write("docs/0/000.txt", b"this document was changed")
    write("docs/new.txt", b"this document is new")
    write("products/b.parquet", parquet(range(40, 80), "late"))


def job(name: str, lake: Path, source: Mapping[str, Any], modality: str = "text", **sections: Any) -> dict[str, Any]:
    """A job, whose table has its name."""
    return {
        "name": name,
        "modality": modality,
        "source": {**source, "uri": str(SOURCE / source["uri"])},
        "embed": [HASHING],
        "table": {"uri": str(lake), "name": name},
        "gates": {"max_reject_rate": 0.5},
        **sections,
    }


def make_jobs(lake: Path) -> dict[str, dict[str, Any]]:
    """The jobs of the lake, by the name of their table."""
    chunks = [{"op": "clean_text"}, {"op": "drop_short_text", "min_chars": 5}, {"op": "chunk_text", "column": "h"}]
    notes = {"kind": "jsonl", "uri": "notes.jsonl", "id": "id", "content": "text"}
    items = {"kind": "csv", "uri": "items.csv", "id": "id", "content": "text", "metadata": ["count", "kind"]}
    products = {"kind": "parquet", "uri": "products", "id": "sku", "content": "title"}
    columns = ["price", "stock", "sold", "since", "seen", "cost"]
    bits = {**HASHING, "column": "b", "dim": 32, "dtype": "binary"}
    made = [
        job(
            "docs", lake, {"kind": "files", "uri": "docs"}, preprocess=chunks,
            embed=[{**HASHING, "max_words": 8}], index=[{"column": "h", "type": "ivf_flat"}],
        ),
        job("notes", lake, {**notes, "metadata": ["stars", "share", "tag", "old"]}, embed=[HASHING, bits]),
        job("items", lake, items),
        job("products", lake, {**products, "metadata": columns}, shard={"max_rows": 8}),
        job("pictures", lake, {"kind": "files", "uri": "pictures"}, modality="image"),
        job("sounds", lake, {"kind": "files", "uri": "sounds"}, modality="audio"),
    ]  # fmt: skip
    return {one["name"]: one for one in made}


def run(job: Mapping[str, Any], killed_after: int = 0) -> None:
    """Run a job in this process, without Ray; with `killed_after`, die without a word when so many shards are finished."""
    import pipelines.embed
    import run_maker  # of the tests of the release
    from pipelines.jobfile import parse_job

    import pipelines.run

    def progress(done: int, total: int) -> None:
        nonlocal calls
        if killed_after and calls == killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1

    calls = 0
    pipelines.run.running_ray = lambda profile: nullcontext()
    pipelines.run.actor_lives = lambda names: {}
    pipelines.embed.embed_shards = run_maker.embed_here
    report = pipelines.run.run_job(parse_job(job), progress=progress)
    print(job["name"], report["state"], report["version"], report["counts"], flush=True)


def run_apart(job: Mapping[str, Any], killed_after: int = 0) -> None:
    """Run a job in a process of its own, as a user does."""
    command = [sys.executable, __file__, "--run", json.dumps(job), str(killed_after)]
    code = subprocess.run(command, check=False).returncode
    assert code == (-signal.SIGKILL if killed_after else 0), code


def make_lake(archive: Path) -> None:
    """Make the source and the lake, and pack them."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="ll-") as folder:
        lake = Path(folder) / "lake"
        jobs = make_jobs(lake)
        write_source()
        for one in jobs.values():
            run_apart(one)
        change_source()
        run_apart(jobs["docs"])
        run_apart(jobs["products"], KILLED_AFTER)
        (Path(folder) / "jobs.json").write_text(json.dumps(jobs, indent=1), encoding="utf-8")
        with tarfile.open(archive, "w:xz") as out:
            out.add(SOURCE, "source")
            out.add(lake, "lake")
            out.add(Path(folder) / "jobs.json", "jobs.json")


if __name__ == "__main__":
    if sys.argv[1] == "--run":
        run(json.loads(sys.argv[2]), int(sys.argv[3]))
    else:
        make_lake(Path(sys.argv[1]))
