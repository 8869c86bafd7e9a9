"""Tables of given vectors, for tests that compare with an independent computation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lake_maker import LakeMaker
from threadpoolctl import threadpool_limits

import latentlake
from operators.chain import Chain
from operators.embedders.hashing import Config


def make_table(
    folder: Path, vectors: np.ndarray, metric: str = "l2", no_vector: tuple[int, ...] = (), **data: Any
) -> latentlake.Table:
    """A table with the vector column `v`, and ids `row0`, `row1`, … unless `data` has others."""
    maker = LakeMaker(str(folder))
    ids = [f"row{row}" for row in range(len(vectors))]
    columns: Mapping[str, Any] = {"id": ids, "object_id": ids, "content_hash": ids, "object_hash": ids} | data
    field = maker.vector_field("v", Config(dim=vectors.shape[1]), Chain("text"), "float32", metric)
    maker.write("t", columns, {"v": (field, vectors)}, no_vector=no_vector)
    return latentlake.connect(str(folder)).open("t")


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenMP's threads wait for each other by spinning: on a busy machine two are many times slower than one."""
    with threadpool_limits(1):
        yield
