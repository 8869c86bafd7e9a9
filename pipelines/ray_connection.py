"""The Ray that a job runs on: the one of its profile, one that runs already, or a private one on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from clusters import REMOTE, Capacity, ClusterProfile, Node, machine_capacity
from operators.batch import describe
from operators.errors import ClusterError
from pipelines.telemetry.metrics import CONNECTION

log = logging.getLogger(__name__)

STARTING = "Is there memory, and room in TMPDIR, whose path must be short? Ray's own words may say more."
REACHING = (
    "Check the profile's address (or RAY_ADDRESS), that its head runs this version of Ray, and RAY_AUTH_TOKEN_PATH."
)
# Each Ray Data pool makes Ray's C++ core print an error line that is none. Ray's exceptions, and what ends a process, are reported all
# the same.
QUIET_CORE = "RAY_BACKEND_LOG_LEVEL", "fatal"
# Ray ends workers that idle for a second. Those that are to read and write have idled since before the models were loaded, and new
# ones would take seconds of the models' CPUs at the beginning of the stream.
KEEP_WORKERS = {"idle_worker_killing_time_threshold_ms": 3_600_000}
LAUNCHED = "Print the cluster's file with `latentlake manifest JOB --cluster FILE`, start it with `ray up`, and submit the job to its job server."
# How a job gets to the cluster of a profile that has no address.
SENDING = {
    "ray": "Submit the job: `latentlake submit JOB --cluster FILE`, or set the profile's `address`.",
    "kuberay": "Send the job there: `latentlake manifest JOB --cluster FILE | kubectl apply -f -`.",
    "aws": LAUNCHED,
    "gcp": LAUNCHED,
}
# A private Ray sends no usage data, and starts no process that collects it.
NO_USAGE_DATA = "RAY_USAGE_STATS_ENABLED", "0"
AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def address_of(profile: ClusterProfile) -> str | None:
    """Where the job's Ray is: what the profile says, else `RAY_ADDRESS`, as for `ray.init`; None: a private Ray is started.

    `ray job submit` sets `RAY_ADDRESS` for the command it runs. Raises `ClusterError` for the address of a job server, and where
    the profile is of a cluster and nothing says where that is.
    """
    if profile.kind == "local":
        return None
    address = profile.address or os.environ.get("RAY_ADDRESS") or None
    if address is None and profile.kind in REMOTE:
        raise ClusterError(
            f"the profile is of kind '{profile.kind}', and this process is not on that cluster.\n  {SENDING[profile.kind]}"
        )
    if address is not None and address.startswith(("http://", "https://")):
        raise ClusterError(
            f"'{address}' is the address of Ray's job server, and a job connects to the head's (HOST:6379).\n  Submit the job there: "
            "`latentlake submit JOB`, or set the profile's address, or unset RAY_ADDRESS."
        )
    return None if address == "local" else address


def is_connected() -> bool:
    """Whether this process is connected to a Ray."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def reached(profile: ClusterProfile) -> AbstractContextManager[None]:
    """The Ray of a cluster, which tells what there is to plan with; nothing where a private one will do, if one is needed."""
    return nullcontext() if address_of(profile) is None else running_ray(profile)


@contextmanager
def running_ray(profile: ClusterProfile) -> Iterator[None]:
    """Ray, for as long as the job needs it. One that was running before is left running.

    Raises `ClusterError` where it cannot be started or reached; the environment is then, as after the job, what it was.
    """
    if is_connected():
        yield
    elif address := address_of(profile):
        with connected(f"Ray at '{address}' cannot be reached", REACHING, address=address):
            yield
    else:
        capacity = profile.applied_to(machine_capacity())
        with (
            private_folder() as folder,
            private_authentication(folder),
            unless_set(*NO_USAGE_DATA),
            connected(
                "Ray could not be started",
                STARTING,
                address="local",  # not what RAY_ADDRESS says
                num_cpus=capacity.cpus,
                num_gpus=capacity.gpus,
                include_dashboard=False,
                object_store_memory=profile.object_store_bytes(capacity),
                _temp_dir=str(folder),
                _system_config=dict(KEEP_WORKERS),  # Ray writes the session's own folders into it
            ),
        ):
            yield


@contextmanager
def connected(fault: str, remedy: str, **how: Any) -> Iterator[None]:
    """A connection to a Ray. Raises `ClusterError` where there is none."""
    import ray

    try:
        try:
            with unless_set(*QUIET_CORE), own_sigterm():
                ray.init(log_to_driver=False, logging_level=logging.WARNING, **how)
        except Exception as failure:  # of many kinds, and none is the job's
            raise ClusterError(f"{fault}: {describe(failure)}\n  {remedy}") from failure
        yield
    finally:
        with CONNECTION:
            ray.shutdown()


@contextmanager
def unless_set(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while, unless the user has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep this process's own handler of SIGTERM, which Ray replaces as it starts by one that exits with code 15.

    Where there is none, Ray's stays: it ends what it started.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for a private Ray's files, whose sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="ll-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def private_authentication(folder: Path) -> Iterator[None]:
    """Let only this job's processes talk to its Ray; whoever has set Ray's authentication keeps it.

    The environment, which the Ray's processes inherit, is restored at the end.
    """
    if "RAY_AUTH_MODE" in os.environ:
        yield
        return
    before = {name: os.environ.pop(name, None) for name in AUTHENTICATION}
    try:
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)})
        read_authentication()
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        read_authentication()


def read_authentication() -> None:
    """Let Ray read its authentication from the environment again: it does so as it is imported, and then no more."""
    if "ray" not in sys.modules:
        return
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def capacity_of(profile: ClusterProfile) -> Capacity:
    """What a job with this profile may plan with: what it states, and for the rest what lives where it runs.

    Connects for a moment to the cluster that the job names, unless the profile states all. Raises `ClusterError`.
    """
    if profile.states_all:
        return profile.applied_to(Capacity((Node(1),)))
    if not is_connected() and address_of(profile) is None:
        return profile.applied_to(machine_capacity())
    with running_ray(profile):
        capacity = profile.applied_to(living_capacity())
    if capacity.cpus < 1:
        raise ClusterError(
            "the cluster has no node with CPUs now.\n  Start one, or, where nodes come on demand, state in the cluster profile what "
            "the job may plan with: cpus, gpus, memory_mb, nodes."
        )
    return capacity


def living_capacity() -> Capacity:
    """The nodes of the Ray that this process is connected to which are alive and offer CPUs or GPUs."""
    import ray

    offered = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [
        Node(
            found.get("CPU", 0),
            found.get("GPU", 0),
            int(found.get("memory", 0) + found.get("object_store_memory", 0)) >> 20,
        )
        for found in offered
        if found.get("CPU") or found.get("GPU")
    ]
    return Capacity(tuple(sorted(nodes, key=lambda node: (node.gpus, node.cpus), reverse=True)) or (Node(0),))
