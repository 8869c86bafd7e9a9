"""Graphs of a sentence-transformers model, run by onnxruntime and openvino, beside the same model on torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import library
from model_maker import change_json, write_graph, write_model, write_transformer
from pydantic import ValidationError
from sts import read_pairs, score

from operators.batch import Batch, make_batch, object_array
from operators.embedders import _onnx
from operators.embedders._onnx import SENTENCES, cosine_loss, made_graph
from operators.embedders.sentence_transformers import Config
from operators.errors import MissingExtra, ModelNotFound, SpecError

for needed in ("sentence_transformers", "onnxruntime", "onnxscript", "openvino"):
    library(needed)

TEXTS = [*SENTENCES[:6], "a", "UPPER and lower", "grüße, naïve café, 世界 🙂", "word " * 300]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache folder, for this module's tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "latentlake" / "graphs"


def batch_of(texts: list[str]) -> Batch:
    return {**make_batch([str(k) for k in range(len(texts))], texts), "text": object_array(texts)}


def embed(model: Path | str, texts: list[str] = TEXTS, **options: Any) -> np.ndarray:
    config = Config(model=str(model), **options).resolve()
    return config.load("cpu", threads=1).embed(config.prepare(batch_of(texts), "document"))


@pytest.fixture(scope="module")
def exact(minilm: str) -> np.ndarray:
    return embed(minilm)


@pytest.fixture(scope="module")
def exact_sentences(minilm: str) -> np.ndarray:
    return embed(minilm, list(SENTENCES))


# a real model


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_vectors_are_those_of_torch(minilm: str, exact: np.ndarray, backend: str):
    vectors = embed(minilm, backend=backend)
    np.testing.assert_allclose(vectors, exact, atol=1e-5)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_int8_and_what_it_loses(minilm: str, exact: np.ndarray, exact_sentences: np.ndarray, backend: str):
    config = Config(model=minilm, backend=backend, precision="int8").resolve()
    embedder = config.load("cpu", threads=1)
    prepared = config.prepare(batch_of(TEXTS), "document")
    vectors = embedder.embed(prepared)
    assert 0.95 < (vectors * exact).sum(1).min() < 1 - 1e-5
    alone = [embedder.embed({name: values[[row]] for name, values in prepared.items()}) for row in range(len(TEXTS))]
    np.testing.assert_allclose(np.concatenate(alone), vectors, atol=1e-6)

    loss = cosine_loss(exact_sentences, embedder.embed(config.prepare(batch_of(list(SENTENCES)), "document")))
    print(backend, embedder.measured)
    assert embedder.measured == pytest.approx(loss, abs=1e-6)
    assert 1e-4 < loss["int8_cosine_loss_mean"] < loss["int8_cosine_loss_max"] < 0.05


@pytest.mark.slow
def test_int8_ranks_pairs_of_stsb_nearly_as_well(minilm: str, data: Path):
    """The vectors in fp32 are those of torch, as the first test here has it, whose ranks are in `test_sts`."""
    pytest.importorskip("scipy")
    pairs = read_pairs(data)
    exact, _ = score(minilm, pairs, backend="onnx")
    small, loss = score(minilm, pairs, backend="onnx", precision="int8")
    print(f"onnx fp32: Spearman {exact:.6f}; int8: {small:.6f}, {small - exact:+.6f}; {loss}")
    assert exact > 0.85
    assert small == pytest.approx(exact, abs=0.02)


def test_a_graph_is_made_once(minilm: str, cache: Path, monkeypatch: pytest.MonkeyPatch):
    config = Config(model=minilm, backend="onnx", precision="int8").resolve()
    config.load("cpu", threads=1)
    before = sorted(cache.rglob("*"))
    for name in ("export", "quantize"):
        monkeypatch.setattr(_onnx, name, None)
    again = config.load("cpu", threads=1)
    assert sorted(cache.rglob("*")) == before and again.measured


# graphs in the model's folder


@pytest.fixture(scope="module")
def with_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graph(write_transformer(tmp_path_factory.mktemp("model"), "bert"))


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_the_models_own_graph_is_run(with_graph: Path, backend: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_onnx, "export", None)
    exact = embed(with_graph)
    assert np.ptp(exact, axis=0).max() > 0.1
    np.testing.assert_allclose(embed(with_graph, backend=backend), exact, atol=1e-4)


def test_the_revision_covers_the_models_own_graph(tmp_path: Path):
    model = write_transformer(tmp_path / "bert", "bert")
    plain, graph = Config(model=str(model)), Config(model=str(model), backend="onnx")
    assert plain.resolve().revision == graph.resolve().revision
    (model / "onnx").mkdir()
    (model / "onnx" / "model.onnx").write_bytes(b"one")
    before = graph.resolve().revision
    assert before != plain.resolve().revision
    (model / "onnx" / "model.onnx_data").write_bytes(b"two")
    assert graph.resolve().revision not in (before, plain.resolve().revision)


def test_a_graph_that_is_no_text_encoder(with_graph: Path):
    import onnx

    path = with_graph / "onnx" / "model.onnx"
    content = path.read_bytes()
    try:
        for before, after, message in (
            ("token_type_ids", "position_ids", "wants position_ids, which a text has not"),
            ("last_hidden_state", "logits", "gives logits, not last_hidden_state"),
        ):
            graph = onnx.load_model_from_string(content)
            for node in graph.graph.node:
                node.input[:] = [after if name == before else name for name in node.input]
                node.output[:] = [after if name == before else name for name in node.output]
            for value in (*graph.graph.input, *graph.graph.output):
                value.name = after if value.name == before else value.name
            path.write_bytes(graph.SerializeToString())
            for backend in ("onnx", "openvino"):
                with pytest.raises(SpecError, match=message):
                    embed(with_graph, backend=backend)
    finally:
        path.write_bytes(content)


# the cache


def test_of_two_that_make_a_graph_the_first_is_kept(cache: Path):
    def make(source: str, path: Path) -> None:
        if source == "second":  # another process is done while this one still works
            made_graph(["raced"], ("onnxruntime",), make, "first")
        path.write_text(source)

    graph = made_graph(["raced"], ("onnxruntime",), make, "second")
    assert graph.read_text() == "first"
    assert [path.name for path in cache.iterdir() if path.name.startswith(graph.parent.name)] == [graph.parent.name]


def test_a_graph_that_could_not_be_made_leaves_nothing(cache: Path):
    before = sorted(cache.iterdir())

    def fail(source: str, path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        made_graph(["fails"], ("onnxruntime",), fail, "")
    assert sorted(cache.iterdir()) == before


def test_int8_is_measured_for_each_column(minilm: str, cache: Path):
    kept = []
    for changes in ({}, {"truncate_dim": 3}):
        before = {*cache.rglob("loss-*.json")}
        config = Config(model=minilm, backend="onnx", precision="int8", **changes).resolve()
        measured = config.load("cpu", threads=1).measured
        assert set(measured) == {"int8_cosine_loss_mean", "int8_cosine_loss_max"}
        kept.append(measured)
        made = {*cache.rglob("loss-*.json")} - before
    assert kept[0] != kept[1]
    assert [json.loads(path.read_text()) for path in made] == kept[1:]  # beside the one that was there


# options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision int8 needs `backend: onnx` or `backend: openvino`"),
        ({"backend": "onnx", "compute_dtype": "bf16"}, "compute_dtype and compile are for `backend: torch`"),
        ({"backend": "openvino", "compile": True}, "compute_dtype and compile are for `backend: torch`"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        Config(model="owner/name", **options)


def test_the_fingerprint_tells_backend_and_precision():
    plain = Config(model="owner/name").fingerprint_fields()
    assert not {"backend", "precision"} & set(plain)
    other = Config(model="owner/name", backend="onnx", precision="int8").fingerprint_fields()
    assert other == {**plain, "backend": "onnx", "precision": "int8"}


@pytest.mark.parametrize(
    ("backend", "message"), [("onnx", "this onnxruntime has no CUDA"), ("openvino", "openvino does not run on CUDA")]
)
def test_a_device_that_a_backend_does_not_have(with_graph: Path, backend: Any, message: str):
    import onnxruntime

    if backend == "onnx" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it has")
    with pytest.raises(SpecError, match=message):
        Config(model=str(with_graph), backend=backend).resolve().load("cuda")


@pytest.mark.parametrize(("backend", "lacking"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_backend_that_is_not_installed(with_graph: Path, backend: Any, lacking: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, lacking, None)
    with pytest.raises(MissingExtra, match=rf"needs an extra: pip install 'latentlake\[{backend}\]'"):
        Config(model=str(with_graph), backend=backend).resolve()


def test_a_model_that_gives_no_hidden_states(tmp_path: Path):
    model = write_model(tmp_path / "model")
    text = {"method": "forward", "method_output_name": "pooler_output"}
    other = {"modality_config": {"text": text}, "module_output_name": "sentence_embedding"}
    change_json(model / "sentence_bert_config.json", **other)
    with pytest.raises(SpecError, match="gives no hidden states of a text"):
        embed(model, ["open a file"], backend="onnx")


def test_files_that_changed_make_no_graph(tmp_path: Path, cache: Path):
    model = write_model(tmp_path / "model")
    config = Config(model=str(model), backend="onnx").resolve()
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x11")
    before = sorted(cache.iterdir())
    with pytest.raises(ModelNotFound, match="which `revision` pins"):
        config.load("cpu")
    assert sorted(cache.iterdir()) == before
