"""Loading a model. One that waits for a service runs its coroutines on a loop of their own, so that whoever calls it needs none."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from operators.batch import Batch
from operators.embedders.base import Embedder, EmbedderConfig, Limiter, RemoteConfig


class Blocking:
    """An embedder whose `embed` is a coroutine, as one that blocks. `runs_ahead` batches may be begun before one is taken."""

    def __init__(self, embedder: Any, concurrency: int) -> None:
        self.embedder = embedder
        self.runs_ahead = concurrency - 1
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="embedder", daemon=True).start()

    def embed(self, prepared: Batch) -> np.ndarray:
        """Vectors float32 (n, dim) of prepared rows."""
        return self.begin(prepared)()

    def begin(self, prepared: Batch) -> Callable[[], np.ndarray]:
        """Begin a batch; what is returned waits for its vectors."""
        return asyncio.run_coroutine_threadsafe(self.embedder.embed(prepared), self._loop).result

    @property
    def measured(self) -> dict[str, float]:
        """See `Embedder`."""
        return dict(getattr(self.embedder, "measured", {}))


def load_embedder(
    config: EmbedderConfig, device: str, threads: int | None = None, limiter: Limiter | None = None
) -> Embedder:
    """Load a model, of whatever kind, as an embedder that blocks. `limiter` is handed to one that asks a service."""
    if isinstance(config, RemoteConfig):
        loaded: Any = config.load(device, threads, limiter)
    else:
        loaded = config.load(device, threads)
    return Blocking(loaded, config.concurrency) if inspect.iscoroutinefunction(loaded.embed) else loaded
