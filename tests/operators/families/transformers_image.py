"""Cases of the family `transformers_image`: models of images alone, and of images and text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract import Case, Materials
from image_models import write_model


def fields_of(kind: str, **chosen: Any) -> Callable[[Materials], dict[str, Any]]:
    def fields(materials: Materials) -> dict[str, Any]:
        pytest.importorskip("transformers")
        return {"model": str(write_model(materials.folder / kind, kind)), **chosen}

    return fields


OTHER = {
    "resize": 232,
    "resize_mode": "longest",
    "crop": 200,
    "fill": (1, 2, 3),
    "interpolation": "lanczos",
    "mean": (0.1, 0.2, 0.3),
    "std": (0.1, 0.2, 0.3),
    "revision": "0" * 32,
    "trust_remote_code": True,
    "pooling": "gmp",
    "layers": (-2,),
    "aggregate": "sum",
    "max_tokens": 9,
    "document_prompt": "a photo of ",
    "dim": 3,
    "normalize": True,
    "truncate_dim": 2,
    "compute_dtype": "bf16",
}
OUTSIDE = {"model": "/elsewhere", "query_prompt": "a drawing of ", "compile": True}
CASES = {
    "transformers_image-dinov2": Case(
        "transformers_image", "image", fields_of("dinov2", pooling="mean_patch"), OTHER, OUTSIDE
    ),
    "transformers_image-resnet": Case("transformers_image", "image", fields_of("resnet"), OTHER, OUTSIDE),
    "transformers_image-clip": Case("transformers_image", "image", fields_of("clip"), OTHER, OUTSIDE),
    "transformers_image-clip-text": Case("transformers_image", "text", fields_of("clip"), OTHER, OUTSIDE),
    "transformers_image-siglip-text": Case("transformers_image", "text", fields_of("siglip"), OTHER, OUTSIDE),
}
