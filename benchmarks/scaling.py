"""What grows with the number of objects: the seconds, memory and files of a run, at three sizes each, and their slopes.

Measured, each in a fresh process: listing (files, and rows of JSON lines), comparing a listing with a table (see
`change_detection.py`), shards (their time in one process, and their records), the one commit of all their fragments with the
table's manifest, and building an index. Then a simulation of 10^8 to 10^10 objects, by straight lines through the measurements: it says where
the time would go and what would break, and is no measurement. GPUs are the reader's: `--gpu NAME=ROWS_PER_S:PRICE`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import change_detection
import lance
import numpy as np
import pyarrow as pa
from change_detection import ROOT, disk_bytes, peak_mb
from extrapolation import ASSUMED_GPUS, Gpu, Line, simulate
from index_threshold import make_vectors

from latentlake.indexes import choose_index
from latentlake.storage import open_storage
from pipelines import run_job
from pipelines.job.jobfile import parse_job
from pipelines.planning.listing import known_files, write_listing
from pipelines.progress import COMMITTING, Event

DIMENSION = 384
SHARD_OBJECTS = 5  # small shards, so that there are many of few objects
FAR = (10**8, 10**9, 10**10)
BOUNDED = {
    ("files", "memory_mb"),
    ("lines", "memory_mb"),
}  # by a part of 50,000 objects, so no line leads on from there
SIZES = {
    "files": (10_000, 20_000, 40_000),
    "lines": (100_000, 300_000, 1_000_000),
    "comparing": (300_000, 1_000_000, 3_000_000),
    "shards": (100, 400, 1_600),
    "commit": (10_000, 30_000, 100_000),
    "index": (100_000, 200_000, 400_000),
}


def make_files(folder: Path, count: int) -> None:
    """A source of small files, a thousand per folder."""
    for number in range(count):
        if number % 1000 == 0:
            (folder / "in" / f"{number // 1000:05}").mkdir(parents=True)
        (folder / "in" / f"{number // 1000:05}" / f"{number:08}.txt").write_text("x")


def make_lines(folder: Path, count: int) -> None:
    """A source of JSON lines, ten thousand per file."""
    (folder / "in").mkdir()
    for first in range(0, count, 10_000):
        lines = (
            json.dumps({"id": f"object-{n:010}", "text": f"text {n}"}) for n in range(first, min(count, first + 10_000))
        )
        (folder / "in" / f"{first:010}.jsonl").write_text("\n".join(lines) + "\n")


def job_of(folder: Path) -> dict[str, Any]:
    """A job over what is below `folder`."""
    lines = any((folder / "in").glob("*.jsonl"))
    source = {"kind": "jsonl", "id": "id", "content": "text"} if lines else {"kind": "files"}
    return {
        "name": "scaling",
        "modality": "text",
        "source": {**source, "uri": str(folder / "in")},
        "embed": [{"column": "h", "family": "hashing", "dim": 8}],
        "table": {"uri": str(folder / "lake"), "name": "t"},
        "shard": {"max_objects": SHARD_OBJECTS},
        "index": [{"column": "h", "type": "none"}],
    }


def list_source(folder: Path) -> dict[str, float]:
    """Listing alone."""
    source, place = parse_job(job_of(folder)).source, open_storage(str(folder / "listing"))
    began, before = time.perf_counter(), peak_mb()
    write_listing(source, known_files(None, source), place)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "memory_mb": peak_mb() - before, "files_mb": disk_bytes(folder / "listing") / 1e6}


def run_shards(folder: Path) -> dict[str, float]:
    """A whole run of many shards without Ray: this process is its driver, and a child embeds."""
    found: dict[str, float] = {}

    def look(event: Event) -> None:
        if event.phase == COMMITTING and not found:  # records are removed as the run ends
            records = list((folder / "lake" / "_latentlake").rglob("shards/*.json"))
            found["files_mb"] = sum(path.stat().st_size for path in records) / 1e6

    report = run_job(job_of(folder), runner="inline", progress=look)
    return {"seconds": report["seconds"]["stream"]} | found


def make_fragments(folder: Path, count: int) -> None:
    """The descriptions of so many fragments, as shards' records hold them. A commit looks at no file of theirs."""
    rows = pa.table({"id": ["a"], "v": pa.FixedSizeListArray.from_arrays(pa.array([0.0] * 8, pa.float32()), 8)})
    (one,) = lance.fragment.write_fragments(rows, str(folder / "t.lance"))
    described = json.dumps(one.to_json())
    path = one.files[0].path
    lines = (described.replace(path, f"{number:0{len(path) - 6}}.lance") for number in range(count))
    (folder / "fragments").write_text("\n".join(lines))
    (folder / "schema").write_bytes(rows.schema.serialize().to_pybytes())


