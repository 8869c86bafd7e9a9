"""The Ray that a job would run on: whether it is there, lets us in, and is of our version; whether the job fits on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from clusters import REMOTE, ClusterProfile
from clusters.jobs import JobServer
from clusters.tokens import find_token
from latentlake.storage import resolve_options
from pipelines.doctor.findings import DO, NOT_CHECKED, OK, Finding
from pipelines.job.spec import JobSpec
from pipelines.planning.machines import place_pools
from pipelines.planning.pools import plan_pools
from pipelines.ray_connection import address_of, capacity_of, living_capacity, running_ray
from pipelines.reach import unreachable, unsent_model_fault

PATIENCE_S = 5.0  # for which a job server that does not answer is asked again


def check_cluster(profile: ClusterProfile) -> Iterator[Finding]:
    """Its job server, or its Ray; for a private Ray the installed version."""
    ours = version("ray")
    if profile.job_server is not None:
        yield from check_job_server(profile, ours)
    elif is_reached(profile):
        address = address_of(profile)
        with running_ray(profile):  # Ray itself refuses another version, and a wrong token
            yield Finding("cluster", OK, f"Ray {ours} at '{address}' lets this process in: {living_capacity()}")
    elif profile.kind in REMOTE:
        told = f"machines of kind '{profile.kind}' start with the job, and no `job_server` is named"
        yield Finding("cluster", NOT_CHECKED, told)
    else:
        told = f"a private Ray {ours}, which starts on this machine if a job needs it; it was not started"
        yield Finding("cluster", OK, told)


def is_reached(profile: ClusterProfile) -> bool:
    """Whether a job of this process would connect to a Ray that runs already."""
    if profile.kind in REMOTE and profile.address is None and not os.environ.get("RAY_ADDRESS"):
        return False
    return address_of(profile) is not None


def check_job_server(profile: ClusterProfile, ours: str) -> Iterator[Finding]:
    """Whether it answers, takes the token, and has the same Ray. Raises `ClusterError`, `CredentialsError`."""
    assert profile.job_server is not None
    token = resolve_options({"token": profile.token})["token"] if profile.token else find_token(os.environ)
    with JobServer(profile.job_server, token, PATIENCE_S) as server:
        theirs = server.version()
        jobs = server.list()
    with_token = "takes the token" if token else "asks for no token: whoever reaches it can run programs there"
    yield Finding("cluster", OK if token else DO, f"the job server at {server.address} answers, and {with_token}")
    running = sum(not job.is_over for job in jobs)
    if theirs == ours:
        yield Finding("cluster", OK, f"Ray {theirs}, as here; {running} submitted jobs are not over")
    else:
        told = f"its Ray is {theirs}, and this machine's is {ours}. Submitting works; what you test here runs on another version there."
        yield Finding("cluster", DO, f"{told} Install ray=={theirs} here, or {ours} there.")
    yield Finding("cluster", NOT_CHECKED, "the libraries and credentials of its machines: these checks are of this one")


def check_paths(spec: JobSpec, profile: ClusterProfile) -> Iterator[Finding]:
    """Whether what the job names would be found by the machines of a cluster elsewhere."""
    if profile.kind not in REMOTE or is_reached(profile):
        return
    roots = profile.shared_roots
    sent = profile.job_server is not None

    def fault_of(model: str) -> str | None:
        # What is sent with a job is known once it is submitted.
        return None if sent and not Path(model).is_absolute() else unsent_model_fault(model, roots)

    faults = list(unreachable(spec, roots, fault_of))
    for fault in faults:
        yield Finding("paths", DO, fault)
    if not faults:
        yield Finding("paths", OK, "the cluster's machines can find what the job names")


def check_pools(spec: JobSpec, profile: ClusterProfile) -> Iterator[Finding]:
    """Whether the job's pools fit on the machines. Raises `PoolUnschedulable`, which says what does not, and why."""
    if profile.kind in REMOTE and not profile.states_all and not is_reached(profile):
        told = (
            "the profile does not say what machines there are (`worker_groups`), and this process is not on the cluster"
        )
        yield Finding("pools", NOT_CHECKED, told)
        return
    capacity = capacity_of(profile)
    pools = plan_pools(spec.embed, capacity)
    placed = place_pools(pools, capacity)
    for pool in pools:
        where = sorted({group.name for group in placed if group.actors[pool.column] and group.name})
        told = f"'{pool.column}': {pool.min} to {pool.max} actors, each of {pool.threads} threads on {pool.device}"
        yield Finding("pools", OK, told + (f", in {', '.join(where)}" if where else ""))
