"""Bytes to what operators and models take, one file a modality; `find_decoder` says what a module has."""

from __future__ import annotations

from types import ModuleType

from operators.registry import load_module, module_names


def modality_names() -> list[str]:
    """Every modality that can be decoded, sorted."""
    return module_names(__name__, "decode")


def find_decoder(modality: str) -> ModuleType:
    """The module that decodes `modality`.

    It has `decode(batch)`, `VERSION` (in the fingerprint), `COLUMN` (what it writes), and, where operators have to make
    it another modality before a model takes it, `EMBEDDED_AS`. A pydantic model `Options` says which keyword arguments
    `decode` takes: a job may give them under `decode`.
    """
    return load_module(__name__, "decode", modality, "modality")


def embedded_as(modality: str) -> str:
    """The modality whose models embed `modality`; mostly itself."""
    return str(getattr(find_decoder(modality), "EMBEDDED_AS", modality))
