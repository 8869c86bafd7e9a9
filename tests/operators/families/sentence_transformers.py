"""Cases of the family `sentence_transformers`."""

from __future__ import annotations

from typing import Any

import pytest
from contract import Case, Materials


def fields(materials: Materials) -> dict[str, Any]:
    pytest.importorskip("sentence_transformers")
    return {"model": materials.minilm}


OTHER = {
    "revision": "0" * 32,
    "document_prompt": "passage: ",
    "max_tokens": 17,
    "trust_remote_code": True,
    "dim": 3,
    "lowercase": True,
    "normalize": True,
    "truncate_dim": 2,
    "compute_dtype": "bf16",
}
OUTSIDE = {"model": "/elsewhere", "query_prompt": "query: ", "compile": True}
CASES = {"sentence_transformers": Case("sentence_transformers", "text", fields, OTHER, OUTSIDE)}
