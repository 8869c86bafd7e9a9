"""What exploring a large table costs: seconds and peak memory of each call, each in a process of its own.

A table of `--rows` clustered vectors with a text each. Prints JSON, one line per call. Linux alone (the kernel tells the peak).

    python benchmarks/exploring.py --rows 1000000 --dim 384
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from own_process import measure_each, peak_mb

import latentlake
from latentlake.exploration.report import Known, report_page
from latentlake.provenance import FIELD_KEY, Provenance, fingerprint_of, identity_of
from operators.chain import Chain
from operators.embedders.hashing import Config

CLUSTERS = 50
PIECE = 20_000  # rows written at once
CALLS: dict[str, Callable[[latentlake.Table], Any]] = {
    "report": lambda table: report_page(table, Known(), method="pca"),
    "project pca": lambda table: table.project(method="pca"),
    "project umap": lambda table: table.project(method="umap"),
    "cluster kmeans": lambda table: table.cluster("kmeans"),
    "outliers knn": lambda table: table.outliers("knn", sample=2000),
    "duplicates": lambda table: table.duplicates(0.01),
}


def write_table(folder: Path, rows: int, dim: int) -> None:
    """The table `t` of a lake."""
    config, chain = Config(dim=dim), Chain("text")
    provenance = Provenance(
        fingerprint=fingerprint_of(config, chain, "float32"),
        identity=identity_of(config, chain, "float32"),
        embedder=config.model_dump(mode="json"),
        chain=chain.to_json(),
        dtype="float32",
    )
    vector = pa.field("v", pa.list_(pa.float32(), dim), metadata={FIELD_KEY: provenance.to_json().encode()})
    schema = pa.schema([*(pa.field(name, pa.string()) for name in ("id", "content_hash", "text")), vector])
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, dim))

    def pieces() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, PIECE):
            places = np.arange(start, min(rows, start + PIECE))
            noise = np.random.default_rng(start + 1).standard_normal((len(places), dim))
            vectors = (centres[places % CLUSTERS] + 0.7 * noise).astype(np.float32)
            names = [f"row{place}" for place in places.tolist()]
            texts = [f"text number {place} of topic word{place % CLUSTERS}" for place in places.tolist()]
            values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
            columns = [pa.array(names), pa.array([name * 8 for name in names]), pa.array(texts), values]
            yield pa.record_batch(columns, schema=schema)

    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, pieces()), str(folder / "t.lance"), schema)


def measure(folder: Path, call: str) -> dict[str, Any]:
    """Figures of one call, in this process."""
    table = latentlake.connect(folder).open("t")
    began = time.perf_counter()
    CALLS[call](table)
    seconds = time.perf_counter() - began
    return {"call": call, "rows": len(table), "seconds": round(seconds, 1), "peak_mb": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--calls", nargs="+", default=list(CALLS), choices=list(CALLS))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)  # of the child process
    given = parser.parse_args()
    if given.folder is not None:
        print(json.dumps(measure(given.folder, given.calls[0])), flush=True)
        return
    with tempfile.TemporaryDirectory() as name:
        write_table(Path(name), given.rows, given.dim)
        figures = measure_each(__file__, name, "--calls", given.calls)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
