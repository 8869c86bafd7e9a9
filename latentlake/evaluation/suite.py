"""A suite: what a table is measured by, as YAML, JSON or a mapping. Every mistake is told at once, with its key and a remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from latentlake.evaluation.base import TaskSpec
from operators.embedders.base import short_hash
from operators.errors import InvalidSpec, UnknownName, did_you_mean
from operators.registry import load_module, module_names

PACKAGE = "latentlake.evaluation.tasks"
REGISTRY = "evaluation"
KEYS = ("name", "tasks")


class Suite(BaseModel):
    """Tasks under one name. Made by `load_suite`, which knows the kinds of task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    tasks: tuple[TaskSpec, ...]

    def measures(self) -> list[str]:
        """Measures that its results can carry, sorted; none where only the data of one of its tasks says."""
        given = [task.measures_given() for task in self.tasks]
        return sorted({measure for measures in given for measure in measures}) if all(given) else []

    def hash(self) -> str:
        """32 hex digits over the tasks and what is in their files, wherever these lie. Reads the files. Raises `SpecError`."""
        return short_hash({"tasks": [task.settings() for task in self.tasks]})


def task_kinds() -> list[str]:
    """Kinds of task, sorted; imports none of them."""
    return module_names(PACKAGE, REGISTRY)


def task_class(kind: str) -> type[TaskSpec]:
    """The class of a kind of task. Raises `UnknownName`."""
    found: type[TaskSpec] = load_module(PACKAGE, REGISTRY, kind, "kind of task").Task
    return found


def load_suite(given: str | Path | Mapping[str, Any] | Suite) -> Suite:
    """A suite from a file (YAML, of which JSON is a part) or a mapping. Paths in a file are relative to it.

    Raises `InvalidSpec` with every mistake.
    """
    if isinstance(given, Suite):
        return given
    if isinstance(given, Mapping):
        return parse_suite(given, "suite", Path())
    path = Path(given).expanduser()
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise InvalidSpec([f"cannot read the file: {failure.strerror}."], str(given)) from failure
    except (yaml.YAMLError, UnicodeDecodeError) as failure:
        raise InvalidSpec([f"not YAML: {' '.join(str(failure).split())}"], str(given)) from failure
    return parse_suite(data, str(given), path.parent, path.stem)


def parse_suite(data: Any, source: str, folder: Path, name: str = "suite") -> Suite:
    """Check a whole suite; `source` names it in errors, `name` is its own where it says none. Raises `InvalidSpec`."""
    if not isinstance(data, Mapping):
        raise InvalidSpec(["a suite is a mapping with a list of `tasks`; see docs/evaluation.md."], source)
    problems = [
        f"{key}: unknown key.{did_you_mean(str(key), KEYS)} Known: {', '.join(KEYS)}."
        for key in data
        if key not in KEYS
    ]
    name = data.get("name", name)
    if not isinstance(name, str) or not name:
        problems.append(f"name: must be a text (got {name!r}).")
    listed = data.get("tasks")
    if not isinstance(listed, list | tuple) or not listed:
        problems.append("tasks: give a list of at least one task, each with a `kind`.")
        listed = []
    tasks = [parse_task(task, f"tasks[{place}]", folder, problems) for place, task in enumerate(listed)]
    titles = [task.title for task in tasks if task is not None]
    for title in sorted({title for title in titles if titles.count(title) > 1}):
        problems.append(f"tasks: {titles.count(title)} tasks are called '{title}'; give each a `name` of its own.")
    if problems:
        raise InvalidSpec(problems, source)
    return Suite(name=name, tasks=tuple(task for task in tasks if task is not None))


def parse_task(data: Any, where: str, folder: Path, problems: list[str]) -> TaskSpec | None:
    """One task; None, with its mistakes in `problems`, where it is wrong."""
    if not isinstance(data, Mapping):
        problems.append(f"{where}: must be a mapping of keys to values, not {type(data).__name__}.")
        return None
    if not isinstance(kind := data.get("kind"), str):
        problems.append(f"{where}.kind: is missing; it is one of {', '.join(task_kinds())}.")
        return None
    try:
        model = task_class(kind)
        return model.model_validate(dict(data), context={"folder": folder})
    except UnknownName as failure:
        problems.append(f"{where}.kind: {' '.join(str(failure).split())}")
    except ValidationError as failure:
        problems += [told(error, model, where) for error in failure.errors(include_url=False)]
    return None


def told(error: Any, model: type[BaseModel], where: str) -> str:
    """A mistake of pydantic's as one line: the key, what is wrong, and the remedy."""
    path = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        return f"{path}: unknown key.{did_you_mean(str(error['loc'][-1]), known)} Known: {', '.join(known)}."
    if error["type"] == "missing":
        return f"{path}: is missing; it is required."
    got = "" if isinstance(error["input"], Mapping) else f" (got {error['input']!r})"
    return f"{path}: {error['msg'].removeprefix('Value error, ')}{got}."
