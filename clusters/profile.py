"""Where a job runs: what a machine or a cluster offers. Data only; the job's spec says what to run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from clusters.limits import usable_cpus, usable_memory_mb

OBJECT_STORE_SHARE = 0.2  # of the memory, where the profile does not say
OBJECT_STORE_LIMIT_MB = 8192


class ClusterProfile(BaseModel):
    """What a job may use; None: what is found where it runs. `address` None: a private Ray, started and ended with the job.

    `stall_s`: how long nothing may move on a running job before it is planned again; `start_s`: how long its actors may take
    to load their models.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str | None = None
    cpus: int | None = Field(default=None, ge=1)
    gpus: int | None = Field(default=None, ge=0)
    memory_mb: int | None = Field(default=None, ge=256)
    object_store_mb: int | None = Field(default=None, ge=80)
    nodes: int | None = Field(default=None, ge=1)
    stall_s: float = Field(default=600, gt=0)
    start_s: int = Field(default=900, ge=1)

    def object_store_bytes(self, capacity: Capacity) -> int:
        """Size of the object store of a private Ray on a machine of that capacity, in bytes."""
        planned = min(OBJECT_STORE_LIMIT_MB, int(capacity.memory_mb * OBJECT_STORE_SHARE))
        return (self.object_store_mb or max(80, planned)) * 2**20

    def applied_to(self, found: Capacity) -> Capacity:
        """What the job may plan with, where `found` is what is there: what the profile states is believed.

        A cluster may grow beyond what lives now, so totals that are more than what lives, and a number of nodes, are taken
        as evenly spread nodes.
        """
        cpus = found.cpus if self.cpus is None else self.cpus
        gpus = found.gpus if self.gpus is None else self.gpus
        memory_mb = found.memory_mb if self.memory_mb is None else self.memory_mb
        nodes = len(found.nodes) if self.nodes is None else self.nodes
        if (cpus, gpus, memory_mb, nodes) == (found.cpus, found.gpus, found.memory_mb, len(found.nodes)):
            return found
        return Capacity.even(cpus, gpus, memory_mb, nodes)


@dataclass(frozen=True)
class Node:
    """One machine: logical CPUs and GPUs, memory in MiB."""

    cpus: float
    gpus: float = 0
    memory_mb: int = 0


@dataclass(frozen=True)
class Capacity:
    """The machines that a job may plan with; at least one, the largest first."""

    nodes: tuple[Node, ...]

    @classmethod
    def even(cls, cpus: float, gpus: float, memory_mb: int, nodes: int = 1) -> Capacity:
        """So many equal nodes of these totals; whole GPUs and CPUs that do not divide go to the first ones."""

        def share(total: float, number: int) -> float:
            return total // nodes + (number < total % nodes)

        return cls(tuple(Node(share(cpus, n), share(gpus, n), memory_mb // nodes) for n in range(nodes)))

    @property
    def cpus(self) -> int:
        """Logical CPUs of all nodes."""
        return int(sum(node.cpus for node in self.nodes))

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return int(sum(node.gpus for node in self.nodes))

    @property
    def memory_mb(self) -> int:
        """Memory of all nodes."""
        return sum(node.memory_mb for node in self.nodes)

    def __str__(self) -> str:
        """The nodes, for people."""
        sizes = [f"{node.cpus:g} CPUs" + (f" and {node.gpus:g} GPUs" if node.gpus else "") for node in self.nodes]
        return ", ".join(f"{sizes.count(size)} x {size}" for size in dict.fromkeys(sizes))


def this_machine(changes: dict[str, Any] | None = None) -> ClusterProfile:
    """The profile of the machine this process runs on: the cores it may use, its memory, its NVIDIA GPUs.

    `changes` are stated instead. With an `address` among them nothing is taken from this machine.
    """
    if (changes or {}).get("address") is not None:
        return ClusterProfile.model_validate(changes)
    found = machine_capacity()
    stated = {"cpus": found.cpus, "gpus": found.gpus, "memory_mb": found.memory_mb, "nodes": 1}
    return ClusterProfile.model_validate({**stated, **(changes or {})})


def machine_capacity() -> Capacity:
    """What the machine this process runs on offers it."""
    return Capacity((Node(usable_cpus(), count_gpus(), usable_memory_mb()),))


def count_gpus() -> int:
    """NVIDIA GPUs of this machine, from the driver's device files; 0 if there is no driver."""
    try:
        return sum(name.startswith("nvidia") and name[6:].isdigit() for name in os.listdir("/dev"))  # noqa: PTH208 (names are wanted, not paths)
    except OSError:
        return 0
