"""Changes to a job from the command line: `--set a.b.0.c=value`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import yaml

from operators.errors import InvalidSpec, did_you_mean
from pipelines.job.document import KEYS
from pipelines.job.problems import one_line


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `a.b.0.c=value` in a job; values are YAML. Raises `InvalidSpec` if a path leads nowhere."""
    for override in overrides:
        path, found, text = override.partition("=")
        if not found:
            raise InvalidSpec([f"--set {override}: write path=value, for example table.mode=rebuild."], "--set")
        keys: list[str | int] = [int(part) if part.isdigit() else part for part in path.split(".")]
        if keys[0] not in KEYS:
            hint = did_you_mean(str(keys[0]), KEYS) or f" Known: {', '.join(KEYS)}."
            raise InvalidSpec([f"--set {override}: the job has no section '{keys[0]}'.{hint}"], "--set")
        target: Any = data
        try:
            for key, following in pairwise(keys):
                if isinstance(target, dict) and target.get(key) is None:
                    target[key] = [] if isinstance(following, int) else {}
                target = target[key]
            target[keys[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as failure:
            raise InvalidSpec([f"--set {override}: not YAML: {one_line(failure)}."], "--set") from failure
        except (KeyError, IndexError, TypeError) as failure:
            raise InvalidSpec([f"--set {override}: {no_place(data, keys)}"], "--set") from failure
    return data


def no_place(data: Any, keys: Sequence[str | int]) -> str:
    """Why a path leads to no place of a job."""
    target, walked = data, ""
    for key in keys:
        if isinstance(target, list) and not isinstance(key, int):
            return f"'{walked}' is a list: name an entry by its number, from 0."
        if isinstance(target, list) and isinstance(key, int) and key >= len(target):
            return f"'{walked}' has {len(target)} entries, numbered from 0; there is no {key}."
        if not isinstance(target, dict | list):
            return f"'{walked}' is a value, and has no '{key}'."
        target = target.get(key) if isinstance(target, dict) else target[int(key)]
        walked = f"{walked}.{key}".lstrip(".")
    return f"the job has no place '{walked}'."
