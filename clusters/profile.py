"""Where a job runs: what a machine or a cluster offers. Data only; the job's spec says what to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from clusters.capacity import Capacity, Node, machine_capacity
from clusters.groups import OBJECT, HeadNode, Part, Shared, WorkerGroup
from clusters.secrets import looks_secret

OBJECT_STORE_SHARE = 0.2  # of the memory, where the profile does not say
OBJECT_STORE_LIMIT_MB = 8192

Kind = Literal["auto", "local", "ray", "kuberay", "aws", "gcp"]
DESCRIBED = ("kuberay", "aws", "gcp")  # kinds whose machines exist because the profile describes them
REMOTE = ("ray", *DESCRIBED)
# Keys that only some kinds have.
KINDS_OF: dict[str, tuple[str, ...]] = {
    "address": ("auto", "ray"),
    "job_server": ("auto", *REMOTE),
    "token": ("auto", *REMOTE),
    "object_store_mb": ("auto", "local"),
    "price_per_hour": ("auto", "local", "ray"),
    "worker_groups": REMOTE,
    "head": DESCRIBED,
    "image": DESCRIBED,
    "runtime_env": ("auto", *REMOTE),
    "kubernetes": ("kuberay",),
    "launcher": ("aws", "gcp"),
}
TOTALS = ("cpus", "gpus", "memory_mb", "nodes", "price_per_hour")


class RuntimeEnv(Part):
    """What Ray prepares for the job's processes. Ray shows it to everyone who can list jobs: no secrets."""

    env_vars: dict[str, str] = Field(default={})
    pip: tuple[str, ...] = ()

    @field_validator("env_vars")
    @classmethod
    def hold_no_keys(cls, variables: dict[str, str]) -> dict[str, str]:
        """Raise `ValueError`, without the value, for a variable that looks like a key."""
        for name, value in variables.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is not the name of an environment variable")
            if looks_secret(name, value):
                raise ValueError(
                    f"'{name}' looks like a key, and Ray shows env_vars to everyone who can list jobs; name a secret of "
                    "Kubernetes under `kubernetes.secrets`, or set the variable on the cluster's machines"
                )
        return variables

    @field_validator("pip")
    @classmethod
    def name_no_keys(cls, packages: tuple[str, ...]) -> tuple[str, ...]:
        """Raise `ValueError` for the address of an index with a password in it."""
        if any(looks_secret("", package) for package in packages):
            raise ValueError(
                "an address with a password in it; configure pip on the cluster's machines, or in the image"
            )
        return packages


class KubernetesOptions(Part):
    """How the job's RayJob stands on Kubernetes. Secrets are named, never held."""

    namespace: str | None = Field(default=None, max_length=63)
    service_account: str | None = Field(default=None, max_length=253)
    secrets: tuple[str, ...] = ()
    image_pull_secrets: tuple[str, ...] = ()
    queue: str | None = Field(default=None, max_length=63)
    retries: int = Field(default=3, ge=0, le=100)
    ray_version: str | None = Field(default=None, pattern=r"^\d+\.\d+\.\d+$")
    max_run_s: int = Field(default=86_400, ge=60)
    keep_s: int = Field(default=3600, ge=0)

    @model_validator(mode="after")
    def check_names(self) -> KubernetesOptions:
        """Names as Kubernetes takes them."""
        names = {"namespace": self.namespace, "service_account": self.service_account, "queue": self.queue}
        names |= {f"secrets[{n}]": name for n, name in enumerate(self.secrets)}
        names |= {f"image_pull_secrets[{n}]": name for n, name in enumerate(self.image_pull_secrets)}
        for where, name in names.items():
            if name is not None and not re.fullmatch(OBJECT, name):
                raise ValueError(
                    f"{where} is not the name of an object of Kubernetes: use lower-case letters, digits, '-' and '.'"
                )
        return self


class LauncherOptions(Part):
    """Where `ray up` starts machines. `project` is GCP's; `zone` may be left to AWS."""

    region: str
    zone: str | None = None
    project: str | None = None
    ssh_user: str = "ubuntu"
    image_id: str | None = None


