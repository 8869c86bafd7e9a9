"""Files of weights in a model's folder, which are read as tensors alone: safetensors, or torch's format with `weights_only`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from operators.errors import ModelNotFound
from operators.model_files import NO_DOWNLOADS, downloads_allowed, find_model, local_path

SAFE_FILES = ("*.safetensors",)
TORCH_FILES = ("*.bin", "*.pt", "*.pth")
WEIGHT_FILES = (*SAFE_FILES, *TORCH_FILES)


def weight_files(folder: Path) -> list[Path]:
    """Files of weights right in a folder."""
    return [path for pattern in WEIGHT_FILES for path in folder.glob(pattern)]


def find_weights(model: str, revision: str | None, other_files: Sequence[str]) -> Path:
    """Folder with a model's weights and `other_files` (patterns); see `find_model`.

    Of a hub model the safetensors are fetched, and torch's files only where there are none. Raises `ModelNotFound`.
    """
    folder, commit = find_model(model, revision, (*other_files, *SAFE_FILES))
    if not weight_files(folder):
        folder, commit = find_model(model, revision, (*other_files, *TORCH_FILES))
    if not weight_files(folder):
        lacking = f"has no weights ({', '.join(WEIGHT_FILES)})."
        raise ModelNotFound(f"model '{model}' {lacking if commit is None or downloads_allowed() else NO_DOWNLOADS}")
    return folder


def find_weights_file(weights: str) -> Path:
    """The path of a file of weights. Raises `ModelNotFound` where there is none, or none that is read as tensors alone."""
    path = local_path(weights)
    if not path.is_file() or f"*{path.suffix}" not in WEIGHT_FILES:
        raise ModelNotFound(f"no weights file '{weights}'. Give an existing file: {', '.join(WEIGHT_FILES)}.")
    return path


def unloadable(model: str, failure: Exception) -> ModelNotFound:
    """The error for weights that are damaged, do not fit the model, or hold objects that run code."""
    return ModelNotFound(
        f"weights of model '{model}' do not load: {' '.join(str(failure).split())[:400]}\n"
        "  Give weights of this architecture as tensors alone: safetensors, or a state dict."
    )
