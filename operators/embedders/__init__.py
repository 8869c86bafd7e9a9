"""Model families, one file each: `Config` beside its embedder. The registry is the file name."""

from __future__ import annotations

from typing import Any

from operators.embedders.base import EmbedderConfig
from operators.registry import load_module, module_names


def family_names() -> list[str]:
    """Every family, ours and those of installed entry points (`latentlake.embedders`), sorted."""
    return module_names(__name__, "embedders")


def config_class(family: str) -> type[EmbedderConfig]:
    """The config of `family`, without loading its libraries. Raises `UnknownName`."""
    config: type[EmbedderConfig] = load_module(__name__, "embedders", family, "embedder family").Config
    return config


def load_config(fields: dict[str, Any]) -> EmbedderConfig:
    """The config that `fields` describes; the inverse of `config.model_dump()`."""
    return config_class(fields["family"]).model_validate(fields)
