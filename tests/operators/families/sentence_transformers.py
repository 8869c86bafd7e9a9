"""Cases of the family `sentence_transformers`: on torch, and on a graph that the model's folder has."""

from __future__ import annotations

from typing import Any

import pytest
from contract import Case, Materials
from model_maker import write_graph, write_transformer


def fields(materials: Materials) -> dict[str, Any]:
    pytest.importorskip("sentence_transformers")
    return {"model": materials.minilm}


def graph_fields(materials: Materials) -> dict[str, Any]:
    for name in ("sentence_transformers", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    return {"model": str(write_graph(write_transformer(materials.folder, "bert"))), "backend": "onnx"}


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
    "backend": "openvino",
    "precision": "int8",
}
OUTSIDE = {"model": "/elsewhere", "query_prompt": "query: ", "compile": True}
CASES = {
    "sentence_transformers": Case("sentence_transformers", "text", fields, OTHER, OUTSIDE),
    "sentence_transformers-onnx": Case("sentence_transformers", "text", graph_fields, OTHER, OUTSIDE),
}
