"""A family of a third party whose model a service runs: it asks `hosted_service.Service`, over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import ClassVar, Literal, Self
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
from pydantic import Field

from operators.batch import Batch, object_array
from operators.embedders.base import Limiter, RemoteConfig, Role
from operators.errors import Unavailable


class Config(RemoteConfig):
    """Vectors of 4 numbers: a 1, and three bits of the text's length. `requests` may be under way at once."""

    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    not_in_fingerprint: ClassVar[frozenset[str]] = frozenset({"base_url", "requests"})

    family: Literal["hosted"] = "hosted"
    base_url: str
    requests: int = Field(default=4, ge=1)

    @property
    def concurrency(self) -> int:
        return self.requests

    def resolve(self) -> Self:
        return self.sized(4)

    def prepare(self, batch: Batch, role: Role) -> Batch:
        counts = np.array([len(text.split()) for text in batch["text"]], dtype=np.int64)
        return {
            "texts": object_array(batch["text"]),
            "tokens": counts,
            "truncated": np.zeros(len(counts), dtype=bool),
            "cost": np.maximum(counts, 1),
        }

    def batch_cost(self, device: str) -> int:
        return 8

    def load(self, device: str, threads: int | None = None, limiter: Limiter | None = None) -> Client:
        return Client(self, limiter)


class Client:
    """Asks the service."""

    def __init__(self, config: Config, limiter: Limiter | None) -> None:
        self.config, self.limiter = config, limiter

    async def embed(self, prepared: Batch) -> np.ndarray:
        if self.limiter is not None:
            await self.limiter.acquire(int(prepared["cost"].sum()))
        body = json.dumps(prepared["texts"].tolist()).encode()
        return np.array(await asyncio.to_thread(self.ask, body), dtype=np.float32).reshape(-1, 4)

    def ask(self, body: bytes) -> list[list[float]]:
        try:
            with urlopen(Request(self.config.base_url, data=body), timeout=30) as answer:
                vectors: list[list[float]] = json.load(answer)
                return vectors
        except HTTPError as failure:
            if failure.code not in (429, 503):
                raise
            wait = failure.headers.get("Retry-After")
            raise Unavailable(
                f"{self.config.base_url} answers {failure.code}", float(wait) if wait else None
            ) from failure
        except URLError as failure:
            raise Unavailable(f"{self.config.base_url} cannot be reached: {failure.reason}") from failure