class ClusterProfile(Part):
    """What a job may use; None: what is found where it runs.

    `kind` "auto": the Ray at `address`, else at `RAY_ADDRESS`, else a private one that is started and ends with the job. "local" is
    always private. A "ray" runs already; machines of "kuberay", "aws" and "gcp" are started for the job as `worker_groups` say.
    `stall_s`: how long nothing may move on a running job before it is planned again; `start_s`: how long its actors may take
    to load their models.
    """

    kind: Kind = "auto"
    address: str | None = None
    job_server: str | None = None
    token: str | None = None
    cpus: int | None = Field(default=None, ge=1)
    gpus: int | None = Field(default=None, ge=0)
    memory_mb: int | None = Field(default=None, ge=256)
    object_store_mb: int | None = Field(default=None, ge=80)
    nodes: int | None = Field(default=None, ge=1)
    price_per_hour: float | None = Field(default=None, ge=0)
    worker_groups: tuple[WorkerGroup, ...] = ()
    head: HeadNode = HeadNode()
    image: str | None = Field(default=None, min_length=1)
    runtime_env: RuntimeEnv = RuntimeEnv()
    shared_storage: tuple[Shared, ...] = ()
    kubernetes: KubernetesOptions = KubernetesOptions()
    launcher: LauncherOptions | None = None
    stall_s: float = Field(default=600, gt=0)
    start_s: int = Field(default=900, ge=1)

    @field_validator("job_server")
    @classmethod
    def check_url(cls, url: str | None) -> str | None:
        """An address that a browser takes, without a password in it. Raises `ValueError`."""
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the job server's address begins with http:// or https://, such as http://HEAD:8265")
        if parts.username or parts.password or parts.query:
            raise ValueError("the job server's address holds no user, password or query; give its token as `token`")
        return url.rstrip("/")

    @field_validator("token")
    @classmethod
    def check_token(cls, token: str | None) -> str | None:
        """A reference, never the token itself. Raises `ValueError`, without what was given."""
        if token is not None and not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", token):
            raise ValueError("the token is given as env:NAME or file:PATH, never itself")
        return token

    @model_validator(mode="after")
    def check_kind(self) -> ClusterProfile:
        """What the kind needs, and nothing that it does not have. Raises `ValueError` with every mistake."""
        if faults := list(faults_of(self)):
            raise ValueError("; ".join(faults))
        return self

    @property
    def shared_roots(self) -> tuple[str, ...]:
        """Folders that every machine of the cluster sees."""
        return tuple(storage.path for storage in self.shared_storage)

    def object_store_bytes(self, capacity: Capacity) -> int:
        """Size of the object store of a private Ray on a machine of that capacity, in bytes."""
        planned = min(OBJECT_STORE_LIMIT_MB, int(capacity.memory_mb * OBJECT_STORE_SHARE))
        return (self.object_store_mb or max(80, planned)) * 2**20

    def applied_to(self, found: Capacity) -> Capacity:
        """What the job may plan with, where `found` is what is there: what the profile states is believed.

        A cluster may grow beyond what lives now, so that worker groups count with all the machines they may have. Totals that
        are more than what lives, and a number of nodes, are taken as evenly spread nodes.
        """
        if self.worker_groups:
            return self.groups_capacity()
        cpus = found.cpus if self.cpus is None else self.cpus
        gpus = found.gpus if self.gpus is None else self.gpus
        memory_mb = found.memory_mb if self.memory_mb is None else self.memory_mb
        nodes = len(found.nodes) if self.nodes is None else self.nodes
        if (cpus, gpus, memory_mb, nodes) == (found.cpus, found.gpus, found.memory_mb, len(found.nodes)):
            return found
        return Capacity.even(cpus, gpus, memory_mb, nodes)

    def groups_capacity(self) -> Capacity:
        """The machines of the worker groups, as many as they may have; the head runs no actors."""
        nodes = [
            Node(group.cpus, group.gpus, group.memory_mb, group.name)
            for group in self.worker_groups
            for _ in range(group.max)
        ]
        return Capacity(tuple(sorted(nodes, key=lambda node: (node.gpus, node.cpus), reverse=True)))

    @property
    def states_all(self) -> bool:
        """Whether nothing has to be asked of the cluster to plan with."""
        return bool(self.worker_groups) or None not in (self.cpus, self.gpus, self.memory_mb, self.nodes)


