"""What the first search of a table in S3 waits for: seconds, requests and bytes, cold, and after `Table.warm_up`.

A table of clustered 384-d vectors with the index that `type: auto` builds lies on moto, on loopback, behind a proxy that
waits before each answer, as a store further off would. Each line opens the table with nothing cached, and searches twice
by a vector, so that no model takes part. Prints a table.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import lance
import numpy as np
from counting_s3 import CountingS3
from index_threshold import make_vectors
from nightly_cost import counted_lake
from search import DIMENSION, make_table

import latentlake
from latentlake.indexes import choose_index


def measured(proxy: CountingS3, do: Callable[[], object]) -> str:
    """Seconds, requests and megabytes read, of something done once."""
    proxy.take()
    requests = sum(proxy.requests.values())
    began = time.perf_counter()
    do()
    seconds = time.perf_counter() - began
    read = sum(proxy.take().values()) / 1e6
    return f"{seconds:6.2f} s {sum(proxy.requests.values()) - requests:4} req {read:6.1f} MB"


def measure(proxy: CountingS3, options: dict[str, str], query: np.ndarray, warm: bool) -> list[str]:
    """Opening the table with nothing cached, warming up or not, and two searches."""
    lake = latentlake.connect("s3://lake/n", options)
    opened: list[latentlake.Table] = []
    cells = [measured(proxy, lambda: opened.append(lake.open("t")))]
    cells.append(measured(proxy, opened[0].warm_up) if warm else "")
    return cells + [measured(proxy, lambda: opened[0].search(query)) for _ in range(2)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--delays", type=float, nargs="+", default=(0, 30), help="milliseconds before each answer")
    asked = parser.parse_args()
    os.environ["LL_COUNTING_KEY"] = "counting"
    print(f"pylance {version('pylance')}, {asked.rows:,} x {DIMENSION}, moto {version('moto')} on loopback")
    print(f"{'':22} {'open':>26} {'warm_up':>26} {'first search':>26} {'second search':>26}")
    (query,) = make_vectors(1, DIMENSION, 2)
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "lake")
        make_table(place, asked.rows)
        choice = choose_index(max(asked.rows, 20_000), DIMENSION, "cosine", "auto") or {}
        lance.dataset(f"{place}/t.lance").create_index("v", **choice)
        latentlake.connect(place).open("t").search(query)  # so that no import is measured
        with counted_lake(Path(folder)) as (proxy, options):
            for delay in asked.delays:
                proxy.delay_s = delay / 1000
                for warm in (False, True):
                    cells = measure(proxy, options, query, warm)
                    name = f"{delay:.0f} ms{', warmed up' if warm else ''}"
                    print(f"{name:22} " + " ".join(f"{cell:>26}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
