"""Preprocessing operators: functions named by verbs, one file a modality.

An operator is a function over a `Batch` with keyword-only parameters, marked with `@operator`. Its parameters are
checked against its signature when a job is validated. One named `tokenizer` is not the user's: the job binds it to the
tokenizer of the vector column that the parameter `column` names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model

from operators.batch import Batch
from operators.errors import unknown_name
from operators.fan_out import Position
from operators.registry import load_module, module_names

INJECTED = "tokenizer"


class Tokenizer(Protocol):
    """What an operator may ask of a vector column's tokenizer."""

    @property
    def window(self) -> int | None:
        """How many tokens of content one row of the model holds, special tokens left out; None: no limit."""

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """For each text an int64 array (n_tokens, 3): start and end in characters, and the index of the word."""


@dataclass(frozen=True)
class Operator:
    """What `@operator` knows of a function."""

    name: str
    modalities: tuple[str, ...]
    makes: str | None
    apply: Callable[..., Batch]
    params: type[BaseModel]
    needs_tokenizer: bool
    at_query: bool
    positions: tuple[Position, ...]  # that it writes; some: it makes several rows of one
    version: int


def operator(
    *modalities: str,
    makes: str | None = None,
    at_query: bool = True,
    positions: Sequence[Position] = (),
    version: int = 1,
) -> Callable[[Callable[..., Batch]], Any]:
    """Mark a function as a preprocessing operator of `modalities` ("text", "image").

    `makes`: the modality that its rows are of from then on, where that may be another one. `at_query`: a query goes
    through it too (cleaning does, chunking does not). `positions`: it makes several rows of one by `fan_out`, and
    writes these columns. `version` is part of the fingerprint: raise it when the operator's output changes.
    """

    def mark(fn: Callable[..., Batch]) -> Callable[..., Batch]:
        """The function itself, with its `Operator`: its keywords are the fields of the operator's config."""
        hints = inspect.get_annotations(fn, eval_str=True)
        keywords = [p for p in inspect.signature(fn).parameters.values() if p.kind is p.KEYWORD_ONLY]
        fields: dict[str, Any] = {
            p.name: (hints[p.name], Field() if p.default is p.empty else p.default)
            for p in keywords
            if p.name != INJECTED
        }
        fn.__operator__ = Operator(  # type: ignore[attr-defined]
            name=fn.__name__,
            modalities=modalities,
            makes=makes,
            apply=fn,
            params=create_model(fn.__name__, __config__=ConfigDict(frozen=True, extra="forbid"), **fields),
            needs_tokenizer=any(p.name == INJECTED for p in keywords),
            at_query=at_query,
            positions=tuple(positions),
            version=version,
        )
        return fn

    return mark


@cache
def operators_by_name() -> dict[str, Operator]:
    """Every preprocessing operator, ours and those of installed entry points, by name."""
    found = {}
    for name in module_names(__name__, "preprocess"):
        module = load_module(__name__, "preprocess", name, "preprocessing module")
        for value in vars(module).values():
            if isinstance(marked := getattr(value, "__operator__", None), Operator):
                found[marked.name] = marked
    return found


def find_operator(name: str) -> Operator:
    """The operator called `name`. Raises `UnknownName` with the nearest and all known ones."""
    known = operators_by_name()
    if name not in known:
        raise unknown_name("operator", name, known)
    return known[name]
