"""A job for a cluster that is reached by its job server: what is sent, and what runs there.

Nothing is planned here: models are resolved, and pools sized, where the job runs.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters import ClusterProfile
from clusters.attempts import Submission
from clusters.packages import Package, list_files, pack
from latentlake import __version__
from latentlake.layout import PACKAGES, ROOT
from operators.errors import InvalidSpec
from pipelines.job.jobfile import load_job
from pipelines.reach import sent_model_fault, unreachable

OWN_FOLDER = ".latentlake"  # in the package, for what is not of the working directory
PROFILE = f"{OWN_FOLDER}/cluster.json"
SUBMITTERS = ("address", "token", "runtime_env")  # keys of a profile that are of no use where the job runs
STOP_WAIT_S = 30  # that a job which is told to stop may take to end in good order; Ray's own 3 s are too short for that


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
    command: str = "run",
) -> Prepared:
    """A job file made ready to be submitted with a working directory, its own folder if none is given.

    `arguments` are further ones of `latentlake run`, or of another `command` that takes a job. LatentLake's own packages are sent too, unless they are `installed` on
    the cluster. Raises `InvalidSpec` with every mistake of the job, and with everything in it that the cluster would not find;
    `SpecError` for a folder that cannot be sent.
    """
    spec = load_job(path, overrides)
    folder = path.absolute().parent if folder is None else folder
    files: dict[str, Path | bytes] = dict(list_files(folder))
    shared = () if profile is None else profile.shared_roots
    if problems := list(unreachable(spec, shared, lambda model: sent_model_fault(model, folder, files, shared))):
        raise InvalidSpec(problems, str(path))
    name = name_within(folder, path)
    files[name] = path
    line = ["python", "-m", "pipelines", command, name]
    if profile is not None:
        files[PROFILE] = json.dumps(for_driver(profile), sort_keys=True).encode()
        line += ["--cluster", PROFILE]
    line += [part for override in overrides for part in ("--set", override)] + list(arguments)
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
        "command": shlex.join(line),
        "packages": " ".join(package.name for package in packages),
        "latentlake": __version__,
    }
    return Prepared(
        spec.name,
        Submission(shlex.join(line), " --wait" if command == "run" else "", environment, metadata),
        tuple(packages),
    )


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
