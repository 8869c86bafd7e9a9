"""The errors that the client of a job server raises: those of LatentLake's tree.

The client's files import one another and this file relatively, and no other LatentLake module. So another distribution can hold
them as they are in a folder of its own, with `operators/errors.py` as this file. See ADR 1.
"""

from operators.errors import ClusterError, CredentialsError, JobServerRefused, JobServerUnreachable, NotFound, SpecError

__all__ = ["ClusterError", "CredentialsError", "JobServerRefused", "JobServerUnreachable", "NotFound", "SpecError"]
