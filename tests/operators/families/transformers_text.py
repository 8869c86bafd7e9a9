"""Cases of the family `transformers_text`: an encoder, and a decoder without a token for padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract import Case, Materials
from model_maker import write_transformer


def fields_of(kind: str, **options: Any) -> Callable[[Materials], dict[str, Any]]:
    def fields(materials: Materials) -> dict[str, Any]:
        pytest.importorskip("transformers")
        return {"model": str(write_transformer(materials.folder, kind)), **options}

    return fields


OTHER = {
    "revision": "0" * 32,
    "pooling": "cls",
    "layers": (-2,),
    "aggregate": "max",
    "document_prompt": "passage: ",
    "max_tokens": 17,
    "trust_remote_code": True,
    "dim": 3,
    "normalize": True,
    "truncate_dim": 2,
    "compute_dtype": "bf16",
}
OUTSIDE = {"model": "/elsewhere", "query_prompt": "query: ", "compile": True}
CASES = {
    "transformers_text-bert": Case("transformers_text", "text", fields_of("bert"), OTHER, OUTSIDE),
    "transformers_text-gpt2": Case(
        "transformers_text",
        "text",
        fields_of("gpt2", pooling="last_token", layers=(0, -1), aggregate="concat"),
        {**OTHER, "aggregate": "mean"},
        OUTSIDE,
    ),
}
