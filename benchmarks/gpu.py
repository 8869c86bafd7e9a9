"""What our embedders take from a model's speed: prepared shards through `embed`, beside the bare model.

Three shapes with random weights, made in memory from the libraries' own configs: a ViT-L/14 (timm), a MiniLM encoder
and a decoder of Mistral 7B's shape (transformers). Each is run twice over the same batches, formed as the pipeline forms
them: the bare model, its inputs on the device already, and our embedder from prepared rows in memory, with copies,
pooling and the way back to numpy. Prints rows/s of both, medians of interleaved rounds, their ratio, the floating point
operations that torch counts (padding included) a second, and the part of the device's peak that they are (MFU). Needs
neither Ray nor Lance. `--json FILE` writes the same; `--small` tries the program on a CPU, with tiny shapes, whose
figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from operators.batch import Batch, object_array, take_rows
from operators.batching import form_batches
from operators.embedders._torch import DTYPES, TorchEmbedder

# Peak TFLOP/s of matrix products without sparsity, in bf16 (and fp16) on tensor cores, and in fp32 off them, by
# words of the device's name. NVIDIA's data sheets, which double the first figure for sparsity:
# https://www.nvidia.com/en-us/data-center/h200/, .../h100/, .../a100/, .../l40s/, .../l4/
PEAKS = {
    "H200": {"bf16": 989.4, "fp32": 66.9},
    "H100 PCIe": {"bf16": 756.0, "fp32": 51.0},
    "H100 80GB HBM3": {"bf16": 989.4, "fp32": 66.9},
    "A100": {"bf16": 312.0, "fp32": 19.5},
    "L40S": {"bf16": 362.0, "fp32": 91.6},
    "L4": {"bf16": 121.0, "fp32": 30.3},
}
LIBRARIES = ("torch", "transformers", "timm", "numpy")
MEDIAN_TOKENS, LENGTH_SPREAD = 120, 0.6  # of the texts: log-normal, as lengths of passages are


@dataclass(frozen=True)
class Subject:
    """A model with random weights in our embedder, and rows prepared for it."""

    embedder: TorchEmbedder
    prepared: Batch
    shape: str


def vit_l_14(device: str, dtype: str, small: bool) -> Subject:
    """CLIP's ViT-L/14 at 224 pixels: 304 M parameters, 257 tokens a picture."""
    import timm
    import torch

    from operators.embedders._pixels import PixelsEmbedder
    from operators.embedders.timm import Config, give_vectors

    sizes = {"img_size": 56, "embed_dim": 32, "depth": 2, "num_heads": 2} if small else {}
    with torch.device(device):
        model = timm.create_model("vit_large_patch14_clip_224", num_classes=0, **sizes)
    side = sizes.get("img_size", 224)
    framing = {"resize": side, "resize_mode": "shortest", "crop": side, "fill": (0, 0, 0), "interpolation": "bicubic"}
    levels = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    dim = int(model.num_features)
    config = Config(model="vit_large_patch14_clip_224", compute_dtype=dtype, dim=dim, **framing, **levels)
    give_vectors(model, config)
    rows = 24 if small else 2048
    pixels = np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
    prepared = {"pixels": pixels, "cost": np.full(rows, side**2, dtype=np.int64)}
    return Subject(PixelsEmbedder(model, config, device), prepared, f"{rows} pictures of {side} x {side}")


def minilm(device: str, dtype: str, small: bool) -> Subject:
    """all-MiniLM-L6-v2's shape: 23 M parameters, windows of 256 tokens, the mean of the tokens."""
    from transformers import BertConfig

    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    if small:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return text_subject(BertConfig(**sizes), device, dtype, "mean", 64 if small else 8192, window=256)


def mistral_7b(device: str, dtype: str, small: bool) -> Subject:
    """Mistral 7B's shape, as E5-mistral has it: 7.1 G parameters, windows of 512 tokens, the last token."""
    from transformers import MistralConfig

    tiny = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes = {**tiny, "intermediate_size": 128, "vocab_size": 500} if small else {}
    return text_subject(MistralConfig(**sizes), device, dtype, "last_token", 16 if small else 768, window=512)


def text_subject(config: Any, device: str, dtype: str, pooling: Any, rows: int, window: int) -> Subject:
    """A transformer of `config` in the family `transformers_text`, and token ids at random, long as passages are."""
    import torch
    from transformers import AutoModel

    from operators.embedders.transformers_text import Config, TransformersTextEmbedder

    with torch.device(device):
        model = AutoModel.from_config(config, dtype=getattr(torch, DTYPES[dtype]))
    ours = Config(model="random", pooling=pooling, compute_dtype=dtype, max_tokens=window, dim=config.hidden_size)
    rng = np.random.default_rng(0)
    drawn = rng.lognormal(np.log(MEDIAN_TOKENS), LENGTH_SPREAD, rows)
    lengths = np.clip(drawn, 8, window).astype(np.int64)
    ids = [rng.integers(3, config.vocab_size, length, dtype=np.int32) for length in lengths]
    shape = f"{rows} texts of {lengths.mean():.0f} tokens, {lengths.max()} at most"
    return Subject(
        TransformersTextEmbedder(model, ours, device), {"input_ids": object_array(ids), "cost": lengths}, shape
    )


