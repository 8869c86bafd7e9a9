"""The pods of a cluster on Kubernetes: its head and its groups of workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusters.groups import HeadNode, Machine, Toleration, WorkerGroup
from clusters.profile import ClusterProfile

FILES = "/etc/latentlake"  # where the job's files are mounted, read-only
GPU = "nvidia.com/gpu"
RAYLET_PORT, DASHBOARD_PORT = 52365, 8265  # both answer health checks without a token
STOP_S = 30  # how long Ray waits for a job that it has told to stop; its own 3 s are too few to end in order
# Where the large providers put spot machines, and the taints that keep other pods off them.
SPOT_LABELS = (
    ("cloud.google.com/gke-spot", "true"),
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("karpenter.sh/capacity-type", "spot"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
)
# The autoscalers of nodes move pods to save machines; the head must not be moved.
STAY = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
CONFINED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def head_pod(profile: ClusterProfile, labels: Mapping[str, str], files: str) -> dict[str, Any]:
    """Template of the head's pod; `files` names the ConfigMap with the job's files. The driver runs in it."""
    container = ray_container("ray-head", profile, profile.head, gpus=0)
    container["ports"] = [
        {"name": "gcs-server", "containerPort": 6379},
        {"name": "dashboard", "containerPort": DASHBOARD_PORT},
        {"name": "client", "containerPort": 10001},
        {"name": "metrics", "containerPort": 8080},
    ]
    container["env"] = [{"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(STOP_S)}]
    container["readinessProbe"] = probe("/api/gcs_healthz", DASHBOARD_PORT, every_s=10, times=6)
    container["volumeMounts"].append({"name": "job", "mountPath": FILES, "readOnly": True})
    template = pod(profile, profile.head, labels, container)
    template["metadata"]["annotations"] = dict(STAY)
    template["spec"]["volumes"].append({"name": "job", "configMap": {"name": files}})
    template["spec"]["terminationGracePeriodSeconds"] = 2 * STOP_S
    return template


def worker_pod(profile: ClusterProfile, group: WorkerGroup, labels: Mapping[str, str]) -> dict[str, Any]:
    """Template of the pods of a group."""
    container = ray_container("ray-worker", profile, group, group.gpus)
    if group.spot:
        container["env"] = [{"name": "RAY_NODE_MARKET_TYPE", "value": "spot"}]  # a label of the node within Ray
    template = pod(profile, group, labels, container)
    tolerations = [toleration(one) for one in group.tolerations]
    if group.gpus:
        tolerations.append({"key": GPU, "operator": "Exists", "effect": "NoSchedule"})
    if group.spot:
        tolerations += [{"key": key, "operator": "Equal", "value": value} for key, value in SPOT_LABELS]
        terms = [
            {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]} for key, value in SPOT_LABELS
        ]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        template["spec"]["affinity"] = {"nodeAffinity": required}
    if tolerations:
        template["spec"]["tolerations"] = tolerations
    template["spec"]["automountServiceAccountToken"] = profile.kubernetes.service_account is not None
    return template


def pod(
    profile: ClusterProfile, machine: Machine, labels: Mapping[str, str], container: dict[str, Any]
) -> dict[str, Any]:
    """Template of a pod with one container. It never restarts: the second autoscaler replaces pods."""
    options = profile.kubernetes
    spec: dict[str, Any] = {"restartPolicy": "Never", "containers": [container], "volumes": volumes(profile)}
    if options.service_account is not None:
        spec["serviceAccountName"] = options.service_account
    if options.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in options.image_pull_secrets]
    if machine.node_selector:
        spec["nodeSelector"] = dict(machine.node_selector)
    if isinstance(machine, HeadNode) and machine.tolerations:
        spec["tolerations"] = [toleration(one) for one in machine.tolerations]
    return {"metadata": {"labels": dict(labels)}, "spec": spec}


def ray_container(name: str, profile: ClusterProfile, machine: Machine, gpus: int) -> dict[str, Any]:
    """A container with Ray in it. Ray offers what the limits say: so many CPUs, so much memory, so many GPUs."""
    amounts = {"cpu": str(machine.cpus), "memory": f"{machine.memory_mb}Mi", **({GPU: str(gpus)} if gpus else {})}
    container: dict[str, Any] = {
        "name": name,
        "image": machine.image or profile.image,
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": CONFINED,
        "startupProbe": probe("/api/local_raylet_healthz", RAYLET_PORT, every_s=5, times=60),
        "readinessProbe": probe("/api/local_raylet_healthz", RAYLET_PORT, every_s=10, times=6),
        "livenessProbe": probe("/api/local_raylet_healthz", RAYLET_PORT, every_s=10, times=12),
        "volumeMounts": [
            {"name": f"shared-{n}", "mountPath": one.path}
            for n, one in enumerate(profile.shared_storage)
            if one.claim is not None
        ],
    }
    if profile.kubernetes.secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in profile.kubernetes.secrets]
    return container


def volumes(profile: ClusterProfile) -> list[dict[str, Any]]:
    """The shared storage that every pod mounts; what has no claim is in the image."""
    return [
        {"name": f"shared-{n}", "persistentVolumeClaim": {"claimName": one.claim}}
        for n, one in enumerate(profile.shared_storage)
        if one.claim is not None
    ]


def probe(path: str, port: int, every_s: int, times: int) -> dict[str, Any]:
    """A health check that has failed after so many times in a row."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": every_s,
        "timeoutSeconds": 5,
        "failureThreshold": times,
    }


def toleration(found: Toleration) -> dict[str, Any]:
    """As Kubernetes has it."""
    return found.model_dump(mode="json", exclude_none=True)
