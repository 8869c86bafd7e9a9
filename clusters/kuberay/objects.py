"""A job as objects of Kubernetes: a RayJob that runs it once, or what creates such a RayJob by a schedule."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clusters.groups import WorkerGroup
from clusters.kuberay.pods import CONFINED, FILES, head_pod, worker_pod
from clusters.profile import ClusterProfile

Object = dict[str, Any]

FAILED_S = 600  # how long the cluster of a failed job stays, for whoever reads its log there
STARTING_S = 3600  # how long a cluster may take until its job can begin
PATIENCE_S = 90  # for the lease of a driver that was lost with its pod, which others respect for 60 s
JOB_FILE, PROFILE_FILE, RAYJOB_FILE = "job.yaml", "cluster.json", "rayjob.json"


@dataclass(frozen=True)
class Work:
    """What a RayJob is to run. `name` is its name, `text` the job file, `overrides` as for `--set`.

    `driver` is the profile as the driver reads it, `ray_version` that of the image.
    """

    name: str
    text: str
    overrides: tuple[str, ...]
    profile: ClusterProfile
    driver: Mapping[str, Any]
    ray_version: str


def single(work: Work) -> list[Object]:
    """The objects that run a job once."""
    files = config_map(work, {})
    return [files, ray_job(work, files["metadata"]["name"])]


def scheduled(work: Work, schedule: str, time_zone: str, by_kuberay: bool = False) -> list[Object]:
    """The objects that run a job by a schedule: a CronJob that creates RayJobs, or KubeRay's own RayCronJob."""
    files = config_map(work, {})
    job = ray_job(work, files["metadata"]["name"])
    if by_kuberay:
        spec = {"schedule": schedule, "timeZone": time_zone, "jobTemplate": job["spec"]}
        return [files, {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": job["metadata"], "spec": spec}]
    files = config_map(work, {RAYJOB_FILE: json.dumps(job, indent=2, sort_keys=True)})
    return [files, *creators_rights(work), cron_job(work, files["metadata"]["name"], schedule, time_zone)]


def metadata(work: Work, name: str | None = None) -> Object:
    """Metadata of an object of a job."""
    options = work.profile.kubernetes
    found: Object = {"name": name or work.name, "labels": labels_of(work)}
    if options.namespace is not None:
        found["namespace"] = options.namespace
    return found


def labels_of(work: Work) -> dict[str, str]:
    """Labels by which a job's objects are found."""
    return {"app.kubernetes.io/name": "latentlake", "app.kubernetes.io/instance": work.name}


def config_map(work: Work, more: Mapping[str, str]) -> Object:
    """The job's files. The name tells the content, so that a run that is under way keeps the files it began with."""
    data = {JOB_FILE: work.text, PROFILE_FILE: json.dumps(work.driver, indent=2, sort_keys=True), **more}
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(work, f"{work.name}-{digest}"),
        "immutable": True,
        "data": data,
    }


def entrypoint(work: Work) -> str:
    """What the driver is: it runs the job, and tries it again where that may help."""
    guard = ["python", "-m", "clusters.entrypoint", "--retries", str(work.profile.kubernetes.retries)]
    guard += ["--patience", str(PATIENCE_S), "--"]
    run = ["python", "-m", "pipelines", "run", f"{FILES}/{JOB_FILE}", "--cluster", f"{FILES}/{PROFILE_FILE}"]
    return shlex.join([*guard, *run, *(part for change in work.overrides for part in ("--set", change))])


def ray_job(work: Work, files: str) -> Object:
    """The RayJob; `files` names the ConfigMap with the job's files.

    The operator submits the job itself (HTTPMode): there is no submitter that could be restarted, and a head that was
    lost gets the job again, which resumes.
    """
    options, environment = work.profile.kubernetes, work.profile.runtime_env
    spec: Object = {
        "entrypoint": entrypoint(work),
        "submissionMode": "HTTPMode",
        "backoffLimit": 0,
        "activeDeadlineSeconds": options.max_run_s,
    }
    if given := environment.model_dump(mode="json", exclude_defaults=True):
        spec["runtimeEnvYAML"] = json.dumps(given, sort_keys=True)  # which is YAML too
    about = metadata(work)
    if options.queue is None:
        spec |= {"preRunningDeadlineSeconds": STARTING_S, "deletionStrategy": {"deletionRules": deletion_rules(work)}}
    else:  # Kueue admits a job as a whole, and wants the cluster gone with it
        about["labels"]["kueue.x-k8s.io/queue-name"] = options.queue
        spec |= {
            "suspend": True,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": min(FAILED_S, options.keep_s),
        }
    spec["rayClusterSpec"] = ray_cluster(work, files)
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": about, "spec": spec}


def deletion_rules(work: Work) -> list[Object]:
    """When what of a finished job goes: the cluster first, then the RayJob with its status."""
    keep_s = work.profile.kubernetes.keep_s
    ends = [{"jobStatus": "SUCCEEDED"}, {"jobStatus": "FAILED"}, {"jobDeploymentStatus": "Failed"}]
    rules: list[Object] = []
    for end in ends:
        cluster_s = 0 if end == ends[0] else FAILED_S
        rules.append({"policy": "DeleteCluster", "condition": {**end, "ttlSeconds": cluster_s}})
        rules.append({"policy": "DeleteSelf", "condition": {**end, "ttlSeconds": max(keep_s, cluster_s)}})
    return rules


def ray_cluster(work: Work, files: str) -> Object:
    """The cluster. Without a queue it grows and shrinks by the second autoscaler; with one it has all its machines at once."""
    profile = work.profile
    scales = profile.kubernetes.queue is None
    labels = labels_of(work)
    spec: Object = {
        "rayVersion": work.ray_version,
        "authOptions": {"mode": "token"},  # the operator makes the token, and keeps it in a Secret
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # no actors beside the driver
            "template": head_pod(profile, labels, files),
        },
        "workerGroupSpecs": [worker_group(profile, group, labels, scales) for group in profile.worker_groups],
        "enableInTreeAutoscaling": scales,
    }
    if scales:
        amounts = {"cpu": "500m", "memory": "1Gi"}
        spec["autoscalerOptions"] = {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": max(group.idle_s for group in profile.worker_groups),
            "resources": {"requests": amounts, "limits": dict(amounts)},
            "securityContext": CONFINED,
        }
    return spec


