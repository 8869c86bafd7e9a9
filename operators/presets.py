"""Models by short names: `presets.yaml` says what each stands for, and where that is written."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from operators.errors import unknown_name

FILE = Path(__file__).with_name("presets.yaml")


class Preset(BaseModel):
    """One model: its family, the family's settings for it, and a source for each of these facts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    settings: dict[str, Any]
    metric: Literal[
        "cosine"
    ]  # that its makers compare its vectors by; what a column is searched by unless a job says otherwise
    sources: dict[str, str] = Field(min_length=1)  # URL by fact; "all" for those that have none of their own
    note: str = ""
    aliases: list[str] = Field(default_factory=list)


@cache
def read_presets() -> Mapping[str, Preset]:
    """Every preset, by name and by alias, sorted."""
    entries = {
        name: Preset.model_validate(entry) for name, entry in yaml.safe_load(FILE.read_text(encoding="utf-8")).items()
    }
    aliases = {alias: preset for preset in entries.values() for alias in preset.aliases}
    return dict(sorted({**entries, **aliases}.items()))


def preset_names() -> list[str]:
    """Names of the presets, aliases among them, sorted."""
    return list(read_presets())


def find_preset(name: str) -> Preset:
    """The preset of a name. Raises `UnknownName` with the nearest and all known names."""
    if name not in read_presets():
        raise unknown_name("preset", name, preset_names())
    return read_presets()[name]
