"""Objects for KubeRay: valid by the closed schemas of its objects, by the operator's own rules, and without keys."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from crds import Schemas, close
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusters import ClusterProfile, find_secrets
from clusters.kuberay import Work, faults_of, scheduled, single
from clusters.kuberay.rules import name_faults, schedule_faults

CPU: dict[str, Any] = {"name": "cpu", "cpus": 8, "memory_mb": 32_768, "min": 1, "max": 4}
GPU: dict[str, Any] = {"name": "gpu", "cpus": 4, "gpus": 2, "spot": True, "max": 8, "idle_s": 60, "accelerator": "L4"}
PROFILE: dict[str, Any] = {
    "kind": "kuberay",
    "image": "registry.example/latentlake:1",
    "worker_groups": [CPU, {**GPU, "tolerations": [{"key": "team", "value": "ml"}], "node_selector": {"pool": "gpu"}}],
    "runtime_env": {"env_vars": {"HF_HUB_OFFLINE": "1"}},
    "shared_storage": [{"path": "/mnt/lake", "claim": "lake"}, "/models"],
    "kubernetes": {"secrets": ["s3-keys"], "service_account": "latentlake", "image_pull_secrets": ["registry"]},
}
NIGHTLY = "0 3 * * *"


def work(name: str = "docs", overrides: tuple[str, ...] = (), **changes: Any) -> Work:
    profile = ClusterProfile.model_validate({**PROFILE, **changes})
    return Work(name, f"name: {name}\n", overrides, profile, {"kind": "kuberay"}, "2.60.0")


def by_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (one for one in objects if one["kind"] == kind)
    return found


def job_of(**changes: Any) -> dict[str, Any]:
    return by_kind(single(work(**changes)), "RayJob")


def faults(objects: list[dict[str, Any]], schemas: Schemas) -> list[str]:
    return [fault for one in objects for fault in [*schemas.faults(one), *faults_of(one)]]


# schemas


@pytest.mark.parametrize("queue", [None, "team-a"])
def test_objects_are_valid(queue: str | None, schemas: Schemas):
    made = work(kubernetes={**PROFILE["kubernetes"], "queue": queue, "namespace": "ml"})
    for objects in (single(made), scheduled(made, NIGHTLY, "Europe/Berlin"), scheduled(made, NIGHTLY, "Etc/UTC", True)):
        assert faults(objects, schemas) == []
    kinds = [one["kind"] for one in scheduled(made, NIGHTLY, "Etc/UTC")]
    assert kinds == ["ConfigMap", "ServiceAccount", "Role", "RoleBinding", "CronJob"]
    created = json.loads(scheduled(made, NIGHTLY, "Etc/UTC")[0]["data"]["rayjob.json"])
    assert faults([created], schemas) == []


names = st.from_regex(r"[a-z]([-a-z0-9]{0,18}[a-z0-9])?", fullmatch=True)
machines = {"cpus": st.integers(1, 200), "memory_mb": st.integers(512, 10**6)}
tolerations = st.lists(
    st.fixed_dictionaries({"key": names}, optional={"value": names, "effect": st.just("NoSchedule")}), max_size=2
)
groups = st.fixed_dictionaries(
    {"name": names, **machines, "gpus": st.integers(0, 16), "spot": st.booleans(), "max": st.integers(1, 5)},
    optional={
        "min": st.integers(0, 1),
        "tolerations": tolerations,
        "node_selector": st.dictionaries(names, names, max_size=2),
        "image": st.just("other:1"),
        "idle_s": st.integers(1, 10**4),
    },
)
profiles = st.fixed_dictionaries(
    {
        "worker_groups": st.lists(groups, min_size=1, max_size=3, unique_by=lambda group: group["name"]),
        "head": st.fixed_dictionaries({}, optional={**machines, "tolerations": tolerations}),
        "shared_storage": st.sampled_from([[], ["/models"], [{"path": "/mnt/a", "claim": "a"}]]),
        "kubernetes": st.fixed_dictionaries(
            {},
            optional={
                "namespace": names,
                "service_account": names,
                "secrets": st.lists(names, max_size=3),
                "queue": names,
                "retries": st.integers(0, 9),
                "keep_s": st.integers(0, 10**6),
                "max_run_s": st.integers(60, 10**6),
            },
        ),
    }
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=profiles, name=names)
def test_objects_of_any_profile_are_valid(changes: dict[str, Any], name: str, schemas: Schemas):
    made = work(name, **changes)
    assert faults([*single(made), *scheduled(made, NIGHTLY, "Etc/UTC")], schemas) == []


@settings(max_examples=50, deadline=None)
@given(changes=profiles, name=names)
def test_the_operator_takes_any_profile_and_finds_no_key(changes: dict[str, Any], name: str):
    made = work(name, **changes)
    objects = [*single(made), *scheduled(made, NIGHTLY, "Etc/UTC"), *scheduled(made, NIGHTLY, "Etc/UTC", True)]
    assert [fault for one in objects for fault in [*faults_of(one), *find_secrets(one)]] == []


@given(st.text(st.sampled_from("abzAZ019-_. é"), min_size=1, max_size=60))
def test_a_name_is_taken_or_another_one_is_named_that_is(name: str):
    found = list(name_faults("CronJob", name))
    if re.fullmatch(r"[a-z]([-a-z0-9]{0,34}[a-z0-9])?", name):
        assert not found
        return
    assert found
    for fault in found:
        if "--name " in fault:
            assert not list(name_faults("CronJob", fault.rpartition("--name ")[2])), fault


def test_schemas_are_closed(schemas: Schemas):
    job = job_of()
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["enviroment"] = []
    job["spec"]["backofLimit"] = 1
    found = schemas.faults(job)
    assert len(found) == 2 and "enviroment" in found[0] + found[1] and "backofLimit" in found[0] + found[1]
    cron = by_kind(scheduled(work(), NIGHTLY, "Etc/UTC"), "CronJob")
    cron["spec"]["concurency"] = "Forbid"
    assert "concurency" in schemas.faults(cron)[0]


def test_closing_keeps_what_is_open():
    schema = {
        "type": "object",
        "properties": {
            "port": {"anyOf": [], "x-kubernetes-int-or-string": True},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"a": {}}},
            "labels": {"type": "object", "additionalProperties": {"type": "object", "properties": {"b": {}}}},
        },
    }
    closed = close(schema)
    assert closed["additionalProperties"] is False
    assert "additionalProperties" not in closed["properties"]["any"]
    assert closed["properties"]["labels"]["additionalProperties"]["additionalProperties"] is False
    assert closed["properties"]["port"] == {"anyOf": [{"type": "integer"}, {"type": "string"}]}


# what a RayJob says


def test_the_job_is_submitted_by_the_operator_and_retried_by_its_own_driver():
    spec = job_of(overrides=("publish.tag=it's",))["spec"]
    assert (spec["submissionMode"], spec["backoffLimit"], spec["activeDeadlineSeconds"]) == ("HTTPMode", 0, 86_400)
    words = shlex.split(spec["entrypoint"])
    assert words[:7] == ["python", "-m", "clusters.entrypoint", "--retries", "3", "--patience", "90"]
    run = ["python", "-m", "pipelines", "run", "/etc/latentlake/job.yaml", "--cluster", "/etc/latentlake/cluster.json"]
    assert words[7:] == ["--", *run, "--set", "publish.tag=it's"]


def test_the_files_are_mounted_and_named_by_their_content():
    files, job = single(work())
    assert files["immutable"] and files["data"]["job.yaml"] == "name: docs\n"
    assert json.loads(files["data"]["cluster.json"]) == {"kind": "kuberay"}
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "job", "configMap": {"name": files["metadata"]["name"]}} in head["volumes"]
    other = Work("docs", "name: docs\nx: 1\n", (), work().profile, {"kind": "kuberay"}, "2.60.0")
    assert single(other)[0]["metadata"]["name"] != files["metadata"]["name"] == single(work())[0]["metadata"]["name"]


def test_the_head_stays_and_runs_no_actors():
    head = job_of()["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["template"]["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert head["rayStartParams"]["num-cpus"] == "0"
    (container,) = head["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
    assert head["template"]["spec"]["serviceAccountName"] == "latentlake"
    assert head["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_groups_scale_by_the_second_autoscaler():
    cluster = job_of()["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["authOptions"] == {"mode": "token"}
    cpu, gpu = cluster["workerGroupSpecs"]
    assert [(one["minReplicas"], one["maxReplicas"], one["idleTimeoutSeconds"]) for one in (cpu, gpu)] == [
        (1, 4, 120),
        (0, 8, 60),
    ]
    pod = gpu["template"]["spec"]
    amounts = {"cpu": "4", "memory": "8192Mi", "nvidia.com/gpu": "2"}
    assert pod["containers"][0]["resources"] == {"requests": amounts, "limits": amounts}
    assert pod["nodeSelector"] == {"pool": "gpu"}
    taints = {one["key"]: one for one in pod["tolerations"]}
    assert taints["nvidia.com/gpu"] == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert taints["team"] == {"key": "team", "operator": "Equal", "value": "ml"}
    assert {"cloud.google.com/gke-spot", "karpenter.sh/capacity-type"} <= set(taints)
    assert (
        len(pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]) == 4
    )
    assert "tolerations" not in cpu["template"]["spec"] and "affinity" not in cpu["template"]["spec"]
    mounted = [one["mountPath"] for one in pod["containers"][0]["volumeMounts"]]
    assert mounted == ["/mnt/lake"]  # /models is in the image


def test_a_queue_admits_the_job_as_a_whole():
    job = job_of(kubernetes={"queue": "team-a"})
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job["spec"]["suspend"] and job["spec"]["shutdownAfterJobFinishes"]
    cluster = job["spec"]["rayClusterSpec"]
    assert not cluster["enableInTreeAutoscaling"] and "autoscalerOptions" not in cluster
    assert [(one["replicas"], one["minReplicas"]) for one in cluster["workerGroupSpecs"]] == [(4, 4), (8, 8)]


def test_what_is_finished_goes_the_cluster_first():
    rules = job_of(kubernetes={"keep_s": 60})["spec"]["deletionStrategy"]["deletionRules"]
    after = {(one["policy"], *map(str, one["condition"].values())) for one in rules}
    assert ("DeleteCluster", "SUCCEEDED", "0") in after and ("DeleteSelf", "SUCCEEDED", "60") in after
    assert ("DeleteCluster", "FAILED", "600") in after and ("DeleteSelf", "Failed", "600") in after


# the operator's rules

Change = Callable[[dict[str, Any]], Any]


def cluster(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["rayClusterSpec"]
    return found


def head_box(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cluster(job)["headGroupSpec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda job: job["metadata"].update(name="a" * 48), "has 48 characters, and at most 47"),
        (lambda job: job["metadata"].update(name="docs_v2.1"), "--name docs-v2-1"),
        (lambda job: job["metadata"].update(name="2docs"), "--name job-2docs"),
        (lambda job: job["spec"].update(suspend=True), "`suspend` needs `shutdownAfterJobFinishes: true`"),
        (lambda job: job["spec"].update(ttlSecondsAfterFinished=5), "`ttlSecondsAfterFinished` needs"),
        (lambda job: job["spec"].update(ttlSecondsAfterFinished=-5), "is negative"),
        (lambda job: job["spec"].update(backoffLimit=1, clusterSelector={"ray.io/cluster": "c"}), "makes another"),
        (lambda job: job["spec"].update(backoffLimit=1, submissionMode="InteractiveMode"), "`InteractiveMode`"),
        (lambda job: job["spec"].update(backoffLimit=-1), "`backoffLimit` is negative"),
        (
            lambda job: job["spec"].update(submissionMode="SidecarMode", submitterPodTemplate={}),
            "takes no `submitterPod",
        ),
        (
            lambda job: job["spec"].update(submissionMode="SidecarMode", submitterConfig={}),
            "takes no `submitterConfig`",
        ),
        (
            lambda job: job["spec"].update(submissionMode="SidecarMode", clusterSelector={"a": "b"}),
            "`SidecarMode` cannot",
        ),
        (lambda job: job["spec"].update(suspend=True, clusterSelector={"a": "b"}), "beside `clusterSelector`"),
        (lambda job: job["spec"].update(activeDeadlineSeconds=0), "above 0"),
        (lambda job: job["spec"].update(runtimeEnvYAML="[1]"), "is no mapping"),
        (lambda job: job["spec"].pop("rayClusterSpec"), "is needed"),
        (lambda job: job["spec"].update(shutdownAfterJobFinishes=True), "`deletionRules` cannot stand beside"),
        (lambda job: job["spec"]["deletionStrategy"].update(onSuccess={"policy": "DeleteSelf"}), "beside `onSuccess`"),
        (lambda job: job["spec"].update(deletionStrategy={}), "needs `deletionRules`, or both"),
        (
            lambda job: job["spec"]["deletionStrategy"]["deletionRules"][0].update(policy="DeleteWorkers"),
            "the autoscaler",
        ),
        (
            lambda job: job["spec"]["deletionStrategy"]["deletionRules"][1].update(policy="DeleteCluster"),
            "a second rule",
        ),
        (
            lambda job: job["spec"]["deletionStrategy"]["deletionRules"][0]["condition"].update(ttlSeconds=10**6),
            "order",
        ),
        (lambda job: job["spec"]["deletionStrategy"]["deletionRules"][0]["condition"].pop("jobStatus"), "give one of"),
        (
            lambda job: cluster(job)["headGroupSpec"].update(resources={"CPU": "1"}),
            "`resources` or in `rayStartParams` (num",
        ),
        (lambda job: cluster(job)["headGroupSpec"]["template"]["spec"].update(restartPolicy="Always"), "must be Never"),
        (
            lambda job: cluster(job)["workerGroupSpecs"][0]["template"]["spec"].update(restartPolicy="OnFailure"),
            "cpu: restartPolicy must be Never with autoscaler v2",
        ),
        (lambda job: cluster(job)["workerGroupSpecs"][0]["rayStartParams"].update(labels="a=b"), "labels stand in"),
        (lambda job: cluster(job)["workerGroupSpecs"][0].update(suspend=True), "the autoscaler"),
        (lambda job: cluster(job)["workerGroupSpecs"][0].update(minReplicas=9), "`minReplicas` 9 is more"),
        (lambda job: cluster(job)["workerGroupSpecs"][0].update(groupName="gpu"), "two worker groups"),
        (lambda job: cluster(job)["workerGroupSpecs"][0]["template"]["spec"].update(containers=[]), "no container"),
        (lambda job: cluster(job)["autoscalerOptions"].update(version="v1"), "needs autoscaler v2"),
        (lambda job: cluster(job).update(rayVersion="2.51.0"), "needs Ray 2.52 or later"),
        (lambda job: cluster(job).pop("rayVersion"), "needs `rayVersion`"),
        (
            lambda job: head_box(job)["env"].append({"name": "RAY_enable_autoscaler_v2", "value": "1"}),
            "one of `autoscalerOptions.version` and",
        ),
        (lambda job: head_box(job)["env"].append({"name": "RAY_REDIS_ADDRESS", "value": "r"}), "`gcsFaultTolerance"),
    ],
)
def test_what_the_operator_would_refuse_is_refused(change: Change, told: str):
    job = copy.deepcopy(job_of())
    assert not list(faults_of(job))
    change(job)
    assert any(told in fault for fault in faults_of(job)), list(faults_of(job))


def test_a_schedules_name_leaves_room_for_that_of_its_jobs():
    made = scheduled(work("a" * 37), NIGHTLY, "Etc/UTC")
    assert any("CronJob 'aaa" in fault and "at most 36" in fault for one in made for fault in faults_of(one))
    assert not [fault for one in scheduled(work("a" * 36), NIGHTLY, "Etc/UTC") for fault in faults_of(one)]


def test_a_config_map_holds_a_mebibyte():
    large = Work("docs", "#" * 2**20, (), work().profile, {}, "2.60.0")
    assert any("1024 KiB" in fault for one in single(large) for fault in faults_of(one))


@pytest.mark.parametrize(
    "schedule", [NIGHTLY, "*/15 0-6,22 * * mon-fri", "0 0 1 jan,jul ?", "@daily", "59 23 31 12 7", "0 */2 * * *"]
)
def test_schedules(schedule: str):
    assert not list(schedule_faults({"schedule": schedule}))


@pytest.mark.parametrize(
    "schedule",
    [
        *("0 3 * *", "60 3 * * *", "0 24 * * *", "0 3 0 * *", "0 3 * 13 *", "0 3 * * 8", "5-1 * * * *", "*/0 * * * *"),
        *(
            "0 3 * * funday",
            "0 0 3 * * *",
            "@often",
            "1-2-3 * * * *",
            "TZ=UTC 0 3 * * *",
            "0 3 * * 1,",
            "-1 * * * *",
            "",
        ),
    ],
)
def test_what_is_no_schedule(schedule: str):
    assert list(schedule_faults({"schedule": schedule}))
