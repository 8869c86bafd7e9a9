"""Cases of the family `timm`: a network of convolutions and a transformer, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract import Case, Materials


def fields_of(model: str, **chosen: Any) -> Callable[[Materials], dict[str, Any]]:
    def fields(materials: Materials) -> dict[str, Any]:
        timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
        from safetensors.torch import save_file

        torch.manual_seed(0)
        weights = materials.folder / f"{model}.safetensors"
        save_file(timm.create_model(model).state_dict(), weights)
        return {"model": model, "weights": str(weights), **chosen}

    return fields


OTHER = {
    "resize": 232,
    "resize_mode": "exact",
    "crop": 200,
    "fill": (1, 2, 3),
    "interpolation": "lanczos",
    "mean": (0.4, 0.5, 0.6),
    "std": (0.4, 0.5, 0.6),
    "revision": "0" * 64,
    "architecture": "resnet18",
    "pooling": "gmp",
    "layers": ("layer1",),
    "aggregate": "sum",
    "dim": 3,
    "normalize": True,
    "truncate_dim": 2,
    "compute_dtype": "bf16",
}
OUTSIDE = {"model": "resnet18", "weights": "/elsewhere.safetensors", "compile": True}
CASES = {
    "timm-resnet": Case("timm", "image", fields_of("test_resnet"), OTHER, OUTSIDE),
    "timm-vit": Case("timm", "image", fields_of("test_vit", pooling="mean_patch"), OTHER, OUTSIDE),
}
