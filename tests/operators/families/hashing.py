"""Cases of the family `hashing`."""

from __future__ import annotations

from typing import Any

from contract import Case, Materials


def fields(materials: Materials) -> dict[str, Any]:
    return {"dim": 48}


OTHER = {"dim": 24, "max_words": 5, "normalize": True, "truncate_dim": 12}
OUTSIDE = {"delay_ms": 9.0}
CASES = {f"hashing-{kind}": Case("hashing", kind, fields, OTHER, OUTSIDE) for kind in ("text", "image", "audio")}
