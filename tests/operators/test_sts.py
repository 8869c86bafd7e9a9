"""What a model's vectors are worth, on a tenth of STS-B dev; `make acceptance` takes all of it. `test_onnx` has its graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
from libraries import library
from sts import read_pairs, score, spearman

library("sentence_transformers")
pytest.importorskip("scipy")
pytestmark = pytest.mark.slow


def test_stsb_is_that_of_sentence_transformers(
    minilm: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch
    from sentence_transformers import SentenceTransformer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.set_num_threads(1)
    pairs, model = read_pairs(data), SentenceTransformer(minilm, device="cpu")
    plain = spearman(pairs, *(model.encode(pairs[name]) for name in ("sentence1", "sentence2")))
    found, _ = score(minilm, pairs)
    print(f"STS-B dev, {len(pairs['score'])} pairs: Spearman {found:.6f}, plain sentence-transformers {plain:.6f}")
    assert found == pytest.approx(plain, abs=1e-4)
    assert found > 0.85