SUBJECTS: dict[str, Callable[[str, str, bool], Subject]] = {
    "vit-l-14": vit_l_14,
    "minilm": minilm,
    "mistral-7b": mistral_7b,
}


def measure(subject: Subject, rounds: int, budget: int | None) -> dict[str, Any]:
    """Figures of one model; see this file's docstring."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    embedder, prepared = subject.embedder, subject.prepared
    budget = budget or embedder.config.batch_cost(embedder.device.type)
    parts = [take_rows(prepared, rows) for rows in form_batches(prepared["cost"], budget)]
    calls = [inputs_of(embedder, part) for part in parts]  # also warms up what depends on shapes

    def bare() -> None:
        with torch.inference_mode():
            for args, named in calls:
                embedder.model(*args, **named)

    def ours() -> None:
        for part in parts:
            embedder.embed(part)

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bare()
    seconds: dict[str, list[float]] = {"model": [], "embedder": []}
    for _ in range(rounds):
        for name, run in (("model", bare), ("embedder", ours)):
            seconds[name].append(seconds_of(run, embedder.device))
    rows, flops = len(prepared["cost"]), counter.get_total_flops()
    median = {name: statistics.median(values) for name, values in seconds.items()}
    peak = peak_of(embedder.device, embedder.config.compute_dtype)
    return {
        "rows": subject.shape,
        "parameters": sum(values.numel() for values in embedder.model.parameters()),
        "dtype": embedder.config.compute_dtype,
        "batches": len(parts),
        "batch_cost": budget,
        "rows_per_batch": [len(parts[0]["cost"]), len(parts[-1]["cost"])],
        "model_rows_per_s": rows / median["model"],
        "embedder_rows_per_s": rows / median["embedder"],
        "ratio": median["model"] / median["embedder"],
        "tflop": flops / 1e12,
        "model_tflop_per_s": flops / median["model"] / 1e12,
        "embedder_tflop_per_s": flops / median["embedder"] / 1e12,
        "peak_tflop_per_s": peak,
        "mfu": None if peak is None else flops / median["embedder"] / 1e12 / peak,
        "seconds": seconds,
    }


def inputs_of(embedder: TorchEmbedder, part: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the embedder hands to its model for a batch: tensors on the device."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = embedder.model.register_forward_pre_hook(lambda _, args, named: seen.append((args, named)), with_kwargs=True)
    embedder.embed(part)
    hook.remove()
    return seen[0]


def seconds_of(run: Callable[[], None], device: Any) -> float:
    """Wall seconds of `run`, until the device is done."""
    import torch

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    settle()
    began = time.perf_counter()
    run()
    settle()
    return time.perf_counter() - began


def name_of(device: Any) -> str:
    """What the device is called."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{len(os.sched_getaffinity(0))} CPU cores"


def peak_of(device: Any, dtype: str) -> float | None:
    """The device's peak in TFLOP/s; None where `PEAKS` does not have it."""
    words = f" {name_of(device).replace('-', ' ')} "
    known = next((peaks for name, peaks in PEAKS.items() if f" {name} " in words), {})
    return known.get("fp32" if dtype == "fp32" else "bf16")


def versions() -> dict[str, str]:
    """Versions of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Measure the models and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--dtype", choices=DTYPES, help="compute dtype; bf16 on a GPU, fp32 on a CPU")
    parser.add_argument("--batch-cost", type=int, help="pixels or tokens of a batch; as in a job")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    device = "cuda" if torch.cuda.is_available() and not asked.small else "cpu"
    if device == "cpu" and not asked.small:
        parser.error("no GPU here; `--small` tries the program on a CPU")
    dtype = asked.dtype or ("bf16" if device == "cuda" else "fp32")
    figures: dict[str, Any] = {
        "device": name_of(torch.device(device)),
        "versions": {**versions(), "cuda": torch.version.cuda},
        "small": asked.small,
        "models": {},
    }
    print(f"{figures['device']}; {figures['versions']}", flush=True)
    for name in asked.models:
        torch.manual_seed(0)
        found = figures["models"][name] = measure(
            SUBJECTS[name](device, dtype, asked.small), asked.rounds, asked.batch_cost
        )
        if device == "cuda":
            found["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        print(describe(name, found), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1))


def describe(name: str, found: dict[str, Any]) -> str:
    """Figures of one model, for people."""
    mfu = "peak unknown" if found["mfu"] is None else f"MFU {found['mfu']:.0%}"
    first, last = found["rows_per_batch"]
    return (
        f"{name}: {found['parameters'] / 1e6:,.0f} M parameters, {found['dtype']}, {found['rows']}; "
        f"{found['batches']} batches of {first} to {last} rows\n"
        f"  model    {found['model_rows_per_s']:10.1f} rows/s  {found['model_tflop_per_s']:8.2f} TFLOP/s\n"
        f"  embedder {found['embedder_rows_per_s']:10.1f} rows/s  {found['embedder_tflop_per_s']:8.2f} TFLOP/s"
        f"  {found['ratio']:.2f} x model, {mfu}"
    )


if __name__ == "__main__":
    main()
