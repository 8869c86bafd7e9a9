"""The last sign of life of a run, kept by Ray's head: an actor for it would be one more process for each run, which imports Ray."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, field

from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

NAMESPACE = b"latentlake"


@dataclass(frozen=True)
class Pulse:
    """Where the tasks of a run say that somebody is at work, and where its driver hears it. Ray must be connected."""

    key: bytes = field(default_factory=lambda: b"pulse-" + secrets.token_bytes(16))

    def beat(self) -> None:
        """Somebody is at work. A sign that does not arrive is none."""
        with suppress(RayError):
            _internal_kv_put(self.key, secrets.token_bytes(8), namespace=NAMESPACE)

    def sign(self) -> bytes | None:
        """The last sign, which differs from every other; None where there was none, or the head does not answer."""
        with suppress(RayError):
            sign: bytes | None = _internal_kv_get(self.key, namespace=NAMESPACE)
            return sign
        return None

    def end(self) -> None:
        """Forget it."""
        with suppress(RayError):
            _internal_kv_del(self.key, namespace=NAMESPACE)
