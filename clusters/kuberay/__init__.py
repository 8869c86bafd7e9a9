"""A job on Kubernetes: the objects that KubeRay's operator turns into a cluster, and the rules that it checks them by."""

from clusters.kuberay.objects import Work, scheduled, single
from clusters.kuberay.rules import faults_of

__all__ = ["Work", "faults_of", "scheduled", "single"]
