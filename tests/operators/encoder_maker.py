"""Tiny encoders of text, images and sound, exported to folders as a user would."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from model_maker import WORDS

DIM = 8
IMAGE = {"modality": "image", "dim": DIM, "resize": 40, "crop": 32, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3]}
TEXT = {"modality": "text", "dim": DIM, "max_tokens": 16, "pooling": "mean"}
AUDIO = {"modality": "audio", "dim": DIM, "rate": 8000, "seconds": 0.5, "overlap_seconds": 0.1}
ENCODERS: dict[str, dict[str, Any]] = {"image": IMAGE, "text": TEXT, "audio": AUDIO}


@cache
def modules() -> dict[str, Any]:
    """The modules, by modality, and `places`: the image's without its pooling, (n, 49, dim)."""
    import torch
    from torch import nn

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(64, DIM)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.table(input_ids)
            kept = attention_mask.unsqueeze(-1).to(states.dtype)
            return torch.tanh(states + (states * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True))

    class Sound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filters = nn.Conv1d(1, DIM, 64, stride=32)

        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.filters(samples.unsqueeze(1))).mean(-1)

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filters = nn.Conv2d(3, DIM, 8, stride=4)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.filters(pixels)).flatten(2).transpose(1, 2)

    torch.manual_seed(0)
    patches = Patches().eval()

    class Picture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = patches

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.patches(pixels).mean(1)

    return {"text": Words().eval(), "audio": Sound().eval(), "places": patches, "image": Picture().eval()}


def example_of(kind: str, rows: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs to export with, and which of their axes vary."""
    import torch

    rows_vary = {0: torch.export.Dim("rows")}
    if kind == "text":
        ids = torch.ones(rows, 5, dtype=torch.int64)
        axes = {**rows_vary, 1: torch.export.Dim("length")}
        return {"input_ids": ids, "attention_mask": ids.clone()}, {"input_ids": axes, "attention_mask": axes}
    if kind == "audio":
        return {"samples": torch.zeros(rows, 4000)}, {"samples": rows_vary}
    return {"pixels": torch.zeros(rows, 3, 32, 32)}, {"pixels": rows_vary}


def write_encoder(folder: Path, kind: str, suffix: str = ".onnx", batch: int | None = None, **changes: Any) -> Path:
    """Export the module of `kind` to a folder, with its JSON, in which `changes` are made; the folder.

    `batch`: for just so many rows.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    given, axes = example_of(kind, batch or 2)
    axes = None if batch else axes
    if suffix == ".onnx":
        torch.onnx.export(
            modules()[kind],
            kwargs=given,
            f=folder / "model.onnx",
            input_names=list(given),
            output_names=["vectors"],
            dynamo=True,
            dynamic_shapes=axes,
            verbose=False,
        )
    else:
        program = torch.export.export(modules()[kind], (), given, dynamic_shapes=axes)
        torch.export.save(program, folder / "model.pt2")
    encoder = ENCODERS["image" if kind == "places" else kind]
    fixed = {} if batch is None else {"batch": batch}
    write_json(folder, {**encoder, "file": f"model{suffix}", **fixed, **changes})
    if kind == "text":
        write_tokenizer(folder)
    return folder


def write_json(folder: Path, encoder: dict[str, Any]) -> None:
    """Write the JSON beside a graph."""
    (folder / "encoder.json").write_text(json.dumps(encoder))


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of a few words, and of characters for all others, with a mark at each end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *(letter for letter in letters if letter not in WORDS)]
    tokenizer = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split("", "isolated")]
    )
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
