"""Code that a model's files name: to be run only where the job, and the reader, trust it; see `trust_remote_code`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from operators.errors import SpecError
from operators.model_files import skipped

OWN = ("sentence_transformers.", "torch.")
LOADING_OPTIONS = ("model_args", "model_kwargs", "config_args", "config_kwargs")


def check_code(model: str, folder: Path, revision: str, trusted: bool) -> None:
    """Raise `SpecError` where the files of `model` in `folder` name code that is not `trusted`, or lies elsewhere.

    `revision` is that of the files, code included.
    """
    named = sorted(set(code_named(folder)))
    if elsewhere := [name for name in named if "--" in name or "/" in name]:
        raise SpecError(
            f"model '{model}' names code in another repository, which no revision pins: {', '.join(elsewhere)}.\n"
            "  Put that code into a copy of the model and name it there, or take another model."
        )
    if named and not trusted:
        raise SpecError(
            f"model '{model}' brings code of its own: {', '.join(named)}.\n"
            f"  Read it. To trust it, set `trust_remote_code: true` and `revision: {revision}`; or take another model."
        )


def code_named(folder: Path) -> Iterator[str]:
    """Names in a model's files of code that is neither sentence-transformers' nor torch's.

    Modules and what they are made of, `auto_map`s of transformers (`file.Class`, or `owner/name--file.Class` for a file of
    another hub model), and attention kernels of the hub (`owner/name`).
    """
    modules = folder / "modules.json"
    parts = [module["type"] for module in json.loads(modules.read_text(encoding="utf-8"))] if modules.is_file() else []
    for path in sorted(folder.rglob("*config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or skipped(path.relative_to(folder)):
            continue
        yield from strings_in(config.get("auto_map"))
        for options in (config, *(config.get(name) for name in LOADING_OPTIONS)):
            attention = options.get("attn_implementation") if isinstance(options, dict) else None
            yield from (name for name in strings_in(attention) if "/" in name)
        # Of a Router, a Dense and WordEmbeddings; elsewhere these keys hold names without a dot, or none.
        for key in ("types", "activation_function", "tokenizer_class"):
            parts += strings_in(config.get(key))
    yield from (name for name in parts if "." in name and not name.startswith(OWN))


def strings_in(value: Any) -> list[str]:
    """Strings in a JSON value, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for entry in value for text in strings_in(entry)]
    return [value] if isinstance(value, str) else []
