"""A real Prometheus watches a run on Ray: the rules work, and every expression of the dashboard shows something."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines"))

from job_maker import make_job, run, write_texts
from ray_cluster import free_ports

from clusters import ClusterProfile

INFRA = Path(__file__).parent.parent.parent / "infra" / "observability"
WAIT_S = 60

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def prometheus(ray_session: None, tmp_path: Path) -> Iterator[httpx.Client]:
    """A Prometheus that scrapes the session's Ray each second, with the rules."""
    import ray

    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no `prometheus` on PATH: install Debian's `prometheus`, or Prometheus itself")
    targets = [f"127.0.0.1:{node['MetricsExportPort']}" for node in ray.nodes() if node["Alive"]]
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(INFRA / "alerts.yml")],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": targets}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    (port,) = free_ports(1)
    words = [f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [program, *words, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as client:
                until = time.monotonic() + WAIT_S
                while not is_up(client):
                    assert server.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
                    time.sleep(0.5)
                yield client
        finally:
            server.kill()
            server.wait(60)


def is_up(client: httpx.Client) -> bool:
    """Whether it answers, and has scraped."""
    try:
        return bool(ask(client, "query", query="up == 1")["result"])
    except httpx.TransportError:
        return False


def ask(client: httpx.Client, what: str, **parameters: Any) -> Any:
    answer = client.get(f"/{what}", params=parameters).json()
    assert answer["status"] == "success", answer
    return answer["data"]


def expressions() -> dict[str, str]:
    """Expressions of the dashboard, as Grafana would send them, by panel."""
    panels = json.loads((INFRA / "dashboard.json").read_text())["panels"]
    return {
        f"{panel['title']} {number}": target["expr"].replace("$__rate_interval", "10s").replace("$table", "seen")
        for panel in panels
        for number, target in enumerate(panel["targets"])
    }


def test_the_dashboard_shows_a_run_and_the_rules_work(prometheus: httpx.Client, tmp_path: Path):
    texts = {f"{n:03}.txt": f"text number {n}" for n in range(100)} | {"empty.txt": ""}
    source = write_texts(tmp_path / "in", texts)
    embed = {"column": "h", "family": "hashing", "dim": 16, "delay_ms": 100, "pool": {"min": 1, "max": 1}}
    job = make_job(tmp_path, source, [embed], table={"name": "seen"}, shard={"max_objects": 10})
    began = time.time()
    run({**job, "gates": {"max_reject_rate": 0.5}}, profile=ClusterProfile(price_per_hour=1), runner="ray")
    until = time.monotonic() + WAIT_S
    while True:
        window = {"start": began, "end": time.time(), "step": "1s"}
        shown = {
            name: ask(prometheus, "query_range", query=text, **window)["result"] for name, text in expressions().items()
        }
        if all(shown.values()) or time.monotonic() > until:
            break
        time.sleep(1)
    assert [name for name, found in shown.items() if not found] == []
    (fastest,) = [max(float(value) for _, value in line["values"]) for line in shown["Rows per second 0"]]
    assert 1 < fastest < 12  # of 10 that the model makes
    groups = ask(prometheus, "rules")["groups"]
    assert {
        (rule["name"], rule["health"]) for group in groups for rule in group["rules"] if rule["health"] != "ok"
    } == set()
    firing = ask(prometheus, "query", query='ALERTS{alertstate="firing", table="seen"}')["result"]
    assert firing == []
