"""What only KubeRay's operator checks: the schemas of its objects let it through, and then nothing ever starts.

The rules are those of version 1.7 (`ray-operator/controllers/ray/utils/validation.go`), and of Kubernetes for names and
schedules. Objects are as Kubernetes has them, valid by their schemas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from clusters.groups import LABEL, LABEL_REMEDY

Object = Mapping[str, Any]

# Of what a name is part of: services and pods of a RayJob's cluster, RayJobs of a schedule.
LONGEST = {"RayJob": 47, "RayCronJob": 36, "CronJob": 36}
CONFIG_MAP_BYTES = 2**20
OLDEST_WITH_TOKENS = (2, 52)
RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")  # among the parameters of `ray start`
ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
AUTOSCALER_ENV = "RAY_enable_autoscaler_v2"
FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "weekday": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
MACROS = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}


def faults_of(found: Object) -> Iterator[str]:
    """What would be refused of an object, each with the remedy."""
    kind, about = found["kind"], found["metadata"]
    where = f"{kind} '{about['name']}'"
    faults = list(name_faults(kind, about["name"]))
    if kind == "RayJob":
        faults += job_faults(found["spec"])
    elif kind == "RayCronJob":
        faults += [*schedule_faults(found["spec"]), *job_faults(found["spec"]["jobTemplate"])]
    elif kind == "RayCluster":
        faults += cluster_faults(found["spec"])
    elif kind == "CronJob":
        faults += schedule_faults(found["spec"])
    elif kind == "ConfigMap":
        faults += size_faults(found.get("data", {}))
    yield from (f"{where}: {fault}" for fault in faults)


def name_faults(kind: str, name: str) -> Iterator[str]:
    """A name that is too long, or no DNS-1035 label."""
    if kind not in LONGEST:
        return
    if len(name) > LONGEST[kind]:
        yield f"the name has {len(name)} characters, and at most {LONGEST[kind]} are allowed; give a shorter one with --name"
    if not re.fullmatch(LABEL, name):
        fixed = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        fixed = fixed if re.match(r"[a-z]", fixed) else f"job-{fixed}".strip("-")
        shown = fixed[: LONGEST[kind]].strip("-")
        yield f"{LABEL_REMEDY}; give another name: --name {shown}"


def schedule_faults(spec: Object) -> Iterator[str]:
    """A schedule that cron does not know."""
    schedule = spec["schedule"]
    if schedule in MACROS:
        return
    parts = schedule.split()
    if len(parts) != len(FIELDS):
        yield f"schedule '{schedule}' has {len(parts)} fields; give five: minute hour day month weekday, such as '0 3 * * *'"
        return
    for text, (field, least, most) in zip(parts, FIELDS, strict=True):
        names = {name: str(number) for number, name in enumerate(NAMES.get(field, []), least)}
        if not all(is_range(part, least, most, names) for part in text.split(",")):
            yield f"schedule '{schedule}': '{text}' is not a valid {field} ({least} to {most}, '*', '1-5', '*/2', '1,3')"


def is_range(text: str, least: int, most: int, names: Mapping[str, str]) -> bool:
    """Whether a part of a schedule is a number, a name, a range of these or all, each with or without a step."""
    bounds, slash, step = text.lower().partition("/")
    if slash and not (step.isdecimal() and 0 < int(step) <= most):
        return False
    if bounds in ("*", "?"):
        return True
    ends = [names.get(end, end) for end in bounds.split("-")]
    numbers = [int(end) for end in ends if end.isascii() and end.isdecimal()]
    return len(numbers) == len(ends) <= 2 and least <= numbers[0] <= numbers[-1] <= most


def size_faults(data: Mapping[str, str]) -> Iterator[str]:
    """More than a ConfigMap holds."""
    size = sum(len(name.encode()) + len(text.encode()) for name, text in data.items())
    if size > CONFIG_MAP_BYTES:
        yield f"the job's files have {size >> 10} KiB, and a ConfigMap holds {CONFIG_MAP_BYTES >> 10}; shorten the job file"


def job_faults(spec: Object) -> Iterator[str]:
    """Rules of the spec of a RayJob."""
    shuts, selects, mode = spec.get("shutdownAfterJobFinishes"), spec.get("clusterSelector"), spec.get("submissionMode")
    if spec.get("suspend") and not shuts:
        yield "`suspend` needs `shutdownAfterJobFinishes: true`"
    if spec.get("suspend") and selects:
        yield "`suspend` cannot stand beside `clusterSelector`"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "`ttlSecondsAfterFinished` is negative"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shuts:
        yield "`ttlSecondsAfterFinished` needs `shutdownAfterJobFinishes: true`"
    if not selects and "rayClusterSpec" not in spec:
        yield "one of `rayClusterSpec` and `clusterSelector` is needed"
    if selects and mode == "SidecarMode":
        yield "`SidecarMode` cannot stand beside `clusterSelector`"
    backoff = spec.get("backoffLimit") or 0
    if backoff < 0:
        yield "`backoffLimit` is negative"
    if backoff > 0 and selects:
        yield "`backoffLimit` above 0 cannot stand beside `clusterSelector`: a retry makes another cluster"
    if backoff > 0 and mode == "InteractiveMode":
        yield "`backoffLimit` above 0 cannot stand beside `InteractiveMode`"
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "`activeDeadlineSeconds` must be above 0"
    if mode == "SidecarMode":
        yield from (
            f"`SidecarMode` takes no `{key}`" for key in ("submitterPodTemplate", "submitterConfig") if key in spec
        )
        if spec.get("rayClusterSpec", {}).get("headGroupSpec", {}).get("template", {}).get("spec", {}).get(
            "restartPolicy", "Never"
        ) not in ("", "Never"):
            yield "the head's restartPolicy must be Never in `SidecarMode`"
    yield from runtime_faults(spec.get("runtimeEnvYAML", ""))
    yield from deletion_faults(spec)
    if cluster := spec.get("rayClusterSpec"):
        yield from cluster_faults(cluster)


def runtime_faults(text: str) -> Iterator[str]:
    """A runtime environment that is no mapping. Ours is JSON, which is YAML too."""
    try:
        if text and not isinstance(json.loads(text), dict):
            yield "`runtimeEnvYAML` is no mapping"
    except ValueError:
        yield "`runtimeEnvYAML` cannot be read"


def deletion_faults(spec: Object) -> Iterator[str]:
    """Rules of what goes when a job has ended."""
    strategy = spec.get("deletionStrategy")
    if strategy is None:
        return
    rules, legacy = strategy.get("deletionRules") or [], [key for key in ("onSuccess", "onFailure") if key in strategy]
    if rules and legacy:
        yield f"`deletionRules` cannot stand beside {' and '.join(f'`{key}`' for key in legacy)}"
    if not rules and len(legacy) < 2:
        yield "`deletionStrategy` needs `deletionRules`, or both `onSuccess` and `onFailure`"
    if rules and spec.get("shutdownAfterJobFinishes"):
        yield "`deletionRules` cannot stand beside `shutdownAfterJobFinishes: true`"
    scales = spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling")
    times: dict[tuple[str, str], dict[str, int]] = {}
    for number, rule in enumerate(rules):
        policy, condition = rule["policy"], rule["condition"]
        if policy == "DeleteWorkers" and scales:
            yield f"deletionRules[{number}]: DeleteWorkers cannot stand beside the autoscaler"
        if policy in ("DeleteWorkers", "DeleteCluster") and spec.get("clusterSelector"):
            yield f"deletionRules[{number}]: {policy} cannot stand beside `clusterSelector`"
        if ("jobStatus" in condition) == ("jobDeploymentStatus" in condition):
            yield f"deletionRules[{number}]: give one of `jobStatus` and `jobDeploymentStatus`"
        end = (condition.get("jobStatus", ""), condition.get("jobDeploymentStatus", ""))
        if policy in times.setdefault(end, {}):
            yield f"deletionRules[{number}]: a second rule for {policy} at {''.join(end)}"
        times[end][policy] = condition.get("ttlSeconds", 0)
    for end, after in times.items():
        waits = [after[policy] for policy in ORDER if policy in after]
        if waits != sorted(waits):
            yield f"deletion at {''.join(end)}: {', then '.join(ORDER)} must not come in another order"


def cluster_faults(spec: Object) -> Iterator[str]:
    """Rules of the spec of a cluster."""
    head, groups, scales = spec["headGroupSpec"], spec.get("workerGroupSpecs", []), spec.get("enableInTreeAutoscaling")
    for name, group in [("head", head), *((group.get("groupName", ""), group) for group in groups)]:
        yield from group_faults(name, group)
    names = [group.get("groupName") for group in groups]
    if len(set(names)) < len(names):
        yield "two worker groups have one name"
    options = spec.get("autoscalerOptions", {})
    environment = {
        one["name"]: one.get("value") for box in containers(head)[:1] for one in box.get("env", []) if "name" in one
    }
    if not scales and environment.get(AUTOSCALER_ENV) in ("1", "true"):
        yield f"{AUTOSCALER_ENV} needs `enableInTreeAutoscaling: true`"
    if scales and "version" in options and AUTOSCALER_ENV in environment:
        yield f"give one of `autoscalerOptions.version` and {AUTOSCALER_ENV}"
    second = scales and (options.get("version") == "v2" or environment.get(AUTOSCALER_ENV) in ("1", "true"))
    for name, group in [("head", head), *((group.get("groupName", ""), group) for group in groups)]:
        if second and group["template"]["spec"].get("restartPolicy", "Never") not in ("", "Never"):
            yield f"{name}: restartPolicy must be Never with autoscaler v2"
        if scales and group.get("suspend"):
            yield f"{name}: `suspend` cannot stand beside the autoscaler"
        if not second and "idleTimeoutSeconds" in group:
            yield f"{name}: `idleTimeoutSeconds` of a group needs autoscaler v2"
    if spec.get("authOptions", {}).get("mode") == "token":
        yield from version_faults(spec.get("rayVersion", ""))
    if "gcsFaultToleranceOptions" not in spec and "RAY_REDIS_ADDRESS" in environment:
        yield "RAY_REDIS_ADDRESS needs `gcsFaultToleranceOptions`"


def containers(group: Object) -> list[Object]:
    """Containers of a group's pods."""
    return list(group["template"].get("spec", {}).get("containers", []))


def group_faults(name: str, group: Object) -> Iterator[str]:
    """Rules of the head, or of one group of workers."""
    started = group.get("rayStartParams", {})
    if not containers(group):
        yield f"{name}: there is no container"
    if group.get("resources") and (both := [key for key in RESOURCES if started.get(key)]):
        yield f"{name}: resources stand in `resources` or in `rayStartParams` ({', '.join(both)}), not in both"
    if "labels" in started:
        yield f"{name}: labels stand in `labels`, not in `rayStartParams`"
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
    if least > most:
        yield f"{name}: `minReplicas` {least} is more than `maxReplicas` {most}"


def version_faults(version: str) -> Iterator[str]:
    """A Ray that knows no tokens."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        yield f"`authOptions.mode: token` needs `rayVersion`, and '{version}' is none"
    elif (int(found[1]), int(found[2])) < OLDEST_WITH_TOKENS:
        yield f"`authOptions.mode: token` needs Ray 2.52 or later, and rayVersion is {version}"
