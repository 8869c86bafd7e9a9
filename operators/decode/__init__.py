"""Bytes to what operators and models take, one file a modality; `find_decoder` says what a module has."""

from __future__ import annotations

from types import ModuleType

from operators.fan_out import Position
from operators.registry import load_module, module_names


def modality_names() -> list[str]:
    """Every modality that can be decoded, sorted."""
    return module_names(__name__, "decode")


def find_decoder(modality: str) -> ModuleType:
    """The module that decodes `modality`.

    It has `decode(batch)`, `VERSION` (in the fingerprint), `COLUMN` (what it writes), and, where operators have to make
    it another modality before a model takes it, `EMBEDDED_AS`. A pydantic model `Options` says which keyword arguments
    `decode` takes: a job may give them under `decode`. One that makes several rows of an object does so by
    `operators.fan_out.fan_out`, and has its `POSITIONS`.
    """
    return load_module(__name__, "decode", modality, "modality")


def positions_of(decoder: ModuleType) -> tuple[Position, ...]:
    """Columns that a decoder writes of where in its object a row lies; none for one that makes one row of an object."""
    return tuple(getattr(decoder, "POSITIONS", ()))


def embedded_as(modality: str) -> str:
    """The modality whose models embed `modality`; mostly itself."""
    return str(getattr(find_decoder(modality), "EMBEDDED_AS", modality))
