"""Which runner does a run's work: Ray, or for little work one process without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from clusters import REMOTE, Capacity, ClusterProfile, machine_capacity
from operators.errors import InvalidSpec, SpecError
from pipelines.job.spec import JobSpec
from pipelines.planning.calibrations import fingerprint_of_column, model_rates, read_calibrations
from pipelines.planning.pools import Pool
from pipelines.ray_connection import address_of, capacity_of, is_connected

RunnerName = Literal["auto", "ray", "inline"]
# Ray takes 20 to 30 s to start and is then 1.2 to 1.5 x as fast on 2 cores, so that they are even at about 90 s of work.
INLINE_S = 60.0  # work of the models that is expected to take no longer is done without Ray
# Where no earlier run tells how fast the models are:
INLINE_OBJECTS = 1000
INLINE_MB = 256


@dataclass(frozen=True)
class Choice:
    """The runner of a run, and why it is that."""

    name: Literal["ray", "inline"]
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


def check_runner(asked: RunnerName) -> RunnerName:
    """Itself. Raises `InvalidSpec` where there is no such runner."""
    if asked not in get_args(RunnerName):
        raise InvalidSpec([f"runner '{asked}': choose one of {', '.join(get_args(RunnerName))}."], "options")
    return asked


def why_ray(asked: RunnerName, profile: ClusterProfile) -> str | None:
    """Why the run is Ray's whatever its work is; None: that depends on the work, or the inline runner is asked for."""
    if asked == "ray":
        return "asked for"
    if asked == "inline":
        return None
    if profile.kind in REMOTE:  # also where a plan is made, far from the cluster
        return f"the cluster profile is of kind '{profile.kind}'"
    if is_connected():
        return "this process is connected to a Ray"
    return None if (address := address_of(profile)) is None else f"the job's Ray is at '{address}'"


def capacity_for(asked: RunnerName, profile: ClusterProfile) -> Capacity:
    """What the run may plan with: the inline runner has this machine. Raises `ClusterError`, `SpecError`."""
    if asked == "inline" and profile.kind in REMOTE:
        raise SpecError(
            f"--runner inline runs in one process on this machine, and the cluster profile is of kind '{profile.kind}'.\n  Leave one out."
        )
    return profile.applied_to(machine_capacity()) if asked == "inline" else capacity_of(profile)


def choose_runner(
    asked: RunnerName, profile: ClusterProfile, spec: JobSpec, pools: Sequence[Pool], objects: int, size: int
) -> Choice:
    """The runner of a run that reads so many objects, of `size` bytes as far as that is known."""
    if asked == "inline":
        return Choice("inline", "asked for")
    if (why := why_ray(asked, profile)) is not None:
        return Choice("ray", why)
    if any(pool.num_gpus for pool in pools):
        return Choice("ray", "GPUs are planned")
    if not objects:
        return Choice("inline", "nothing is to be read")
    if (seconds := expected_seconds(spec, pools, objects)) is not None:
        told = f"the models are expected to work for {seconds:.0f} s, as fast as in an earlier run"
        if seconds <= INLINE_S:
            return Choice("inline", f"{told}; up to {INLINE_S:.0f} s one process does not need Ray")
        return Choice("ray", f"{told}; up to {INLINE_S:.0f} s would do without Ray")
    told = f"{objects} objects of {size / 2**20:.0f} MB are to be read"
    limits = f"{INLINE_OBJECTS} objects and {INLINE_MB} MB"
    if objects <= INLINE_OBJECTS and size <= INLINE_MB * 2**20:
        return Choice("inline", f"{told}; up to {limits} one process does not need Ray")
    return Choice("ray", f"{told}; up to {limits} would do without Ray")


def inline_pools(spec: JobSpec, pools: Sequence[Pool], capacity: Capacity) -> tuple[Pool, ...]:
    """The pools as the inline runner has them: one actor of each model, one at work at a time, so that it has all threads."""
    threads = max(1, int(capacity.cpus))
    return tuple(
        replace(pool, min=1, initial=1, max=1, threads=embed.pool.threads or threads)
        for embed, pool in zip(spec.embed, pools, strict=True)
    )


def expected_seconds(spec: JobSpec, pools: Sequence[Pool], objects: int) -> float | None:
    """How long this machine's models work on so many objects, by what earlier runs measured; None where one is not known."""
    known = model_rates(read_calibrations(spec.table.lake, spec.table.name))
    seconds = 0.0
    for embed, pool in zip(spec.embed, pools, strict=True):
        found = known.get((fingerprint_of_column(spec, embed), pool.device))
        if found is None:
            return None
        seconds += (
            objects * found["rows_per_object"] / (found["rows_per_s"] * pool.threads * pool.max / found["threads"])
        )
    return seconds
