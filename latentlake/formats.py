"""What a lake keeps as JSON: each carries the number of its format, and is brought to today's as it is read.

A number that is missing stands for format 1, for releases wrote none at first. A field that is new has a default that means what
its absence meant; only where that cannot be, the number rises, and a step says how what is older becomes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from operators.errors import Unreadable

FORMAT = "format"
T = TypeVar("T")
Values = dict[str, Any]


@dataclass(frozen=True)
class StoredFormat:
    """One kind of stored JSON. `steps[n]` makes values of format n + 1 of values of format n."""

    what: str  # for people: "the manifest of a run"
    number: int = 1
    steps: Mapping[int, Callable[[Values], Values]] = field(default_factory=dict)

    def write(self, values: Mapping[str, Any], **options: Any) -> str:
        """The values as JSON, with the number of their format."""
        return json.dumps({FORMAT: self.number, **values}, **options)

    def read(self, text: str | bytes | None) -> Values:
        """The values of today's format. Raises `Unreadable` for what is no JSON object, or of a format not known here."""
        try:
            values = json.loads(text or "")
        except ValueError as failure:  # not UTF-8 is one, too
            raise Unreadable(f"{self.what} is not whole: {failure}") from failure
        except RecursionError as failure:
            raise Unreadable(f"{self.what} is nested too deeply.") from failure
        if not isinstance(values, dict):
            raise Unreadable(f"{self.what} is not a JSON object but a {type(values).__name__}.")
        number = values.pop(FORMAT, 1)
        if type(number) is not int or number < 1:
            raise Unreadable(f"{self.what} has the format {number!r}, which is not a format number.")
        if number > self.number:
            raise Unreadable(
                f"{self.what} has format {number}, and this release reads formats up to {self.number}.\n"
                "  A later release wrote it: upgrade LatentLake here."
            )
        for step in range(number, self.number):
            values = self.steps[step](values)
        return values

    def check(self, kind: TypeAdapter[T], values: Any) -> T:
        """Values as what `kind` says. Raises `Unreadable`, naming the first place that is not right."""
        try:
            return kind.validate_python(values)
        except ValidationError as failure:
            first = failure.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Unreadable(f"{self.what} is not what this release writes: {place}: {first['msg']}.") from failure
