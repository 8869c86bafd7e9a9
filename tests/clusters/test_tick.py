"""What a CronJob runs, against a server that answers as the API server does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clusters.kuberay.tick import Cluster, create

JOB: dict[str, Any] = {"kind": "RayJob", "metadata": {"name": "docs", "labels": {"app.kubernetes.io/instance": "docs"}}}
ALL = "/apis/ray.io/v1/namespaces/ml/rayjobs"


class Api(BaseHTTPRequestHandler):
    """RayJobs of one namespace."""

    jobs: dict[str, dict[str, Any]]
    refuses: bool

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        assert (path, query) == (ALL, "labelSelector=app.kubernetes.io%2Finstance%3Ddocs")
        self.reply(403 if self.refuses else 200, {"items": list(self.jobs.values())})

    def do_POST(self) -> None:
        found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = found["metadata"]["name"]
        if name in self.jobs or found["metadata"]["namespace"] != "ml":
            return self.reply(409, {})
        self.jobs[name] = found
        return self.reply(201, found)

    def do_DELETE(self) -> None:
        self.reply(200, self.jobs.pop(self.path.removeprefix(f"{ALL}/")))

    def reply(self, code: int, body: dict[str, Any]) -> None:
        code = code if self.headers["Authorization"] == "Bearer t" else 401
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def jobs() -> dict[str, dict[str, Any]]:
    return {}


@pytest.fixture
def cluster(jobs: dict[str, dict[str, Any]]) -> Iterator[Cluster]:
    handler = type("Handler", (Api,), {"jobs": jobs, "refuses": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Cluster(f"http://127.0.0.1:{server.server_port}", "ml", "t", False)
    server.shutdown()
    thread.join()
    server.server_close()


def job(name: str, **status: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": status}


def test_a_tick_creates_a_job_of_its_own_name(cluster: Cluster, jobs: dict[str, Any]):
    jobs["docs-1"] = job("docs-1", jobDeploymentStatus="Failed", jobStatus="FAILED")
    assert create(JOB, "docs-2", cluster) == "RayJob 'docs-2' is created"
    assert jobs["docs-2"]["metadata"] == {**JOB["metadata"], "name": "docs-2", "namespace": "ml"}


def test_a_second_try_of_a_tick_creates_nothing(cluster: Cluster, jobs: dict[str, Any]):
    create(JOB, "docs-1", cluster)
    assert create(JOB, "docs-1", cluster) == "RayJob 'docs-1' exists already: nothing was created"
    assert list(jobs) == ["docs-1"]


@pytest.mark.parametrize("status", [{}, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}])
def test_a_tick_waits_for_the_last_one(status: dict[str, str], cluster: Cluster, jobs: dict[str, Any]):
    jobs["docs-1"] = job("docs-1", **status)
    assert create(JOB, "docs-2", cluster) == "RayJob 'docs-1' is still under way: nothing was created"
    assert list(jobs) == ["docs-1"]


def test_a_stopped_job_goes_with_its_cluster(cluster: Cluster, jobs: dict[str, Any]):
    jobs["docs-1"] = job("docs-1", jobDeploymentStatus="Complete", jobStatus="STOPPED")
    assert (
        create(JOB, "docs-2", cluster) == "RayJob 'docs-1', which was stopped, is deleted; RayJob 'docs-2' is created"
    )
    assert list(jobs) == ["docs-2"]


def test_a_refusal_is_told(cluster: Cluster):
    wrong = Cluster(cluster.url, "ml", "other", False)
    with pytest.raises(RuntimeError, match=f"GET {ALL}: 401"):
        create(JOB, "docs-1", wrong)


def test_a_pod_finds_its_server(tmp_path: Path):
    (tmp_path / "token").write_text("t\n")
    (tmp_path / "namespace").write_text("ml")
    found = Cluster.around({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path)
    assert found == Cluster("https://10.0.0.1:443", "ml", "t", str(tmp_path / "ca.crt"))
    six = Cluster.around({"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path)
    assert six.url == "https://[fd00::1]:443"
