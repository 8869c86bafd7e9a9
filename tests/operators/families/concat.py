"""Cases of the family `concat`."""

from __future__ import annotations

from typing import Any

from contract import Case, Materials


def fields(materials: Materials) -> dict[str, Any]:
    return {"parts": [{"family": "hashing", "dim": 48}, {"family": "hashing", "dim": 32}]}


OTHER = {"dim": 24, "parts": (), "weights": (1.0, 2.0), "normalize": True, "truncate_dim": 12}
CASES = {f"concat-{kind}": Case("concat", kind, fields, OTHER) for kind in ("text", "image", "audio")}
