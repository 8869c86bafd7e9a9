"""An index built by fragments through Ray beside one built in one process: same table, same queries, one run. Linux alone.

Clustered vectors (1,000,000 x 128 unless asked otherwise) in a table of `--fragments` files, and queries that mix two clusters, whose
nearest rows numpy finds. Each build runs in a process of its own, on a copy of the table that has no index. Prints one line of JSON
per build: seconds (starting Ray is told apart, and `how` has the parts), the peak memory of the process that
commits and of the largest worker in MB, partitions and segments, recall@10 as `search` asks, and its median time. Then the ratios.

On one machine both have the same cores, so that this tells what building by fragments costs. What it gains is other machines.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lance
import numpy as np
import psutil
import pyarrow as pa
from own_process import measure_each, peak_mb

from clusters import this_machine
from latentlake.indexes import build_whole, choose_index, find_index, nearest
from latentlake.storage import open_storage
from latentlake.tuning.choice import count_partitions

K, METRIC, COLUMN = 10, "cosine", "v"
BATCH = 50_000
WAYS = ("single", "distributed")


def chunks(rows: int, dimension: int) -> Iterator[np.ndarray]:
    """Unit vectors in clusters of some 200 rows, (n, dimension), float32."""
    for start in range(0, rows, BATCH):
        yield draw(min(BATCH, rows - start), rows, dimension, start + 1)


def draw(count: int, rows: int, dimension: int, seed: int) -> np.ndarray:
    """So many vectors of the clusters of a table of `rows`."""
    centres = np.random.default_rng(0).standard_normal((max(2, rows // 200), dimension), dtype=np.float32)
    rng = np.random.default_rng(seed)
    made = centres[rng.integers(0, len(centres), count)]
    made = made + 0.6 * rng.standard_normal((count, dimension), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def write(folder: Path, rows: int, dimension: int, fragments: int, asked: int) -> None:
    """The table, the queries, and the numbers of the rows that are nearest to each."""
    weight = np.random.default_rng(2).uniform(0.55, 0.95, (asked, 1)).astype(np.float32)
    queries = weight * draw(asked, rows, dimension, rows + 1) + (1 - weight) * draw(asked, rows, dimension, rows + 2)
    best = np.full((asked, K), -np.inf, np.float32), np.zeros((asked, K), np.int64)

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal best
        start = 0
        for vectors in chunks(rows, dimension):
            numbers = np.arange(start, start + len(vectors))
            start += len(vectors)
            scores = np.concatenate([best[0], queries @ vectors.T], axis=1)
            every = np.concatenate([best[1], np.broadcast_to(numbers, (asked, len(numbers)))], axis=1)
            kept = np.argpartition(-scores, K, axis=1)[:, :K]
            best = np.take_along_axis(scores, kept, 1), np.take_along_axis(every, kept, 1)
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension)
            yield pa.record_batch({"number": numbers, COLUMN: column})

    schema = pa.schema({"number": pa.int64(), COLUMN: pa.list_(pa.float32(), dimension)})
    size = -(-rows // fragments)
    lance.write_dataset(
        pa.RecordBatchReader.from_batches(schema, batches()), str(folder / "t.lance"), max_rows_per_file=size
    )
    np.savez(folder / "queries.npz", queries=queries, nearest=best[1])


def judge(dataset: Any, folder: Path) -> dict[str, float]:
    """Recall and median milliseconds, searched as a column that was never tuned."""
    made = np.load(folder / "queries.npz")
    hits, times = 0, []
    for query, wanted in zip(made["queries"], made["nearest"], strict=True):
        began = time.perf_counter()
        found = dataset.to_table(columns=["number", "_distance"], nearest=nearest(COLUMN, query, K, METRIC))
        times.append((time.perf_counter() - began) * 1000)
        hits += len(set(found["number"].to_pylist()) & set(wanted.tolist()))
    return {"recall": round(hits / made["nearest"].size, 4), "p50_ms": round(float(np.median(times)), 2)}


def build(folder: Path, way: str, kind: Any) -> dict[str, Any]:
    """Build the index of a copy of the table, and measure."""
    place = folder / f"{way}.lance"
    shutil.copytree(folder / "t.lance", place)
    dataset = lance.dataset(str(place))
    rows = dataset.count_rows()
    arguments = choose_index(rows, dataset.schema.field(COLUMN).type.list_size, METRIC, kind)
    assert arguments is not None
    figures: dict[str, Any] = {"way": way, "type": kind}
    before_mb = peak_mb()
    if way == "single":
        began = time.perf_counter()
        build_whole(dataset, COLUMN, "v_idx", arguments, rows)
        figures |= {"seconds": time.perf_counter() - began, "peak_mb": peak_mb()}
    else:
        figures |= distributed(place, dataset, arguments, rows)
    found = find_index(dataset, COLUMN)
    assert found is not None and found.rows_unindexed == 0
    figures |= {
        "before_mb": before_mb,
        "partitions": count_partitions(dataset, "v_idx"),
        "segments": found.segments,
        **judge(lance.dataset(str(place)), folder),
    }
    shutil.rmtree(place)
    return figures


def distributed(place: Path, dataset: Any, arguments: Any, rows: int) -> dict[str, Any]:
    """Build through a private Ray on this machine, whose workers have started."""
    from pipelines.publish import segment_tasks
    from pipelines.ray_connection import running_ray

    profile = this_machine()
    began = time.perf_counter()
    with running_ray(profile):
        warm()
        ray_s = time.perf_counter() - began
        began = time.perf_counter()
        how = segment_tasks.build_by_fragments(
            profile, open_storage(str(place)), dataset, COLUMN, "v_idx", arguments, rows, lambda: None
        )
        seconds = time.perf_counter() - began
        workers = [peak_of(child.pid) for child in psutil.Process().children(recursive=True) if "ray::" in child.name()]
    return {
        "seconds": seconds,
        "ray_s": ray_s,
        "peak_mb": peak_mb(),
        "worker_peak_mb": max(workers),
        "how": how,
    }


def warm() -> None:
    """Let a worker start, and import what it needs, as the stream of a run has done before the index is built."""
    import ray

    def load() -> None:
        import pipelines.publish.segment_tasks  # noqa: F401

    ray.get(ray.remote(load).options(num_cpus=this_machine().cpus).remote())


def peak_of(process: int) -> int:
    """Peak memory of another process, in MB; 0 where it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return round(next((int(line.split()[1]) for line in status if line.startswith("VmHWM")), 0) / 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--fragments", type=int, default=8)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--type", default="auto", help="auto, ivf_rq, ivf_pq or ivf_flat")
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.folder:
        way, _, kind = asked.way.partition(":")
        figures = build(asked.folder, way, kind)
        print(
            json.dumps(
                {name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()}
            )
        )
        return
    print(
        f"pylance {version('pylance')}, ray {version('ray')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"{asked.rows:,} x {asked.dimension}, {asked.fragments} fragments, {asked.type}, {asked.queries} queries",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), asked.rows, asked.dimension, asked.fragments, asked.queries)
        ways = [f"{way}:{asked.type}" for way in WAYS]
        one, other = measure_each(__file__, folder, "--way", ways)
    print(
        f"by fragments / in one process: seconds {other['seconds'] / one['seconds']:.2f}, peak memory of the driver "
        f"{other['peak_mb'] / one['peak_mb']:.2f}, of a worker {other['worker_peak_mb'] / one['peak_mb']:.2f}, p50 "
        f"{other['p50_ms'] / one['p50_ms']:.2f}; recall {other['recall'] - one['recall']:+.4f}; load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
