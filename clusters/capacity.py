"""The machines that a job may plan with: CPUs, GPUs and memory of each."""

from __future__ import annotations

import os
from dataclasses import dataclass

from clusters.limits import usable_cpus, usable_memory_mb


@dataclass(frozen=True)
class Node:
    """One machine: logical CPUs and GPUs, memory in MiB; of a worker group of the profile, where that states groups."""

    cpus: float
    gpus: float = 0
    memory_mb: int = 0
    group: str = ""


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
        sizes = [
            f"{node.cpus:g} CPUs"
            + (f" and {node.gpus:g} GPUs" if node.gpus else "")
            + (f" of group '{node.group}'" if node.group else "")
            for node in self.nodes
        ]
        return ", ".join(f"{sizes.count(size)} x {size}" for size in dict.fromkeys(sizes))


def machine_capacity() -> Capacity:
    """What the machine this process runs on offers it."""
    return Capacity((Node(usable_cpus(), count_gpus(), usable_memory_mb()),))


def count_gpus() -> int:
    """NVIDIA GPUs of this machine, from the driver's device files; 0 if there is no driver."""
    try:
        return sum(name.startswith("nvidia") and name[6:].isdigit() for name in os.listdir("/dev"))  # noqa: PTH208 (names are wanted, not paths)
    except OSError:
        return 0
