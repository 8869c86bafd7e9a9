"""Bytes to text or to an RGB image, one file a modality: module `<modality>` has `decode(batch) -> Batch` and `VERSION`."""

from __future__ import annotations

from types import ModuleType

from operators.registry import load_module, module_names


def modality_names() -> list[str]:
    """Every modality that can be decoded, sorted."""
    return module_names(__name__, "decode")


def find_decoder(modality: str) -> ModuleType:
    """The module that decodes `modality`: `decode(batch)`, `VERSION` (in the fingerprint), `COLUMN` (what it writes)."""
    return load_module(__name__, "decode", modality, "modality")
