"""What a CronJob runs: it creates the RayJob of this tick, unless the last one is still under way.

`python -m clusters.kuberay.tick RAYJOB.json`, in a pod whose account may list, create and delete RayJobs. A CronJob alone would
not see an overlap: what it runs ends as soon as the RayJob exists.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ENDED = frozenset({"Complete", "Failed"})
TIMEOUT_S = 30.0
EXISTS = 409
TOLD = 500  # characters of an answer that an error repeats


@dataclass(frozen=True)
class Cluster:
    """The API server that a pod finds, and the pod's account there."""

    url: str
    namespace: str
    token: str
    authority: str | bool  # a file of certificates; False: the server is not checked, for tests on loopback

    @classmethod
    def around(cls, environment: Mapping[str, str], account: Path = ACCOUNT) -> Cluster:
        """As Kubernetes tells every pod."""
        host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
        url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        namespace, token = ((account / name).read_text(encoding="ascii").strip() for name in ("namespace", "token"))
        return cls(url, namespace, token, str(account / "ca.crt"))


def create(job: dict[str, Any], name: str, cluster: Cluster) -> str:
    """Create a RayJob of that name; what was done, in words. Raises `httpx.HTTPError`, `RuntimeError` for a refusal.

    Jobs of the same kind that were stopped by hand are deleted: no rule of KubeRay does that, and their clusters stay.
    """
    instance = job["metadata"]["labels"]["app.kubernetes.io/instance"]
    headers = {"Authorization": f"Bearer {cluster.token}"}
    with httpx.Client(base_url=cluster.url, headers=headers, verify=cluster.authority, timeout=TIMEOUT_S) as client:
        jobs = f"/apis/ray.io/v1/namespaces/{cluster.namespace}/rayjobs"
        found = answer(client.get(jobs, params={"labelSelector": f"app.kubernetes.io/instance={instance}"}))["items"]
        said = []
        for one in found:
            status, other = one.get("status", {}), one["metadata"]["name"]
            if other == name:
                return f"RayJob '{name}' exists already: nothing was created"
            if status.get("jobDeploymentStatus") not in ENDED:
                return f"RayJob '{other}' is still under way: nothing was created"
            if status.get("jobStatus") == "STOPPED":
                answer(client.delete(f"{jobs}/{other}"))
                said.append(f"RayJob '{other}', which was stopped, is deleted")
        named = {**job, "metadata": {**job["metadata"], "name": name, "namespace": cluster.namespace}}
        made = client.post(jobs, json=named)
        if made.status_code == EXISTS:
            return f"RayJob '{name}' exists already: nothing was created"
        answer(made)
        return "; ".join([*said, f"RayJob '{name}' is created"])


def answer(found: httpx.Response) -> Any:
    """What the API server says. Raises `RuntimeError` for a refusal."""
    if found.is_error:
        raise RuntimeError(f"{found.request.method} {found.request.url.path}: {found.status_code} {found.text[:TOLD]}")
    return found.json()


def main() -> int:
    """Create the RayJob in the file that is named."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        print(create(job, os.environ["JOB_NAME"], Cluster.around(os.environ)))
    except (httpx.HTTPError, RuntimeError) as failure:
        print(f"the RayJob was not created: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
