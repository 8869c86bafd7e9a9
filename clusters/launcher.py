"""A cluster of machines at AWS or GCP, as the file that Ray's launcher reads (`ray up`)."""

from __future__ import annotations

from typing import Any

from clusters.groups import Machine, WorkerGroup
from clusters.profile import ClusterProfile

TOKEN_FILE = "~/.ray/auth_token"  # where Ray looks for a token, and `ray get-auth-token --generate` puts one
START = "export RAY_AUTH_MODE=token; ulimit -n 65536; ray start"
HEAD = "head"


def launcher_file(name: str, profile: ClusterProfile) -> dict[str, Any]:
    """The file's content, for a profile of kind aws or gcp. The token's file is copied to the machines; its text stands nowhere."""
    options, groups = profile.launcher, profile.worker_groups
    assert options is not None, "the profile is checked"
    provider: dict[str, Any] = {"type": profile.kind, "region": options.region, "cache_stopped_nodes": False}
    if options.zone is not None:
        provider["availability_zone"] = options.zone
    if profile.kind == "gcp":
        provider["project_id"] = options.project
    here = (profile.token or "").removeprefix("file:") if (profile.token or "").startswith("file:") else TOKEN_FILE
    docker: dict[str, Any] = {"image": profile.image, "container_name": "latentlake", "pull_before_run": True}
    if profile.head.image is not None:
        docker["head_image"] = profile.head.image
    return {
        "cluster_name": name,
        "max_workers": sum(group.max for group in groups),
        "idle_timeout_minutes": max(group.idle_s for group in groups) / 60,
        "provider": provider,
        "auth": {"ssh_user": options.ssh_user},
        "docker": docker,
        "file_mounts": {TOKEN_FILE: here},
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": machine_config(profile, profile.head), "max_workers": 0},
            **{group.name: worker_type(profile, group) for group in groups},
        },
        "head_start_ray_commands": [
            "ray stop",
            f"{START} --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml --dashboard-host=127.0.0.1",
        ],
        "worker_start_ray_commands": ["ray stop", f"{START} --address=$RAY_HEAD_IP:6379"],
    }


def worker_type(profile: ClusterProfile, group: WorkerGroup) -> dict[str, Any]:
    """A group of workers, as a type of nodes."""
    found: dict[str, Any] = {
        "min_workers": group.min,
        "max_workers": group.max,
        "idle_timeout_s": group.idle_s,
        "resources": {"CPU": group.cpus, **({"GPU": group.gpus} if group.gpus else {})},
        "node_config": machine_config(profile, group),
    }
    if group.image is not None:
        found["docker"] = {"worker_image": group.image}
    return found


def machine_config(profile: ClusterProfile, machine: Machine) -> dict[str, Any]:
    """A machine, in the words of its provider."""
    spot = isinstance(machine, WorkerGroup) and machine.spot
    gpus = isinstance(machine, WorkerGroup) and machine.gpus
    image = profile.launcher.image_id if profile.launcher else None
    if profile.kind == "aws":
        found: dict[str, Any] = {"InstanceType": machine.instance_type}
        if image is not None:
            found["ImageId"] = image
        if spot:
            found["InstanceMarketOptions"] = {"MarketType": "spot"}
        return found
    found = {"machineType": machine.instance_type}
    if image is not None:
        disk: dict[str, Any] = {"boot": True, "autoDelete": True, "type": "PERSISTENT"}
        found["disks"] = [{**disk, "initializeParams": {"diskSizeGb": 100, "sourceImage": image}}]
    scheduling: list[dict[str, Any]] = [{"preemptible": True}] if spot else []
    if gpus:  # machines with GPUs cannot be moved while they run
        scheduling.append({"onHostMaintenance": "TERMINATE"})
    return {**found, "scheduling": scheduling} if scheduling else found
