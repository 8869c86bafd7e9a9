"""Texts, and the vectors that `hashing` makes of them."""

from __future__ import annotations

from operators.batch import object_array
from operators.embedders import load_config

TEXTS = {f"doc{n:02}.txt": f"text number {n} about subject {n % 7}" for n in range(40)}


ONCE = "changed once, and at some length so that hashing has enough words"


TWICE = "changed twice, again at some length so that no two words cancel out"


def expected_vector(text: str, dim: int = 64) -> list[float]:
    config = load_config({"family": "hashing", "dim": dim})
    prepared = config.prepare({"text": object_array([text])}, "document")
    return config.load("cpu").embed(prepared)[0].tolist()
