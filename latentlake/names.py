"""Names of tables: what a user's may be, and which LatentLake keeps for itself."""

from __future__ import annotations

import re

from operators.errors import SpecError

NAME = re.compile(r"[A-Za-z0-9_.-]+")
REJECTS_SUFFIX = "__rejects"


def is_internal(name: str) -> bool:
    """Whether LatentLake keeps the table `name` for itself."""
    return name.startswith("_") or name.endswith(REJECTS_SUFFIX)


def check_table_name(name: str) -> None:
    """Raise `SpecError` unless `name` can be a user's table."""
    if not NAME.fullmatch(name):
        raise SpecError(f"table name '{name}': use letters, digits, '_', '.' and '-' only.")
    if is_internal(name):
        raise SpecError(
            f"table name '{name}' is internal: names may not begin with '_' or end with '{REJECTS_SUFFIX}'."
        )