def worker_group(profile: ClusterProfile, group: WorkerGroup, labels: Mapping[str, str], scales: bool) -> Object:
    """A group of workers. Its CPUs, GPUs and memory are those of its container's limits, and stand nowhere else."""
    spec: Object = {
        "groupName": group.name,
        "replicas": group.min if scales else group.max,
        "minReplicas": group.min if scales else group.max,
        "maxReplicas": group.max,
        "rayStartParams": {},
        "template": worker_pod(profile, group, labels),
    }
    return {**spec, "idleTimeoutSeconds": group.idle_s} if scales else spec


def creators_rights(work: Work) -> list[Object]:
    """The account of what creates the RayJobs, which may list, create and delete them in its namespace and nothing else."""
    name = creator_name(work)
    about = metadata(work, name)
    group = "rbac.authorization.k8s.io"
    subject: Object = {"kind": "ServiceAccount", "name": name}
    if work.profile.kubernetes.namespace is not None:
        subject["namespace"] = work.profile.kubernetes.namespace
    rule = {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["list", "create", "delete"]}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": about},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": about, "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": about,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    ]


def creator_name(work: Work) -> str:
    """Name of the account of what creates the RayJobs."""
    return f"{work.name}-schedule"


def cron_job(work: Work, files: str, schedule: str, time_zone: str) -> Object:
    """The CronJob, whose pod creates the RayJob and ends. A RayJob's name is that of the pod's Job, so none is created twice."""
    options = work.profile.kubernetes
    own_name = {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}}
    amounts = {"cpu": "250m", "memory": "512Mi"}
    container = {
        "name": "create",
        "image": work.profile.head.image or work.profile.image,
        "command": ["python", "-m", "clusters.kuberay.tick", f"{FILES}/{RAYJOB_FILE}"],
        "env": [{"name": "JOB_NAME", "valueFrom": own_name}],
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": CONFINED,
        "volumeMounts": [{"name": "job", "mountPath": FILES, "readOnly": True}],
    }
    pod: Object = {
        "restartPolicy": "Never",
        "serviceAccountName": creator_name(work),
        "containers": [container],
        "volumes": [{"name": "job", "configMap": {"name": files}}],
    }
    if options.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in options.image_pull_secrets]
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata(work),
        "spec": {
            "schedule": schedule,
            "timeZone": time_zone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 600,
            "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 3,
                    "activeDeadlineSeconds": 600,
                    "template": {"metadata": {"labels": labels_of(work)}, "spec": pod},
                }
            },
        },
    }
