"""Cases of the family `exported`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract import Case, Materials
from encoder_maker import write_encoder


def onnx(kind: str) -> Callable[[Materials], dict[str, Any]]:
    def fields(materials: Materials) -> dict[str, Any]:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        return {"model": str(write_encoder(materials.folder, kind))}

    return fields


def program(materials: Materials) -> dict[str, Any]:
    from operators.embedders.exported import files_below
    from operators.model_files import revision_of_files

    pytest.importorskip("torch")
    folder = write_encoder(materials.folder, "image", ".pt2")
    revision = revision_of_files(files_below(folder), folder)
    return {"model": str(folder), "revision": revision, "trust_remote_code": True}


OTHER = {
    "revision": "0" * 32,
    "document_prompt": "passage: ",
    "trust_remote_code": True,
    "encoder": None,
    "dim": 3,
    "normalize": True,
    "truncate_dim": 2,
}
OUTSIDE = {"model": "/elsewhere", "query_prompt": "query: "}
CASES = {
    **{f"exported-{kind}": Case("exported", kind, onnx(kind), OTHER, OUTSIDE) for kind in ("text", "image", "audio")},
    "exported-pt2": Case("exported", "image", program, {**OTHER, "trust_remote_code": False}, OUTSIDE),
}