def commit_fragments(folder: Path) -> dict[str, float]:
    """One commit of them, as `pipelines/publish/commit.py` makes it; then the table is opened, as readers do."""
    before, schema = peak_mb(), pa.ipc.read_schema(pa.BufferReader((folder / "schema").read_bytes()))
    described = (folder / "fragments").read_text().splitlines()
    began = time.perf_counter()
    fragments = [lance.FragmentMetadata.from_json(text) for text in described]
    operation = lance.LanceOperation.Overwrite(schema, fragments)
    lance.LanceDataset.commit(str(folder / "t.lance"), lance.Transaction(0, operation), max_retries=0)
    seconds, manifests = time.perf_counter() - began, (folder / "t.lance" / "_versions").iterdir()
    began = time.perf_counter()
    lance.dataset(str(folder / "t.lance"))
    return {
        "seconds": seconds,
        "memory_mb": peak_mb() - before,
        "files_mb": max(path.stat().st_size for path in manifests) / 1e6,
        "opening_s": time.perf_counter() - began,
    }


def make_vectors_table(folder: Path, rows: int) -> None:
    """A table of clustered vectors."""
    flat = pa.array(make_vectors(rows, DIMENSION, 1).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, DIMENSION)
    lance.write_dataset(pa.table({"id": np.arange(rows), "v": vectors}), str(folder / "t.lance"))


def build(folder: Path) -> dict[str, float]:
    """The index that `type: auto` builds."""
    table, before = lance.dataset(str(folder / "t.lance")), peak_mb()
    began = time.perf_counter()
    table.create_index("v", **choose_index(10**6, DIMENSION, "cosine", "auto"))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "memory_mb": peak_mb() - before,
        "files_mb": disk_bytes(folder / "t.lance" / "_indices") / 1e6,
    }


# What is made before, by size, and what is measured in a process of its own.
KINDS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], dict[str, float]]]] = {
    "files": (make_files, list_source),
    "lines": (make_lines, list_source),
    "shards": (lambda folder, shards: make_lines(folder, shards * SHARD_OBJECTS), run_shards),
    "commit": (make_fragments, commit_fragments),
    "index": (make_vectors_table, build),
}


def measure(kind: str, size: int) -> dict[str, float]:
    """Figures of one kind at one size; `cpu_s` of the process, its start included, which other work on the machine does not change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = in_a_process(kind, size)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, **found}


def in_a_process(kind: str, size: int) -> dict[str, float]:
    """Make what is measured, and measure it in a process of its own."""
    if kind == "comparing":
        found = change_detection.measure(size, change_detection.MEMORY_MB)
        return {"seconds": found["seconds"], "memory_mb": found["peak_mb"], "files_mb": found["disk_mb"]}
    with tempfile.TemporaryDirectory(prefix="ll-scaling-") as name:
        KINDS[kind][0](Path(name), size)
        command = [sys.executable, __file__, "--one", kind, name]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))


def lines_of(figures: dict[str, dict[int, dict[str, float]]]) -> dict[str, Line]:
    """The line of each quantity, by its name: `files seconds`, `shards: driver_mb`."""
    lines = {}
    for kind, by_size in figures.items():
        prefix = {"shards": "shards: ", "commit": "shards: commit ", "index": "rows: index "}.get(kind, f"{kind} ")
        for quantity in next(iter(by_size.values())):
            values = [found[quantity] for found in by_size.values()]
            if (kind, quantity) not in BOUNDED:
                lines[f"{prefix}{quantity}"] = Line.through(list(by_size), values)
    return lines


def show(lines: dict[str, Line], far: Sequence[dict[str, float]]) -> None:
    """Print the slopes, and the simulation."""
    print(f"\n{'slope of':<28} {'per million':>14}")
    for name, line in lines.items():
        print(f"{name:<28} {line.slope * 1e6:>14,.2f}")
    print(
        "\nSIMULATION: straight lines through the sizes above. Nothing of this was measured; GPUs are assumed or given."
    )
    for name in far[0]:
        print(f"{name:<28} " + " ".join(f"{found[name]:>18,.1f}" for found in far))


def main() -> None:
    """Measure, extrapolate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--share", type=float, default=1.0, help="of the sizes, for a quick look")
    parser.add_argument("--shard-objects", type=int, default=2048, help="objects of a shard, in the simulation")
    parser.add_argument("--gpu", nargs="+", type=Gpu.parse, default=[Gpu.parse(text) for text in ASSUMED_GPUS])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # kind and folder: measure in this process
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(KINDS[asked.one[0]][1](Path(asked.one[1]))))
        return
    versions = {name: version(name) for name in ("duckdb", "pyarrow", "pylance", "ray")}
    print(", ".join(f"{name} {found}" for name, found in versions.items()), f"{os.cpu_count()} cores", sep="; ")
    figures: dict[str, dict[int, dict[str, float]]] = {}
    for kind in asked.kinds:
        for size in (max(1, int(size * asked.share)) for size in SIZES[kind]):
            found = figures.setdefault(kind, {})[size] = measure(kind, size)
            print(
                f"{kind:<10} {size:>9,} " + ", ".join(f"{name} {value:,.3f}" for name, value in found.items()),
                flush=True,
            )
    lines = lines_of(figures)
    far = [simulate(lines, objects, asked.shard_objects, DIMENSION, asked.gpu) for objects in FAR]
    show(lines, far)
    if asked.json:
        slopes = {name: vars(line) for name, line in lines.items()}
        found = {"versions": versions, "figures": figures, "lines": slopes, "simulation": far}
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