def faults_of(profile: ClusterProfile) -> Iterator[str]:
    """What does not agree in a profile, each with its remedy."""
    kind = profile.kind
    for key, kinds in KINDS_OF.items():
        given = getattr(profile, key) != type(profile).model_fields[key].get_default()
        if given and kind not in kinds and not (key == "address" and profile.address == "local"):
            yield f"`{key}` is not for kind '{kind}' but for {', '.join(kinds)}; leave it out, or set `kind`"
    if kind == "ray" and profile.address is None and profile.job_server is None:
        yield "kind 'ray' needs an `address` (HOST:6379, for a run on one of its machines) or a `job_server` (http://HEAD:8265)"
    if profile.worker_groups and (stated := [key for key in TOTALS if getattr(profile, key) is not None]):
        yield f"`worker_groups` say what the cluster has; leave out {', '.join(f'`{key}`' for key in stated)}"
    names = [group.name for group in profile.worker_groups]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield f"two worker groups are called {', '.join(repr(name) for name in twice)}; a name is of one group"
    if kind in DESCRIBED and profile.image is None:
        yield f"kind '{kind}' needs an `image` with Ray and LatentLake in it"
    if kind in DESCRIBED and not names:
        yield f"kind '{kind}' needs `worker_groups`: nothing else says which machines to start"
    if kind == "kuberay":
        yield from kubernetes_faults(profile)
    else:
        yield from pod_keys(profile)
    if kind in ("aws", "gcp"):
        yield from launcher_faults(profile)


def kubernetes_faults(profile: ClusterProfile) -> Iterator[str]:
    """What a profile of kind kuberay lacks."""
    for group in profile.worker_groups:
        if group.instance_type is not None:
            yield f"group '{group.name}': `instance_type` is for aws and gcp; on Kubernetes `node_selector` chooses nodes"
    for storage in profile.shared_storage:
        if storage.claim is not None and not re.fullmatch(OBJECT, storage.claim):
            yield f"claim {storage.claim!r} is not the name of a claim: use lower-case letters, digits, '-' and '.'"


def pod_keys(profile: ClusterProfile) -> Iterator[str]:
    """Keys of pods where there are none."""
    for machine in (profile.head, *profile.worker_groups):
        name = f"group '{machine.name}'" if isinstance(machine, WorkerGroup) else "head"
        if machine.node_selector or machine.tolerations:
            yield f"{name}: `node_selector` and `tolerations` are for kind 'kuberay'"
    for storage in profile.shared_storage:
        if storage.claim is not None:
            yield f"shared_storage '{storage.path}': `claim` is for kind 'kuberay'; the machines mount it themselves"


def launcher_faults(profile: ClusterProfile) -> Iterator[str]:
    """What a profile of kind aws or gcp lacks."""
    if profile.launcher is None:
        yield f"kind '{profile.kind}' needs `launcher` with the `region`"
    elif profile.kind == "gcp" and (profile.launcher.zone is None or profile.launcher.project is None):
        yield "kind 'gcp' needs `launcher.zone` and `launcher.project`"
    if missing := [group.name for group in profile.worker_groups if group.instance_type is None]:
        yield f"state the `instance_type` of group {', '.join(repr(name) for name in missing)}"
    if profile.head.instance_type is None:
        yield "state the `head`'s `instance_type`"


def this_machine(changes: dict[str, Any] | None = None) -> ClusterProfile:
    """The profile of the machine this process runs on: the cores it may use, its memory, its NVIDIA GPUs.

    `changes` are stated instead. With an `address` among them nothing is taken from this machine.
    """
    if (changes or {}).get("address") is not None:
        return ClusterProfile.model_validate(changes)
    found = machine_capacity()
    stated = {"cpus": found.cpus, "gpus": found.gpus, "memory_mb": found.memory_mb, "nodes": 1}
    return ClusterProfile.model_validate({**stated, **(changes or {})})
