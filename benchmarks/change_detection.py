"""What comparing a listing with a table takes: seconds, memory and temporary disk, by the number of objects.

For each size a listing, the one before it and a Lance table are made (one object in two has kept its version, one in a
hundred is new, one in a hundred is gone, one in a hundred was rejected, one in ten thousand is listed twice). A fresh
process compares them and reads the work to its end. Memory is what the process held at most (VmHWM); the baseline is the
same process with nothing to compare. Prints a table, the slope, and what it says of a billion objects.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from latentlake.storage import open_storage
from latentlake.table import REJECTS_SCHEMA
from pipelines.job.spec import ShardSpec
from pipelines.planning.changes import MEMORY_MB, Comparison, table_objects
from pipelines.planning.listing import read_listing, write_parquet
from pipelines.planning.work import cut_shards
from pipelines.sources.base import LISTING_ROWS, LISTING_SCHEMA

ROOT = Path(__file__).parent.parent
DIMENSION = 8
FAULTS = {"column": None, "outcome": "rejected", "stage": "decode", "error": "e", "run_id": "r"}


def slices(rows: int) -> Iterator[np.ndarray]:
    """Numbers of the objects of each part."""
    for start in range(0, rows, LISTING_ROWS):
        yield np.arange(start, min(rows, start + LISTING_ROWS))


def names_of(numbers: np.ndarray) -> list[str]:
    """Ids of about the length of a path in a bucket."""
    return [f"images/{number % 997:03}/{number * 2654435761 % 2**32:08x}-{number}.jpg" for number in numbers.tolist()]


def write_parts(folder: Path, rows: int, now: bool) -> None:
    """A listing: what the source held before the run, or holds `now`."""
    for part, numbers in enumerate(slices(rows)):
        listed = np.where(numbers % 100 == 0, numbers + rows * now, numbers)  # new now, and gone
        listed = np.where(numbers % 10_000 == 9_999, numbers - 1, listed)  # listed twice
        names = names_of(listed)
        versions = np.where(numbers % 2 == 0, now, False).astype(np.int64)
        columns = {
            "object_id": names,
            "uri": [f"s3://bucket/{name}" for name in names],
            "version": [f'"{number:032x}-{kind}"' for number, kind in zip(listed, versions, strict=True)],
            "size": 100_000 + numbers % 1000,
            "position": pa.nulls(len(numbers), pa.int64()),
            "error": pa.nulls(len(numbers), pa.string()),
        }
        write_parquet(pa.table(columns, schema=LISTING_SCHEMA), open_storage(str(folder)), f"part-{part:06}.parquet")


def write_table(folder: Path, rows: int) -> None:
    """The table: two rows for one object in ten, one for each other; what was rejected is not in it."""

    def batches() -> Iterator[pa.RecordBatch]:
        for numbers in slices(rows):
            numbers = np.sort(np.concatenate([numbers, numbers[numbers % 10 == 3]]))
            numbers = numbers[numbers % 100 != 1]
            vectors = np.random.default_rng(0).standard_normal((len(numbers), DIMENSION)).astype(np.float32)
            vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION)
            hashes = [f"{number:032x}" for number in numbers.tolist()]
            yield pa.record_batch({"object_id": names_of(numbers), "object_hash": hashes, "v": vector})

    schema = pa.schema(
        [("object_id", pa.string()), ("object_hash", pa.string()), ("v", pa.list_(pa.float32(), DIMENSION))]
    )
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(folder), schema=schema)


def rejects_of(rows: int) -> Iterator[pa.Table]:
    """One reject for one object in a hundred."""
    for numbers in slices(rows):
        faults = [{**FAULTS, "object_id": name} for name in names_of(numbers[numbers % 100 == 1])]
        yield pa.Table.from_pylist(faults, schema=REJECTS_SCHEMA)


def compare(folder: Path, rows: int, memory_mb: int) -> dict[str, float]:
    """Compare, cut the work into shards, read it to its end; figures of this process."""
    began = time.perf_counter()
    with Comparison(memory_mb) as comparison:
        comparison.load(read_listing(open_storage(str(folder / "now"))))
        loaded_s = time.perf_counter() - began
        next(comparison.entries(), None)  # as much as a source looks at for its metadata
        base = lance.dataset(str(folder / "t.lance")) if rows else None
        before = read_listing(open_storage(str(folder / "before")))
        changes = comparison.find_changes(before, table_objects(base, ["v"]), rejects_of(rows), ["v"])
        found_s = time.perf_counter() - began
        sizes = (piece["size"].fill_null(0).to_numpy() for piece in comparison.work())
        shards = sum(1 for _ in cut_shards(sizes, changes.work, ShardSpec(), 2048, 2))
        gone = sum(piece.num_rows for piece in comparison.gone())
    assert gone == changes.gone
    assert not rows or changes.work
    return {
        "rows": rows,
        "work": changes.work,
        "unchanged": changes.carried["v"].unchanged,
        "gone": changes.gone,
        "shards": shards,
        "load_s": loaded_s,
        "compare_s": found_s - loaded_s,
        "read_s": time.perf_counter() - began - found_s,
        "seconds": time.perf_counter() - began,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """The most memory that this process has held, MiB. (`ru_maxrss` would count what its parent held.)"""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status does not say VmHWM; this benchmark needs Linux.")


def disk_bytes(folder: Path) -> int:
    """Bytes that the files below a folder take on disk."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_blocks * 512  # noqa: PTH116, PTH118 (the files come and go)
            except FileNotFoundError:
                continue
    return total


