"""Many small nightly commits: what they do to reads, and what `maintain` gives back.

Embeds a corpus with an index, then some objects more and some changed, night after night, each a run with its own commit.
Prints search latency, scan time, fragments, index segments and versions after the first run, after the nights, and after
`maintain`.

With `--cost FOLDER`: what one night reads and takes on tables of 10^5 and 10^6 rows (see `nightly_cost.py`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np

import latentlake
from clusters import this_machine
from latentlake.storage import open_storage
from pipelines.job.jobfile import parse_job
from pipelines.ray_connection import running_ray
from pipelines.run import run_job
from pipelines.upkeep.maintain import maintain_table

DIMENSION = 256
WORDS = ["lake", "vector", "shard", "index", "object", "column", "commit", "reader", "bound", "stream", "night", "tag"]


def write_texts(folder: Path, first: int, count: int, seed: int) -> None:
    """Write `count` texts, numbered from `first`."""
    draw = np.random.default_rng(seed)
    for number in range(first, first + count):
        path = folder / f"{number // 1000:04}" / f"{number:07}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number} " + " ".join(draw.choice(WORDS, 12)) + f" {draw.integers(1000)}", encoding="utf-8")


def measure(lake: Path, queries: int = 100) -> dict[str, float]:
    """How the table that readers follow is to read."""
    table = latentlake.connect(str(lake)).open("t")
    vectors = np.random.default_rng(1).random((queries, DIMENSION), dtype=np.float32)
    for vector in vectors[:10]:
        table.search(vector, k=10, columns=["id"])
    times = []
    for vector in vectors:
        began = time.perf_counter()
        table.search(vector, k=10, columns=["id"])
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    rows = table.to_arrow(["id", "text"]).num_rows
    scan_s = time.perf_counter() - began
    import lance

    dataset = lance.dataset(table.uri).checkout_version(table.version)
    return {
        "rows": rows,
        "search_p50_ms": round(1000 * statistics.median(times), 2),
        "scan_ms": round(1000 * scan_s, 1),
        "fragments": len(dataset.get_fragments()),
        "index_segments": sum(index.segments for index in table.indexes()),
        "versions": len(table.versions()),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=50)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    parser.add_argument(
        "--cost", type=Path, metavar="FOLDER", help="measure what a night costs; tables are kept in FOLDER"
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[100_000, 1_000_000], help="rows of the tables of --cost"
    )
    parser.add_argument("--runner", choices=["auto", "ray", "inline"], default="auto", help="of the nights of --cost")
    asked = parser.parse_args()
    if asked.cost:
        from nightly_cost import measure_costs

        costs = measure_costs(asked.cost, asked.sizes, asked.runner)
        print(json.dumps(costs, indent=2))
        if asked.json:
            asked.json.write_text(json.dumps(costs), encoding="utf-8")
        return
    found: dict[str, object] = {"nights": asked.nights}
    with tempfile.TemporaryDirectory(prefix="ll-nightly-") as name, running_ray(this_machine()):
        folder = Path(name)
        job = parse_job(
            {
                "name": "nightly",
                "modality": "text",
                "source": {"kind": "files", "uri": str(folder / "in")},
                "embed": [{"column": "h", "family": "hashing", "dim": DIMENSION, "pool": {"max": 1}}],
                "table": {"uri": str(folder / "lake"), "name": "t"},
                "index": [{"column": "h", "type": "ivf_rq"}],
            }
        )
        write_texts(folder / "in", 0, asked.rows, 0)
        run_job(job)
        found["first"] = measure(folder / "lake")
        for night in range(asked.nights):
            write_texts(folder / "in", asked.rows + 100 * night, 100, night)
            write_texts(folder / "in", 37 * night, 20, 1000 + night)
            run_job(job)
        found["after_nights"] = measure(folder / "lake")
        found["maintained"] = maintain_table(open_storage(str(folder / "lake")), "t", keep=timedelta(0))
        found["after_maintain"] = measure(folder / "lake")
        found["next_run"] = run_job(job)["state"]
    found["library_versions"] = {name: version(name) for name in ("ray", "pylance")}
    print(json.dumps(found, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
