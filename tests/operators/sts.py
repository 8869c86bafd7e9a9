"""A tenth of STS-B dev, and how well a model's vectors rank it.

https://ixa2.si.ehu.eus/stswiki/index.php/STSbenchmark
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from operators.batch import make_batch, object_array
from operators.batching import form_batches
from operators.embedders.sentence_transformers import Config

Pairs = dict[str, list[Any]]


def read_pairs(data: Path) -> Pairs:
    """Every tenth pair of sentences, with its score by people."""
    rows = pq.read_table(data / "stsb" / "dev.parquet")
    return rows.take(list(range(0, rows.num_rows, 10))).to_pydict()


def spearman(pairs: Pairs, first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of cosine similarity with the scores."""
    from scipy import stats

    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(stats.spearmanr((first * second).sum(1) / lengths, pairs["score"]).statistic)


def score(model: str, pairs: Pairs, **options: Any) -> tuple[float, dict[str, float]]:
    """`spearman` of a model as we run it, and what its embedder measured."""
    config = Config(model=model, **options).resolve()
    embedder = config.load("cpu", threads=1)
    texts = pairs["sentence1"] + pairs["sentence2"]
    batch = {**make_batch([str(k) for k in range(len(texts))], texts), "text": object_array(texts)}
    prepared = config.prepare(batch, "document")
    vectors = np.zeros((len(texts), config.dimension), dtype=np.float32)
    for rows in form_batches(prepared["cost"], config.batch_cost("cpu")):
        vectors[rows] = embedder.embed({name: values[rows] for name, values in prepared.items()})
    return spearman(pairs, *np.split(vectors, 2)), embedder.measured
