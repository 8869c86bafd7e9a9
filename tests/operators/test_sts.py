"""What a model's vectors are worth, on a fifth of STS-B dev; `make acceptance` takes all of it.

https://ixa2.si.ehu.eus/stswiki/index.php/STSbenchmark
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from operators.batch import Batch, make_batch, object_array
from operators.batching import form_batches
from operators.embedders.sentence_transformers import Config

pytest.importorskip("sentence_transformers")
stats = pytest.importorskip("scipy.stats")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pairs(data: Path) -> dict[str, list[Any]]:
    rows = pq.read_table(data / "stsb" / "dev.parquet")
    return rows.take(list(range(0, rows.num_rows, 5))).to_pydict()


def batch_of(texts: list[str]) -> Batch:
    return {**make_batch([str(k) for k in range(len(texts))], texts), "text": object_array(texts)}


def spearman(pairs: dict[str, list[Any]], first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of cosine similarity with the human scores."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(stats.spearmanr((first * second).sum(1) / lengths, pairs["score"]).statistic)


def ours(minilm: str, pairs: dict[str, list[Any]], **options: Any) -> tuple[float, dict[str, float]]:
    config = Config(model=minilm, **options).resolve()
    embedder = config.load("cpu", threads=1)
    texts = pairs["sentence1"] + pairs["sentence2"]
    prepared = config.prepare(batch_of(texts), "document")
    vectors = np.zeros((len(texts), config.dimension), dtype=np.float32)
    for rows in form_batches(prepared["cost"], config.batch_cost("cpu")):
        vectors[rows] = embedder.embed({name: values[rows] for name, values in prepared.items()})
    return spearman(pairs, *np.split(vectors, 2)), embedder.measured


@pytest.fixture(scope="module")
def plain(minilm: str, pairs: dict[str, list[Any]]) -> float:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(minilm, device="cpu")
    return spearman(pairs, *(model.encode(pairs[name]) for name in ("sentence1", "sentence2")))


def test_stsb_is_that_of_sentence_transformers(minilm: str, pairs: dict[str, list[Any]], plain: float):
    found, _ = ours(minilm, pairs)
    print(f"STS-B dev, {len(pairs['score'])} pairs: Spearman {found:.6f}, plain sentence-transformers {plain:.6f}")
    assert found == pytest.approx(plain, abs=1e-4)
    assert found > 0.85


def test_stsb_on_onnx(minilm: str, pairs: dict[str, list[Any]], plain: float):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exact, _ = ours(minilm, pairs, backend="onnx")
    small, loss = ours(minilm, pairs, backend="onnx", precision="int8")
    print(f"onnx fp32: Spearman {exact:.6f}; int8: {small:.6f}, {small - plain:+.6f}; {loss}")
    assert exact == pytest.approx(plain, abs=1e-3)
    assert small == pytest.approx(plain, abs=0.02)
