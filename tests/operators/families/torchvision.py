"""Cases of the family `torchvision`."""

from __future__ import annotations

from typing import Any

import pytest
from contract import Case, Materials


def fields(materials: Materials) -> dict[str, Any]:
    pytest.importorskip("torchvision")
    weights = materials.data / "weights" / "squeezenet1_0_imagenet.safetensors"
    if not weights.is_file():
        pytest.skip(f"no weights at {weights}: set LATENTLAKE_TEST_DATA")
    return {"model": "squeezenet1_0", "weights": str(weights)}


OTHER = {
    "model": "squeezenet1_1",
    "resize": 232,
    "crop": 200,
    "resize_mode": "exact",
    "fill": (1, 2, 3),
    "interpolation": "bicubic",
    "pooling": "gmp",
    "layers": ("features.3",),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "revision": "0" * 64,
    "dim": 3,
    "normalize": True,
    "truncate_dim": 2,
    "compute_dtype": "bf16",
}
OUTSIDE = {"weights": "/elsewhere.safetensors", "compile": True}
CASES = {"torchvision": Case("torchvision", "image", fields, OTHER, OUTSIDE)}