def measure(rows: int, memory_mb: int) -> dict[str, float]:
    """Figures of a fresh process, and the most disk it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if rows:
            write_parts(folder / "before", rows, now=False)
            write_parts(folder / "now", rows, now=True)
            write_table(folder / "t.lance", rows)
        (folder / "tmp").mkdir()
        command = [sys.executable, __file__, "--one", str(rows), str(folder), "--memory-mb", str(memory_mb)]
        environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, disk_bytes(folder / "tmp"))
                time.sleep(0.1)
            assert process.returncode == 0 and process.stdout is not None, f"comparing ended with {process.returncode}"
            return {**json.loads(process.stdout.read()), "disk_mb": peak / 2**20}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 10**6, 4 * 10**6])
    parser.add_argument("--memory-mb", type=int, default=MEMORY_MB, help="what DuckDB may take")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # rows and folder: compare in this process
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(compare(Path(asked.one[1]), int(asked.one[0]), asked.memory_mb)))
        return
    versions = ", ".join(f"{name} {version(name)}" for name in ("duckdb", "pyarrow", "pylance", "numpy"))
    print(f"{versions}; DuckDB may take {asked.memory_mb} MB; dim {DIMENSION}")
    baseline = measure(0, asked.memory_mb)["peak_mb"]
    print(f"baseline: {baseline:.0f} MB")
    print(
        f"{'rows':>10} {'work':>9} {'load s':>7} {'compare s':>9} {'read s':>7} {'peak MB':>8} {'- base':>7} {'disk MB':>8}"
    )
    figures = []
    for rows in asked.rows:
        found = measure(rows, asked.memory_mb)
        figures.append(found)
        print(
            f"{rows:>10} {found['work']:>9} {found['load_s']:>7.2f} {found['compare_s']:>9.2f} {found['read_s']:>7.2f} "
            f"{found['peak_mb']:>8.0f} {found['peak_mb'] - baseline:>7.0f} {found['disk_mb']:>8.0f}",
            flush=True,
        )
    for first, last in pairwise(figures):
        slope = (last["peak_mb"] - first["peak_mb"]) / (last["rows"] - first["rows"]) * 10**6
        print(f"memory, {first['rows']:,} to {last['rows']:,} objects: {slope:.0f} MB for each million more")
    last = figures[-1]
    disk = last["disk_mb"] * 2**20 / last["rows"]
    hours = last["seconds"] / last["rows"] * 10**9 / 3600
    print(
        f"temporary disk at {last['rows']:,} objects: {disk:.0f} bytes each; a straight line gives 10^9 objects "
        f"{disk * 10**9 / 2**40:.2f} TiB and {hours:.1f} h"
    )
    if asked.json:
        asked.json.write_text(json.dumps({"baseline_mb": baseline, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
