"""Acceptance lines of the model families. `make acceptance` runs and prints them; the suite has the same in small."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lines import ROOT, Line, Setting, open_table, run

sys.path.insert(0, str(ROOT / "tests"))

from image_models import write_open_clip
from sound_maker import write_speech_model

TOLERANCE = 1e-4
INT8_LOSS = 0.05  # of the cosine, at most, on average


def families(setting: Setting) -> Line:
    """1 and 2: the contract suite over every family, and each family beside a direct call of its library."""
    from operators.embedders import family_names

    files = [
        ROOT / "tests" / "operators" / f"test_{name}.py" for name in ("embedders_contract", *family_names(), "onnx")
    ]
    passed, told = run_tests(setting, *(path for path in files if path.is_file()))
    return Line(
        "every family keeps the contract, and equals a direct call of its library to 1e-4 for each pooling",
        f"{len(family_names())} families: {', '.join(family_names())}; {told}",
        passed,
    )


def three_families(setting: Setting) -> Line:
    """3: three families in one pass, and a fourth column later."""
    job = pictures_job(setting)
    report = run(job)
    before, objects = open_table(job), len(setting.pictures())
    columns = [entry["column"] for entry in job["embed"]]
    commits = sum(version.run_id == report["run_id"] for version in before.versions())
    full = before.count(" AND ".join(f"{column} IS NOT NULL" for column in columns))
    first = before.to_arrow(["id", *columns]).sort_by("id")
    indexes = {index.name: index for index in before.indexes()}
    job["embed"].append({"column": "hash", "family": "hashing", "dim": 64})
    added = run(job)
    after = open_table(job)
    same = after.to_arrow(["id", *columns]).sort_by("id").equals(first)
    kept = all({index.name: index for index in after.indexes()}.get(name) == index for name, index in indexes.items())
    embedded = {name: found["embedded"] for name, found in added["columns"].items()}
    return Line(
        "three vector columns of one pass and one commit; a fourth leaves rows, columns and indexes as they are",
        f"{full} rows with all three, {report['objects_read']} objects read, {commits} commit of the run; then {embedded}, "
        f"columns bit-equal: {same}, {len(indexes)} indexes kept: {kept}",
        full == objects == report["objects_read"]
        and commits == 1
        and same
        and kept
        and len(indexes) == 1
        and embedded == {**dict.fromkeys(columns, 0), "hash": objects}
        and after.count("hash IS NOT NULL") == objects,
    )


def pictures_job(setting: Setting) -> dict[str, Any]:
    """CIFAR through SqueezeNet's real weights, a tiny network of timm and a tiny CLIP."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), setting.folder / "test_vit.safetensors")
    weights = setting.data / "weights" / "squeezenet1_0_imagenet.safetensors"
    clip = write_open_clip(setting.folder / "clip")
    return {
        "name": "three",
        "modality": "image",
        "source": {"kind": "files", "uri": str(setting.data / "cifar10"), "include": [setting.images]},
        "embed": [
            {"column": "squeeze", "family": "torchvision", "model": "squeezenet1_0", "weights": str(weights)},
            {
                "column": "vit",
                "family": "timm",
                "model": "test_vit",
                "weights": str(setting.folder / "test_vit.safetensors"),
            },
            {"column": "clip", "family": "open_clip", "model": str(clip)},
        ],
        "table": {"uri": str(setting.folder / "lake"), "name": "three"},
        "index": [{"column": "squeeze", "type": "none"}, {"column": "vit", "type": "ivf_flat"}],
    }


def speech(setting: Setting) -> Line:
    """4a: spoken digits through transformers_audio, beside a direct call."""
    import soundfile
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    folder = write_speech_model(setting.folder / "wav2vec2", "wav2vec2-layer")
    job = {
        "name": "digits",
        "modality": "audio",
        "source": {"kind": "files", "uri": str(setting.data / "fsdd"), "include": [setting.sounds]},
        "preprocess": [{"op": "resample", "rate": 16_000}],
        "embed": [{"column": "v", "family": "transformers_audio", "model": str(folder)}],
        "table": {"uri": str(setting.folder / "lake"), "name": "digits"},
    }
    report = run(job)
    rows = open_table(job).to_arrow(["id", "v"]).to_pylist()
    model, extractor = AutoModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)
    worst = 0.0
    for row in rows[::10]:
        import soxr

        samples, rate = soundfile.read(setting.data / "fsdd" / row["id"], dtype="float32")
        inputs = extractor(soxr.resample(samples, rate, 16_000, "HQ"), sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            plain = model(inputs["input_values"]).last_hidden_state.mean(1)[0].numpy()
        worst = max(worst, float(np.abs(np.array(row["v"]) - plain).max()))
    return Line(
        "spoken digits through transformers_audio: all accounted for, equal to transformers to 1e-4",
        f"{report['counts']['embedded']} of {report['counts']['listed']} embedded, largest difference {worst:.1e}",
        worst <= TOLERANCE and report["counts"]["embedded"] == len(rows) == report["counts"]["listed"] > 0,
    )


def sentence_pairs(setting: Setting) -> Line:
    """4b: STS-B dev through MiniLM, by torch, onnx and int8, beside plain sentence-transformers."""
    import pandas as pd
    from scipy.stats import spearmanr
    from sentence_transformers import SentenceTransformer

    from latentlake import create_text_embedder

    pairs = pd.read_parquet(setting.data / "stsb" / "dev.parquet")
    one, other, scores = pairs["sentence1"].tolist(), pairs["sentence2"].tolist(), pairs["score"].to_numpy()

    def correlation(encode: Callable[[list[str]], np.ndarray]) -> float:
        a, b = encode(one), encode(other)
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        return float(spearmanr(cosines, scores).statistic)

    found = {"plain": correlation(SentenceTransformer(setting.minilm, device="cpu").encode)}
    loss: dict[str, float] = {}
    for name, settings in {
        "torch": {},
        "onnx": {"backend": "onnx"},
        "int8": {"backend": "onnx", "precision": "int8"},
    }.items():
        embedder = create_text_embedder("sentence-transformers", setting.minilm, device="cpu", **settings)
        found[name] = correlation(embedder.embed_batch)
        loss |= embedder.measured
    told = ", ".join(f"{name} {value:.5f}" for name, value in found.items())
    lost = ", ".join(f"{name} {value:.5f}" for name, value in loss.items())
    return Line(
        "STS-B dev, Spearman: torch as plain sentence-transformers to 1e-4, onnx to 1e-3; int8's loss is printed",
        f"{told}; {lost}",
        abs(found["torch"] - found["plain"]) <= 1e-4
        and abs(found["onnx"] - found["plain"]) <= 1e-3
        and 0 < loss["int8_cosine_loss_mean"] <= INT8_LOSS,
    )


def page(setting: Setting) -> Line:
    """5: docs/models.md is what the code makes of itself."""
    passed, told = run_tests(setting, ROOT / "tests" / "test_models_page.py")
    return Line(
        "docs/models.md equals what is generated from the code, and every claim on a peer has a source", told, passed
    )


def run_tests(setting: Setting, *files: Path) -> tuple[bool, str]:
    """Whether some files of the suite pass, and pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", *(str(path) for path in files)]
    environment = {**os.environ, "LATENTLAKE_TEST_DATA": str(setting.data)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode == 0, (done.stdout.strip().splitlines() or [""])[-1]


LINES: dict[int, Callable[[Setting], Line]] = {1: families, 3: three_families, 4: speech, 5: page, 6: sentence_pairs}
TIMINGS: dict[int, Callable[[Setting], Line]] = {}
