"""Libraries of models, which take seconds to import: every worker collects every file of tests, and runs a few of them."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest


class Library:
    """A library that is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # as pytest asks of all that a file has
            raise AttributeError(name)
        return getattr(load(self._name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(load(self._name), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(load(self._name), name)


def library(name: str) -> Any:
    """The library of that name; where it is not installed, the file of tests that asks for it is skipped."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)
    return Library(name)


@cache
def load(name: str) -> ModuleType:
    """Import a library; torch for one thread, because the workers share the cores."""
    module = import_module(name)
    if name == "torch":
        module.set_num_threads(1)
    return module
