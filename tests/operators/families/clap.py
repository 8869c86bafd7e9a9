"""Cases of the family `clap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract import Case, Materials
from sound_maker import write_clap


def fields_of(fusion: bool) -> Callable[[Materials], dict[str, Any]]:
    def fields(materials: Materials) -> dict[str, Any]:
        pytest.importorskip("transformers")
        pytest.importorskip("soxr")
        return {"model": str(write_clap(materials.folder, fusion))}

    return fields


OTHER = {
    "revision": "0" * 32,
    "trust_remote_code": True,
    "rate": 16_000,
    "window_seconds": 1.5,
    "overlap_seconds": 0.25,
    "document_prompt": "the sound of ",
    "max_tokens": 17,
    "dim": 3,
    "normalize": True,
    "truncate_dim": 2,
    "compute_dtype": "bf16",
}
OUTSIDE = {"model": "/elsewhere", "query_prompt": "this is a sound of ", "compile": True}
CASES = {
    "clap-audio": Case("clap", "audio", fields_of(False), OTHER, OUTSIDE),
    "clap-fusion": Case("clap", "audio", fields_of(True), OTHER, OUTSIDE),
    "clap-text": Case("clap", "text", fields_of(False), OTHER, OUTSIDE),
}
