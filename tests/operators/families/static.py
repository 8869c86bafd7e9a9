"""Cases of the family `static`: a file of word vectors, and a model2vec folder."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from contract import TEXTS, Case, Materials
from model_maker import write_static, write_word_vectors


def file_fields(materials: Materials) -> dict[str, Any]:
    words = sorted({word for text in TEXTS for word in re.findall(r"\w+", text)} - {"with", "every"})
    vectors = np.random.default_rng(0).standard_normal((len(words), 12)).astype(np.float32)
    path = write_word_vectors(materials.folder / "words.vec", dict(zip(words, vectors, strict=True)))
    return {"model": str(path), "weighting": "zipf"}


def folder_fields(materials: Materials) -> dict[str, Any]:
    pytest.importorskip("model2vec")
    return {"model": str(write_static(materials.folder))}


OTHER = {
    "format": "binary",
    "weighting": "tfidf",
    "lowercase": True,
    "token_pattern": r"\S+",
    "max_tokens": 17,
    "revision": "0" * 64,
    "idf_revision": "0" * 64,
    "dim": 3,
    "normalize": True,
    "truncate_dim": 2,
}
OUTSIDE = {"model": "/elsewhere.vec", "idf": "/elsewhere.tsv"}
CASES = {
    "static-file": Case("static", "text", file_fields, OTHER, OUTSIDE),
    "static-folder": Case("static", "text", folder_fields, OTHER, OUTSIDE),
}
