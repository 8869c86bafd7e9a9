"""Several models in one vector: against numpy, and what cannot be put together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from latentlake.query import relocate
from latentlake.trust import Trust
from operators.batch import Batch, object_array
from operators.embedders import load_config
from operators.embedders.concat import Config
from operators.embedders.hashing import Config as Hashing
from operators.errors import SpecError

TEXTS = ["compare two files", "open a file", "run a function"]
PARTS = ({"family": "hashing", "dim": 64}, {"family": "hashing", "dim": 16, "max_words": 2})


def batch() -> Batch:
    return {"text": object_array(TEXTS)}


def embed(config: Any) -> np.ndarray:
    return config.load("cpu").embed(config.prepare(batch(), "document"))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_cosine_is_the_weighted_mean_of_cosines():
    one, other = (unit(embed(Hashing(**{k: v for k, v in part.items() if k != "family"}).resolve())) for part in PARTS)
    for weights, (a, b) in (((), (0.5, 0.5)), ((3.0, 1.0), (0.75, 0.25))):
        vectors = embed(Config(parts=PARTS, weights=weights).resolve())
        assert vectors.shape == (3, 80)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(vectors @ vectors.T, a * one @ one.T + b * other @ other.T, atol=1e-6)


def test_a_text_that_one_part_cuts_is_told():
    config = Config(parts=PARTS).resolve()
    prepared = config.prepare(batch(), "document")
    assert prepared["tokens"].tolist() == [3, 3, 3]
    assert prepared["truncated"].all()
    assert config.window == 2


def test_the_fingerprint_covers_the_parts_as_theirs_do():
    config = Config(parts=PARTS).resolve()
    fields = [part.fingerprint_fields() for part in config.parts]
    assert config.fingerprint_fields()["parts"] == fields
    slower = Config(parts=({**PARTS[0], "delay_ms": 5}, PARTS[1])).resolve()
    assert slower.fingerprint_fields() == config.fingerprint_fields()
    assert load_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parts": [PARTS[0]]}, "two models or more"),
        ({"parts": PARTS, "weights": [1.0]}, "1 weights for 2 parts"),
        ({"parts": PARTS, "weights": [1.0, 0.0]}, "above 0"),
        ({"parts": [PARTS[0], {"family": "concat", "parts": PARTS}]}, "'concat' cannot be a part"),
        ({"parts": [PARTS[0], {"dim": 3}]}, "names its `family`"),
        ({"parts": 5}, "list of models"),
        ({"parts": [PARTS[0], {"family": "hashing", "dims": 3}]}, "dims"),
    ],
)
def test_what_cannot_be_put_together(fields: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        Config(**fields)


def test_a_reader_trusts_each_part_or_none():
    """What a table says of a part is no more trusted than of a model alone."""
    own_code = {"family": "sentence_transformers", "model": "/gone", "revision": "a" * 40, "trust_remote_code": True}
    config = Config(parts=(PARTS[0], own_code))
    with pytest.raises(SpecError, match="runs its own code"):
        Trust().check("v", config)
    Trust(trust_remote_code=True).check("v", config)
    moved = relocate(config, "v", {"/gone": "/here"})
    assert moved.models[1].model == "/here"  # type: ignore[attr-defined]
    assert moved.models[0] == config.parts[0]
