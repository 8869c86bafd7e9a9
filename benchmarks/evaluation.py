"""What evaluating a large table costs: seconds and peak memory, per kind of task, each in a process of its own.

A table of `--rows` clustered vectors with a label, a number and a group each; queries, and relevant rows of their cluster.
Prints JSON, one line per kind. Linux alone (the kernel tells the peak).

    python benchmarks/evaluation.py --rows 1000000 --dim 128
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from own_process import measure_each, peak_mb

import latentlake
from latentlake.provenance import FIELD_KEY, Provenance, fingerprint_of, identity_of
from operators.chain import Chain
from operators.embedders.hashing import Config

CLUSTERS = 1000
PIECE = 50_000  # rows written at once
QUERIES = 200
KINDS: dict[str, dict[str, Any]] = {
    "retrieval": {"queries": "queries.tsv", "qrels": "qrels.txt", "documents": "id"},
    "knn": {"labels": "label", "groups": "group"},
    "linear_probe": {"labels": "label", "groups": "group"},
    "regression": {"target": "number", "groups": "group"},
    "clustering": {"labels": "label"},
    "geometry": {"positives": "label"},
}


def write_table(folder: Path, rows: int, dim: int) -> None:
    """The lake, and beside it the files of the suite."""
    config, chain = Config(dim=dim), Chain("text")
    provenance = Provenance(
        fingerprint=fingerprint_of(config, chain, "float32"),
        identity=identity_of(config, chain, "float32"),
        embedder=config.model_dump(mode="json"),
        chain=chain.to_json(),
        dtype="float32",
    )
    vector = pa.field("v", pa.list_(pa.float32(), dim), metadata={FIELD_KEY: provenance.to_json().encode()})
    fields = [("id", pa.string()), ("label", pa.string()), ("number", pa.float64()), ("group", pa.int64())]
    schema = pa.schema([*(pa.field(name, kind) for name, kind in fields), vector])
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, dim))

    def pieces() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, PIECE):
            places = np.arange(start, min(rows, start + PIECE))
            rng = np.random.default_rng(start + 1)
            vectors = centres[places % CLUSTERS] + rng.standard_normal((len(places), dim))
            values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), dim)
            labels = [str(place % CLUSTERS % 20) for place in places.tolist()]
            names = [f"row{place}" for place in places.tolist()]
            columns = [names, labels, vectors @ centres[0], places % 5000, values]
            yield pa.record_batch([pa.array(one) for one in columns], schema=schema)

    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, pieces()), str(folder / "lake" / "t.lance"), schema)
    lines = [f"q{n}\tword{n} word{n + 1} word{n + 2}" for n in range(QUERIES)]
    (folder / "queries.tsv").write_text("\n".join(lines))
    judged = [f"q{n} 0 row{n + 1000 * m} 1" for n in range(QUERIES) for m in range(min(10, rows // 1000))]
    (folder / "qrels.txt").write_text("\n".join(judged))


def evaluate(folder: Path, kind: str) -> dict[str, Any]:
    """Figures of one kind of task, in this process."""
    suite = folder / f"{kind}.json"
    suite.write_text(json.dumps({"tasks": [{"kind": kind, **KINDS[kind]}]}))
    table = latentlake.connect(folder / "lake").open("t")
    began = time.perf_counter()
    found = table.evaluate(suite, record=False)
    seconds = time.perf_counter() - began
    return {
        "kind": kind,
        "rows": len(table),
        "seconds": round(seconds, 1),
        "peak_mb": peak_mb(),
        "results": len(found.results),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)  # of the child process
    given = parser.parse_args()
    if given.folder is not None:
        print(json.dumps(evaluate(given.folder, given.kinds[0])))
        return
    with tempfile.TemporaryDirectory() as name:
        write_table(Path(name), given.rows, given.dim)
        figures = measure_each(__file__, name, "--kinds", given.kinds)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
