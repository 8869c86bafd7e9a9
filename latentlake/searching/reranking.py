"""Ranking again: a cross-encoder reads the query and each text together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentlake.trust import Trust
from operators.errors import MissingExtra, ModelNotFound, SpecError


def load_reranker(model: str | Path, trust: Trust) -> Any:
    """The sentence-transformers `CrossEncoder` of a folder or a hub id. Raises `MissingExtra`, `ModelNotFound`."""
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as failure:
        raise MissingExtra("rerank needs an extra: pip install 'latentlake[sentence-transformers]'") from failure
    place = Path(model).expanduser()
    name = str(place) if place.exists() else str(model)
    try:
        return CrossEncoder(name, trust_remote_code=trust.trust_remote_code, local_files_only=not trust.allow_downloads)
    except (OSError, ValueError) as failure:
        told = " ".join(str(failure).split())[:300]
        raise ModelNotFound(
            f"the reranker '{model}' cannot be loaded: {told}\n"
            "  Name a folder on this machine, or connect(uri, allow_downloads=True) to fetch a model of the hub."
        ) from failure


def score_pairs(reranker: Any, words: str, texts: Sequence[str]) -> np.ndarray:
    """What a cross-encoder, or anything with its `predict`, says of each text, float64 (n,); higher is better. Raises `SpecError`."""
    if not texts:
        return np.zeros(0)
    scores = np.asarray(reranker.predict([(words, text) for text in texts]), dtype=np.float64)
    if scores.shape != (len(texts),):
        raise SpecError(
            f"a reranker gives one score per text; this one gives shape {scores.shape} for {len(texts)} texts."
        )
    return scores
