"""Tables of made vectors, whose figures are known or computed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from lake_maker import LakeMaker

import latentlake
from operators.chain import Chain
from operators.embedders.hashing import Config


def make_table(
    maker: LakeMaker,
    vectors: np.ndarray,
    columns: Mapping[str, Any] | None = None,
    *,
    name: str = "made",
    metric: str = "cosine",
    modality: str = "text",
    no_vector: Sequence[int] = (),
) -> latentlake.Table:
    """A table with the vector column `made`, and other columns."""
    ids = [f"row{n:06}" for n in range(len(vectors))]
    data = {"id": pa.array(ids), "object_id": pa.array(ids), **(columns or {})}
    field = maker.vector_field("made", Config(dim=vectors.shape[1]), Chain(modality), "float32", metric)
    maker.write(name, data, {"made": (field, vectors)}, no_vector=no_vector)
    return latentlake.connect(maker.uri).open(name)


def figures(table: latentlake.Table, **task: Any) -> dict[str, float]:
    """Values of one task by measure, with the mode before it where there is one."""
    found = table.evaluate({"tasks": [task]}, resamples=20)
    return {f"{r.mode}: {r.measure}" if r.mode else r.measure: r.value for r in found.results}
