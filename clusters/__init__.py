"""Where a job runs: profiles, and what follows from them; later job submission."""

from clusters.capacity import Capacity, Node, machine_capacity
from clusters.groups import HeadNode, SharedStorage, Toleration, WorkerGroup
from clusters.profile import (
    DESCRIBED,
    REMOTE,
    ClusterProfile,
    KubernetesOptions,
    LauncherOptions,
    RuntimeEnv,
    this_machine,
)
from clusters.secrets import find_secrets, is_key, looks_secret

__all__ = [
    "DESCRIBED",
    "REMOTE",
    "Capacity",
    "ClusterProfile",
    "HeadNode",
    "KubernetesOptions",
    "LauncherOptions",
    "Node",
    "RuntimeEnv",
    "SharedStorage",
    "Toleration",
    "WorkerGroup",
    "find_secrets",
    "is_key",
    "looks_secret",
    "machine_capacity",
    "this_machine",
]
