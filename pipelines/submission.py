"""A job for a cluster that is reached by its job server: what is sent, what runs there, and what would not be found there.

Nothing is planned here: models are resolved, and pools sized, where the job runs.
"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters import ClusterProfile
from clusters.attempts import Submission
from clusters.packages import Package, list_files, pack
from latentlake import __version__
from latentlake.layout import PACKAGES, ROOT
from latentlake.storage import scheme_of
from operators.errors import InvalidSpec
from operators.model_files import in_store
from pipelines.job.jobfile import load_job
from pipelines.job.spec import JobSpec

OWN_FOLDER = ".latentlake"  # in the package, for what is not of the working directory
PROFILE = f"{OWN_FOLDER}/cluster.json"
SUBMITTERS = ("address", "token", "runtime_env")  # keys of a profile that are of no use where the job runs
STOP_WAIT_S = 30  # that a job which is told to stop may take to end in good order; Ray's own 3 s are too short for that
MODEL_FIELDS = ("model", "weights")  # of a family's config, that may be paths
VANISHES = "would be looked for in the folder where the cluster unpacks the job, which is deleted with it"
SHARED = "Give an object store (s3://…), or a folder that every node mounts, listed in the cluster profile as `shared_storage`."


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to be submitted: its name, what runs, what has to be sent before."""

    job: str
    submission: Submission
    packages: tuple[Package, ...]


def prepare(
    path: Path,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
    profile: ClusterProfile | None = None,
    arguments: Sequence[str] = (),
    installed: bool = False,
) -> Prepared:
    """A job file made ready to be submitted with a working directory, its own folder if none is given.

    `arguments` are further ones of `latentlake run`. LatentLake's own packages are sent too, unless they are `installed` on
    the cluster. Raises `InvalidSpec` with every mistake of the job, and with everything in it that the cluster would not find;
    `SpecError` for a folder that cannot be sent.
    """
    spec = load_job(path, overrides)
    folder = path.absolute().parent if folder is None else folder
    files: dict[str, Path | bytes] = dict(list_files(folder))
    if problems := list(unreachable(spec, folder, files, () if profile is None else profile.shared_roots)):
        raise InvalidSpec(problems, str(path))
    name = name_within(folder, path)
    files[name] = path
    command = ["python", "-m", "pipelines", "run", name]
    if profile is not None:
        files[PROFILE] = json.dumps(for_driver(profile), sort_keys=True).encode()
        command += ["--cluster", PROFILE]
    command += [part for override in overrides for part in ("--set", override)] + list(arguments)
    packages = [pack(files, folder)]
    given = {} if profile is None else profile.runtime_env.model_dump(mode="json", exclude_defaults=True)
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **given.get("env_vars", {})}
    environment: dict[str, Any] = {**given, "env_vars": variables, "working_dir": packages[0].uri}
    if not installed:
        packages.append(pack(own_files(), ROOT))
        environment["py_modules"] = [packages[1].uri]
    metadata = {
        "job": spec.name,
        "table": f"{spec.table.uri}/{spec.table.name}",
        "command": shlex.join(command),
        "packages": " ".join(package.name for package in packages),
        "latentlake": __version__,
    }
    return Prepared(spec.name, Submission(shlex.join(command), " --wait", environment, metadata), tuple(packages))


def differs(prepared: Prepared, metadata: Mapping[str, str]) -> bool:
    """Whether a job that was submitted before is of other files, or other options."""
    wanted = prepared.submission.metadata or {}
    return any(metadata.get(key) != wanted[key] for key in ("command", "packages"))


def name_within(folder: Path, path: Path) -> str:
    """Path of the job file in the package; it need not be in the working directory."""
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return f"{OWN_FOLDER}/{path.name}"


def for_driver(profile: ClusterProfile) -> dict[str, Any]:
    """What the job needs of the profile: it runs on the cluster, so that Ray tells it the address."""
    return profile.model_dump(mode="json", exclude_unset=True, exclude=set(SUBMITTERS))


def own_files() -> dict[str, Path]:
    """Files of LatentLake's packages."""
    return {f"{name}/{inner}": file for name in PACKAGES for inner, file in list_files(ROOT / name).items()}


def unreachable(spec: JobSpec, folder: Path, files: Collection[str], shared: Sequence[str]) -> Iterator[str]:
    """What of a job a cluster would not find: each with its place in the job, and what to do."""
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
            if isinstance(model, str) and not in_store(model) and (fault := model_fault(model, folder, files, shared)):
                yield f"embed[{number}].{name}: '{model}' {fault}"


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


def model_fault(model: str, folder: Path, files: Collection[str], shared: Sequence[str]) -> str | None:
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
