"""What of a job a cluster would not find: paths of the machine that sends it."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from latentlake.storage import scheme_of
from operators.model_files import in_store
from pipelines.job.spec import JobSpec

MODEL_FIELDS = ("model", "weights")  # of a family's config, that may be paths
VANISHES = "would be looked for in the folder where the cluster unpacks the job, which is deleted with it"
SHARED = "Give an object store (s3://…), or a folder that every node mounts, listed in the cluster profile as `shared_storage`."

FaultOf = Callable[[str], str | None]  # what is wrong with a model's path, with the remedy; None: nothing


def unreachable(spec: JobSpec, shared: Sequence[str], fault_of_model: FaultOf) -> Iterator[str]:
    """What of a job a cluster would not find: each with its place in the job, and what to do.

    `shared` are folders that every node mounts. Whether the path of a model, or of a suite, is found depends on what is sent.
    """
    for section, part in (("source", spec.source), ("table", spec.table)):
        if scheme_of(part.uri) == "file" and (fault := local_fault(part.uri, shared)):
            yield f"{section}.uri: '{part.uri}' {fault} {SHARED}"
        for name, value in part.storage_options.items():
            yield from reference_fault(f"{section}.storage_options.{name}", value)
    for number, embed in enumerate(spec.embed):
        for name, value in embed.config.model_dump(mode="json").items():
            if isinstance(value, str):
                yield from reference_fault(f"embed[{number}].{name}", value)
        for name in MODEL_FIELDS:
            model = getattr(embed.config, name, None)
            if isinstance(model, str) and not in_store(model) and (fault := fault_of_model(model)):
                yield f"embed[{number}].{name}: '{model}' {fault}"

    for path in suite_paths(spec):
        if fault := fault_of_model(path):
            yield f"gates.suite: '{path}' {fault}"


def suite_paths(spec: JobSpec) -> Iterator[str]:
    """Paths of the suite that a job's gates measure by, and of the files that it names."""
    if spec.gates.suite is None:
        return
    from latentlake.evaluation import load_suite
    from latentlake.evaluation.base import DataPath

    yield spec.gates.suite
    for task in load_suite(spec.gates.suite).tasks:
        yield from (value for _, value in task if isinstance(value, DataPath))


def local_fault(uri: str, shared: Sequence[str]) -> str | None:
    """What is wrong with a path of this machine, as one of the cluster's; None if all its machines have it."""
    path = uri.removeprefix("file://")
    if not posixpath.isabs(path):
        return f"{VANISHES}." if not path.startswith("~") else "is in the home folder of whoever runs the job there."
    return None if is_shared(path, shared) else "is a path of this machine, and not known to be the same on every node."


def is_shared(path: str, shared: Sequence[str]) -> bool:
    """Whether an absolute path is at or below a folder that every node mounts."""
    place = posixpath.normpath(path)
    return any(posixpath.commonpath([place, root]) == root for root in map(posixpath.normpath, shared))


def reference_fault(where: str, value: str) -> Iterator[str]:
    """What is wrong with a reference to a secret's file."""
    path = value.removeprefix("file:")
    if value.startswith("file:") and not value.startswith("file://") and not posixpath.isabs(path):
        yield f"{where}: 'file:{path}' {VANISHES}. Give the absolute path of a file that every node has, or env:NAME."


def sent_model_fault(model: str, folder: Path, files: Collection[str], shared: Sequence[str]) -> str | None:
    """What is wrong with a model's path; None for one that is sent with the job, for one that is shared, and for a name."""
    send = f"Put it in the working directory ({folder}) and name it from there, or give an object store (s3://…)."
    if posixpath.isabs(model) and is_shared(model, shared):
        return None
    if posixpath.isabs(model) or model.startswith("~"):
        return f"is a path of this machine. {send}"
    name = posixpath.normpath(model)
    if name in files or any(file.startswith(f"{name}/") for file in files):
        return None
    if (folder / model).exists() and not name.startswith(".."):
        return f"is left out of what is sent, by a .gitignore or .rayignore in {folder}. Except it there with '!'."
    if model.startswith(".") or Path(model).exists():
        return f"is not in the working directory, which is what is sent. {send}"
    return None


def unsent_model_fault(model: str, shared: Sequence[str]) -> str | None:
    """What is wrong with a model's path where no file is sent; None for one that is shared, and for a name."""
    if model.startswith(".") or (model.startswith(("/", "~")) and not is_shared(model, shared)):
        return f"is a path of this machine. {SHARED}"
    return None
