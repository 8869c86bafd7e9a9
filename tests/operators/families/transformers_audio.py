"""Cases of the family `transformers_audio`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract import Case, Materials
from sound_maker import write_speech_model


def fields_of(name: str, **more: Any) -> Callable[[Materials], dict[str, Any]]:
    def fields(materials: Materials) -> dict[str, Any]:
        pytest.importorskip("transformers")
        pytest.importorskip("soxr")
        return {"model": str(write_speech_model(materials.folder, name)), **more}

    return fields


OTHER = {
    "revision": "0" * 32,
    "trust_remote_code": True,
    "rate": 8_000,
    "window_seconds": 1.5,
    "overlap_seconds": 0.25,
    "layers": (0, 1),
    "aggregate": "max",
    "pooling": "max",
    "do_normalize": None,
    "dim": 3,
    "normalize": True,
    "truncate_dim": 2,
    "compute_dtype": "bf16",
}
OUTSIDE = {"model": "/elsewhere", "compile": True, "receptive_field": 3}
CASES = {
    f"transformers_audio-{label}": Case("transformers_audio", "audio", fields_of(name, **more), OTHER, OUTSIDE)
    for label, name, more in (
        ("group", "wav2vec2-group", {}),
        ("layer", "wavlm-layer", {"pooling": "mean_std"}),
        ("windows", "hubert-layer", {"window_seconds": 1.0, "overlap_seconds": 0.1, "layers": (0, -1)}),
        ("data2vec", "data2vec", {"pooling": "first"}),
        ("whisper", "whisper", {}),
    )
}
