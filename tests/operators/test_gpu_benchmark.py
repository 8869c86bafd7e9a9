"""The benchmark runs, without Ray and Lance; its counts of operations are those of the textbook."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from libraries import library

library("timm")
library("transformers")
torch = library("torch")

ROOT = Path(__file__).parent.parent.parent
TABLES = ("ray", "lance", "lancedb", "pyarrow")  # what it does without
PROGRAM = f"""
import runpy, sys
runpy.run_path("benchmarks/gpu.py")
assert not {set(TABLES)} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_it_runs_on_a_cpu(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in {*TABLES, *(name for name in sys.modules if name.split(".")[0] in TABLES)}:
        monkeypatch.setitem(sys.modules, name, None)  # who imports it now fails
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--small", "--rounds", "2", "--json", str(tmp_path / "figures.json")])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    gpu.main()
    shown = capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["small"] and figures["device"].endswith("CPU cores") and "torch" in figures["versions"]
    assert set(figures["models"]) == {"vit-l-14", "minilm", "mistral-7b"}
    for name, found in figures["models"].items():
        assert found["ratio"] == pytest.approx(found["embedder_rows_per_s"] / found["model_rows_per_s"])
        assert found["tflop"] > 0 and found["mfu"] is None and found["batches"] > 1
        assert f"{name}: " in shown


def test_its_import_loads_no_library_of_tables() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, check=True)


def test_operations_are_counted(gpu: ModuleType) -> None:
    """Two for each parameter outside the embeddings and each token, padding included, and those of the attention."""
    subject = gpu.mistral_7b("cpu", "fp32", small=True)
    found = gpu.measure(subject, rounds=1, budget=600)
    model, cost = subject.embedder.model, subject.prepared["cost"]
    parts = [cost[rows] for rows in gpu.form_batches(cost, 600)]
    places = sum(len(part) * part.max() for part in parts)
    weights = sum(values.numel() for values in model.parameters()) - model.embed_tokens.weight.numel()
    attention = sum(2 * 4 * len(part) * part.max() ** 2 * 64 for part in parts)  # two layers, two products, width 64
    assert found["tflop"] * 1e12 == pytest.approx(2 * weights * places + attention, rel=0.02)


def test_shapes_are_those_of_the_models(gpu: ModuleType) -> None:
    import timm
    from transformers import AutoModel, BertConfig, MistralConfig

    with torch.device("meta"):
        mistral = AutoModel.from_config(MistralConfig())
        vit = timm.create_model("vit_large_patch14_clip_224", num_classes=0)
    counts = [sum(values.numel() for values in model.parameters()) for model in (mistral, vit)]
    np.testing.assert_allclose(counts, [7.11e9, 303e6], rtol=0.01)
    assert BertConfig().vocab_size == 30_522


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H200", "fp16", 989.4),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA L40", "bf16", None),
        ("NVIDIA H100 NVL", "bf16", None),
    ],
)
def test_peaks(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, dtype: str, peak: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert gpu.peak_of(torch.device("cuda"), dtype) == peak
