"""The mistakes of a job: each with its path in the file, its line and how to fix it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from clusters import is_key
from latentlake.storage import is_secret
from operators.errors import did_you_mean

M = TypeVar("M", bound=BaseModel)
Where = tuple[str | int, ...]


class Problems:
    """Mistakes found so far, each with its path in the file and, where known, its line."""

    def __init__(self, lines: Mapping[Where, int] | None = None, whole: str = "job") -> None:
        self.lines = lines or {}
        self.whole = whole
        self.found: list[str] = []

    def add(self, where: Where, message: str) -> None:
        """Note a mistake at a place."""
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
        line = next((self.lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in self.lines), None)
        self.found.append(f"{path or self.whole}{f' (line {line})' if line else ''}: {message}")

    def check(self, model: type[M], data: Any, where: Where) -> M | None:
        """Validate a section; None, with its mistakes noted, where it is wrong."""
        if not isinstance(data, Mapping):
            self.add(where, no_mapping(data))
            return None
        try:
            return model.model_validate(data)
        except ValidationError as failure:
            for error in failure.errors():
                place = tuple(part for part in error["loc"] if part in data or not str(part).startswith("function-"))
                if error["type"] == "extra_forbidden":
                    key, section = str(place[-1]), model_at(model, place[:-1])
                    known, now = sorted(section.model_fields), getattr(section, "renamed", {}).get(key)
                    hint = f" It is called '{now}' now." if now else did_you_mean(key, known)
                    self.add((*where, *place), f"unknown key.{hint} Known: {', '.join(known)}.")
                elif error["type"] == "model_type":
                    self.add((*where, *place), no_mapping(error["input"]))
                elif error["type"] == "missing":
                    self.add((*where, *place), "is missing; it is required.")
                else:
                    # A mistake of a section as a whole has no one value to show, and a key is never shown.
                    secret = any(is_secret(str(part)) for part in place) or is_key(str(error["input"]))
                    shown = place and not secret and not isinstance(error["input"], Mapping)
                    got = f" (got {error['input']!r})" if shown else ""
                    self.add((*where, *place), f"{error['msg'].removeprefix('Value error, ')}{got}.")
            return None


def model_at(model: type[BaseModel], place: Where) -> type[BaseModel]:
    """The model of a place within a section of `model`."""
    for part in place:
        field = model.model_fields.get(str(part))
        inner = [field.annotation, *get_args(field.annotation)] if field else []
        model = next((kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return model


def no_mapping(value: Any) -> str:
    """What is wrong with a section that is not a mapping."""
    return f"must be a mapping of keys to values, not {type(value).__name__}."


def one_line(failure: Exception) -> str:
    """An error's text on one line."""
    return " ".join(str(failure).split())
