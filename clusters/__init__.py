"""Where a job runs: profiles, and later job submission."""

from clusters.profile import ClusterProfile, this_machine

__all__ = ["ClusterProfile", "this_machine"]
