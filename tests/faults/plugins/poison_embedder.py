"""A family of a third party that does, on marked words, the worst that a model can do. Otherwise it hashes."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from typing import ClassVar, Literal

import numpy as np
import psutil

from operators.batch import Batch
from operators.embedders import hashing
from operators.embedders.base import Role

MEMORY = 512 << 20  # that the process may take while the marked row eats


class Config(hashing.Config):
    """Normalised vectors of `dim` numbers."""

    modalities: ClassVar[frozenset[str]] = frozenset({"text"})

    family: Literal["poison"] = "poison"  # type: ignore[assignment]
    dim: int = 16
    normalize: bool = True

    def prepare(self, batch: Batch, role: Role) -> Batch:
        """Words, as hashing wants them; raises on a marked text."""
        if any("poisonprepare" in text for text in batch["text"]):
            raise KeyError("the tokenizer does not know 'poisonprepare'")
        return super().prepare(batch, role)

    def load(self, device: str, threads: int | None = None) -> PoisonEmbedder:
        """Nothing to load."""
        return PoisonEmbedder(self)


class PoisonEmbedder(hashing.HashingEmbedder):
    """See `Config`."""

    def embed(self, prepared: Batch) -> np.ndarray:
        """Vectors float32 (n, dim), of rows without a mark."""
        for words in prepared["words"]:
            for mark, act in ACTS.items():
                if mark in words:
                    act()
        vectors = super().embed(prepared)
        for row, words in enumerate(prepared["words"]):
            for mark, value in VALUES.items():
                if mark in words:
                    vectors[row] *= value
        return vectors


def fail() -> None:
    """Raise."""
    raise RuntimeError("CUDA error: device-side assert triggered")


def eat_memory() -> None:
    """Take memory until there is none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, hard))
    eaten = []
    try:
        while True:
            eaten.append(bytearray(32 << 20))
    finally:
        eaten.clear()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


ACTS = {
    "poisonraise": fail,
    "poisonmemory": eat_memory,
    "poisonsegfault": lambda: ctypes.string_at(0),
    "poisonexit": lambda: os._exit(1),
    "poisonsleep": lambda: time.sleep(3600),
    "poisonabort": os.abort,
    "poisonkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}
VALUES = {"poisonnan": float("nan"), "poisoninf": float("inf"), "poisonnorm": 3.0}
