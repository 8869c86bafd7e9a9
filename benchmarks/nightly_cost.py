"""What a night costs by the size of the table: bytes read of each kind of its files, seconds, memory. See `nightly.py --cost`."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
from counting_s3 import CountingS3

from clusters import this_machine
from latentlake.storage import open_storage
from pipelines import plan_job, run_job
from pipelines.planning.choice import RunnerName
from pipelines.ray_connection import running_ray
from pipelines.upkeep.maintain import maintain_table

DIMENSION = 64
FILE_ROWS = 100  # objects of a file of the source: a night changes one file and adds one
NIGHTS = {"100 changed + 100 new": (1, 1), "2,000 new": (0, 20)}  # files changed, and files new
KEYS = {"aws_access_key_id": "counting", "aws_secret_access_key": "counting", "region_name": "us-east-1"}
WORDS = ["lake", "vector", "shard", "index", "object", "column", "commit", "reader", "bound", "stream", "night", "tag"]


def write_file(folder: Path, number: int, what: str = "") -> None:
    """Write the file of `FILE_ROWS` objects of this number."""
    path = folder / f"{number // 1000:05}" / f"{number:08}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    first = number * FILE_ROWS
    lines = []
    for row in range(first, first + FILE_ROWS):
        words = " ".join(WORDS[(row * 7919 + k * 104729) % (len(WORDS) + k) % len(WORDS)] for k in range(8))
        lines.append(json.dumps({"id": f"object-{row:010}", "text": f"{row} {words} {row % 997} {what}"}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def job_of(folder: Path, uri: str, options: Mapping[str, str]) -> dict[str, Any]:
    """The job: its source below `folder`, its lake at `uri`."""
    return {
        "name": "nightly",
        "modality": "text",
        "source": {"kind": "jsonl", "uri": str(folder / "in"), "id": "id", "content": "text"},
        "embed": [{"column": "h", "family": "hashing", "dim": DIMENSION, "pool": {"max": 1}}],
        "table": {"uri": uri, "name": "t", "storage_options": dict(options)},
        "index": [{"column": "h", "type": "ivf_rq"}],
    }


def make_table(folder: Path, rows: int) -> None:
    """Source and lake of a table of `rows` rows, in one fragment per million, with its indexes up to date; once."""
    done = folder / "done"
    if done.exists():
        return
    began = time.time()
    for number in range(rows // FILE_ROWS):
        write_file(folder / "in", number)
    with running_ray(this_machine()):
        run_job(job_of(folder, str(folder / "lake"), {}))
    maintain_table(open_storage(str(folder / "lake")), "t", keep=timedelta(0), orphans=timedelta(0))
    done.write_text(f"{time.time() - began:.0f} s")


def kind_of(name: str) -> str:
    """What a file of the table is."""
    found = re.search(r"/t\.lance/(data|_indices|_deletions|_versions|_transactions)/", name)
    return found.group(1).lstrip("_") if found else "other"


def megabytes(read: Mapping[str, int]) -> dict[str, float]:
    """Megabytes of the table's files, by kind."""
    total: Counter[str] = Counter()
    for name, count in read.items():
        if "/t.lance/" in name:
            total[kind_of(name)] += count
    return {kind: round(count / 1e6, 3) for kind, count in sorted(total.items())}


@contextmanager
def counted_lake(folder: Path) -> Iterator[tuple[CountingS3, dict[str, str]]]:
    """The lake below `folder`, copied to an S3 server behind a proxy; the proxy, and the options that reach it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with CountingS3(f"http://127.0.0.1:{port}") as proxy:
            client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **KEYS)
            for _ in range(100):
                try:
                    client.create_bucket(Bucket="lake")
                    break
                except Exception:  # it is about to start
                    time.sleep(0.2)
            for path in sorted((folder / "lake").rglob("*")):
                if path.is_file():
                    client.upload_file(str(path), "lake", f"n/{path.relative_to(folder / 'lake')}")
            options = {
                "aws_access_key_id": "env:LL_COUNTING_KEY",
                "aws_secret_access_key": "env:LL_COUNTING_KEY",
                "aws_region": "us-east-1",
                "aws_endpoint": proxy.endpoint,
                "allow_http": "true",
            }
            yield proxy, options
    finally:
        server.terminate()
        server.wait()


@contextmanager
def changed_source(folder: Path, rows: int, changed: int, new: int) -> Iterator[None]:
    """The source as a night leaves it, for as long as it is measured."""
    files = rows // FILE_ROWS
    picked = [(k * 7919 + 13) % files for k in range(changed)]
    paths = {n: folder / "in" / f"{n // 1000:05}" / f"{n:08}.jsonl" for n in [*picked, *range(files, files + new)]}
    kept = {n: (paths[n].read_bytes(), paths[n].stat()) for n in picked}
    try:
        for number in paths:
            write_file(folder / "in", number, "tonight")
        yield
    finally:
        for number, path in paths.items():
            if number in kept:
                path.write_bytes(kept[number][0])
                os.utime(path, ns=(kept[number][1].st_atime_ns, kept[number][1].st_mtime_ns))
            else:
                path.unlink(missing_ok=True)


def measure_night(folder: Path, rows: int, changed: int, new: int, runner: RunnerName = "auto") -> dict[str, Any]:
    """What one night reads and takes; what listing and comparing do is measured by a plan, and taken off."""
    with changed_source(folder, rows, changed, new), counted_lake(folder) as (proxy, options):
        job = job_of(folder, "s3://lake/n", options)
        proxy.take()
        began = time.time()
        plan_job(job)
        planned_s, planned = time.time() - began, megabytes(proxy.take())
        began = time.time()
        report = run_job(job, runner=runner)
        run_s, read = time.time() - began, megabytes(proxy.take())
    counts = report["counts"]
    assert counts["embedded"] == FILE_ROWS * (changed + new), counts
    own = {kind: round(read[kind] - planned.get(kind, 0), 3) for kind in read}
    vectors = rows * DIMENSION * 4 / 1e6
    return {
        "mb_comparing": round(sum(planned.values()), 3),
        "mb_read": own,
        "mb_read_total": round(sum(own.values()), 3),
        "share_of_vectors": round(sum(own.values()) / vectors, 4),
        "seconds_listing_and_comparing": round(planned_s, 2),
        "seconds_apart_from_these": round(run_s - planned_s, 2),
        "seconds": report["seconds"],
        "runner": report["runner"],
        "peak_memory_mb": report["peak_memory_mb"],
        "recall_measured_at": report["indexes"][0]["measured_at"],
    }


def measure_costs(folder: Path, sizes: list[int], runner: RunnerName = "auto") -> dict[str, Any]:
    """Each kind of night on tables of these sizes, which are kept below `folder`, and how it grows from size to size.

    Each night is run as `latentlake run` runs it, which chooses the runner by the work unless `runner` names one.
    """
    found: dict[str, Any] = {}
    os.environ["LL_COUNTING_KEY"] = "counting"  # before Ray's workers start
    for rows in sizes:
        make_table(folder / f"{rows}", rows)
        for night, (changed, new) in NIGHTS.items():
            measured = measure_night(folder / f"{rows}", rows, changed, new, runner)
            found.setdefault(night, {})[rows] = measured
            print(f"{rows:,} rows, {night}: {json.dumps(measured)}", flush=True)
    for night in NIGHTS:
        for small, large in pairwise(sizes):
            a, b = found[night][small], found[night][large]
            found[night][f"growth {small:,} -> {large:,}"] = {
                name: round(b[name] / max(a[name], 1e-9), 2) for name in ("mb_read_total", "seconds_apart_from_these")
            }
    return found
