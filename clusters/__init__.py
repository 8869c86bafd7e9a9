"""Where a job runs: profiles, and later job submission."""

from clusters.profile import Capacity, ClusterProfile, Node, machine_capacity, this_machine

__all__ = ["Capacity", "ClusterProfile", "Node", "machine_capacity", "this_machine"]
