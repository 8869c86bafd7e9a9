"""Cases of the family `open_clip`: a tiny CLIP of a folder, its images and its text."""

from __future__ import annotations

from typing import Any

import pytest
from contract import Case, Materials
from image_models import write_open_clip


def fields(materials: Materials) -> dict[str, Any]:
    pytest.importorskip("open_clip")
    return {"model": str(write_open_clip(materials.folder / "clip"))}


OTHER = {
    "resize": 232,
    "resize_mode": "longest",
    "crop": 200,
    "fill": (1, 2, 3),
    "interpolation": "lanczos",
    "mean": (0.1, 0.2, 0.3),
    "std": (0.1, 0.2, 0.3),
    "revision": "0" * 32,
    "architecture": "ViT-B-32",
    "document_prompt": "a photo of ",
    "dim": 3,
    "normalize": True,
    "truncate_dim": 2,
    "compute_dtype": "bf16",
}
OUTSIDE = {"model": "/elsewhere", "weights": "/elsewhere.pt", "query_prompt": "a drawing of ", "compile": True}
CASES = {f"open_clip-{kind}": Case("open_clip", kind, fields, OTHER, OUTSIDE) for kind in ("image", "text")}
