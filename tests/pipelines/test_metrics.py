"""Metrics: what a run counts, and what Ray exports of it to Prometheus."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from job_maker import HASHING, make_job, open_table, run
from ray.exceptions import RaySystemError

from clusters import Capacity, ClusterProfile, Node
from pipelines.flow.facts import fill_of
from pipelines.flow.runners import pools
from pipelines.flow.runners import ray as ray_runner
from pipelines.flow.runners.pools import PoolGauges
from pipelines.planning.pools import Pool
from pipelines.telemetry import metrics
from pipelines.telemetry.logs import WorkerLogs
from pipelines.telemetry.metrics import METRICS, Meter

SAMPLE = re.compile(r"^(ray_latentlake_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
SCRAPES_S = 60
TABLE = "watched"
RAYS_OWN = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}


class Scrapes:
    """What Prometheus would have read, as a Ray's nodes offer it: the largest value of each series."""

    def __init__(self) -> None:
        import ray

        self.urls = [f"http://127.0.0.1:{node['MetricsExportPort']}/metrics" for node in ray.nodes() if node["Alive"]]
        self.largest: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._scrape_on)

    def __enter__(self) -> Scrapes:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def scrape(self) -> None:
        for url in self.urls:
            with urllib.request.urlopen(url, timeout=30) as answer:
                text = answer.read().decode()
            for name, told, value in SAMPLE.findall(text):
                if f'table="{TABLE}"' not in told:
                    continue  # of another test's run
                labels = {
                    key: value
                    for key, value in LABEL.findall(told)
                    if key not in RAYS_OWN and not key.startswith("otel")
                }
                key = (name, frozenset(labels.items()))
                self.largest[key] = max(self.largest.get(key, 0.0), float(value))

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.largest}

    def value(self, name: str, **labels: str) -> float:
        return self.largest[name, frozenset(labels.items())]

    def _scrape_on(self) -> None:
        while not self.over.wait(1):
            self.scrape()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_prometheus_finds_every_metric_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And its workers log in JSON, if the driver does."""
    monkeypatch.setattr(ray_runner, "WorkerLogs", partial(WorkerLogs, json=True))
    folder = tmp_path / "objects"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.txt").write_text(f"object number {number} of these")
    (folder / "empty.txt").write_text("")  # is rejected
    job = make_job(
        tmp_path,
        {"kind": "files", "uri": str(folder)},
        [{**HASHING, "delay_ms": 50}],
        table={"name": TABLE},
        shard={"max_objects": 10},
        gates={"max_reject_rate": 0.5},
    )
    wanted = {f"ray_{metric.name}" for metric in METRICS}
    with Scrapes() as scrapes:
        report = run(job, profile=ClusterProfile(price_per_hour=3.6), runner="ray")
        until = time.monotonic() + SCRAPES_S
        while not wanted <= scrapes.names and time.monotonic() < until:
            time.sleep(0.5)
        time.sleep(3)  # the last values come with the next report
    assert scrapes.names == wanted

    rows = open_table(job).count()
    of = {"table": TABLE, "column": "h"}
    assert scrapes.value("ray_latentlake_rows_total", **of) == rows == 40
    assert scrapes.value("ray_latentlake_objects_total", **of, outcome="embedded") == 40
    assert scrapes.value("ray_latentlake_objects_total", **of, outcome="rejected") == 1
    assert sum(scrapes.largest[key] for key in scrapes.largest if "rejects_total" in key[0]) == 1
    assert scrapes.value("ray_latentlake_read_bytes_total", table=TABLE) == report["bytes_read"]
    assert scrapes.value("ray_latentlake_tokens_total", **of) == 40 * 5
    assert scrapes.value("ray_latentlake_model_seconds_total", **of) >= 40 * 0.05
    assert scrapes.value("ray_latentlake_actors", **of) == 1
    assert scrapes.value("ray_latentlake_objects_done", table=TABLE) == 41
    assert scrapes.value("ray_latentlake_phase", table=TABLE, phase="embedding") == 1
    assert scrapes.value("ray_latentlake_runs_total", table=TABLE, state="published") == 1
    assert 0 < scrapes.value("ray_latentlake_batch_fill_ratio", **of) <= 1
    seconds = scrapes.value("ray_latentlake_machine_seconds_total", table=TABLE)
    assert scrapes.value("ray_latentlake_cost_total", table=TABLE) == pytest.approx(seconds * 3.6 / 3600)
    assert {label for key in scrapes.largest for label, _ in key[1]} == {
        "table",
        "column",
        "outcome",
        "stage",
        "phase",
        "state",
    }
    (told,) = [line for line in worker_lines() if line.get("table") == TABLE and line["event"] == "model"]
    assert (told["run_id"], told["column"], told["level"]) == (report["run_id"], "h", "info")


def worker_lines() -> Iterator[dict[str, Any]]:
    """What the workers of the session's Ray have logged as JSON."""
    import ray

    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    for path in logs.glob("worker-*.err"):
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                yield json.loads(line)


def test_without_a_ray_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "is_exported", lambda: False)
    meter = Meter("t")
    meter.add(metrics.ROWS, 5, {"column": "h"})
    meter.set(metrics.DONE, 5)
    assert not meter._made


def test_the_fill_of_batches_is_what_their_rows_take_of_the_budget():
    cost = np.array([10, 10, 10, 2])
    assert fill_of({"cost": cost}, 20) == pytest.approx(32 / 40)
    assert fill_of({"cost": np.array([50])}, 20) == 1.0  # dearer than the budget, and alone
    assert fill_of({"cost": np.array([], dtype=np.int64)}, 20) is None


def test_names_and_labels_are_few():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("latentlake_")
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert metric.labels[0] == "table" and len(metric.labels) <= 3
        assert json.dumps(metric.meaning).isascii()


class Heard(Meter):
    """A meter that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("t")
        self.told: list[tuple[str, float]] = []

    def _record(self, metric: metrics.Metric, value: float, labels: Mapping[str, str]) -> None:
        self.told.append((metric.name, value))


class Unlike:
    """A Ray Data whose insides have other names."""


def test_metrics_of_pools_never_end_an_execution(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(pools, "ray", SimpleNamespace(nodes=lambda: [{"Alive": True}, {"Alive": False}]))
    monkeypatch.setattr(pools, "LOOK_S", 0.0)
    gauges = PoolGauges(
        [Pool("h", 1, 1, 2, 1.0, 0.0, 1, "cpu")],
        Heard(),
        ClusterProfile(price_per_hour=36),
        looked_at=time.monotonic() - 10,
    )
    info = SimpleNamespace(running=2)
    operator = SimpleNamespace(get_autoscaling_actor_pools=lambda: [1], get_actor_info=lambda: info)
    source = SimpleNamespace(get_autoscaling_actor_pools=list)
    waiting = SimpleNamespace(total_enqueued_input_blocks=lambda: 3)
    monkeypatch.setattr(pools, "living_capacity", lambda: Capacity((Node(4), Node(8))))
    topology = [(source, None), (operator, waiting)]
    executor = SimpleNamespace(_topology=SimpleNamespace(items=lambda: topology))
    gauges.on_execution_step(executor)
    assert gauges.meter.told[:2] == [("latentlake_actors", 2), ("latentlake_queue_shards", 3)]
    (name, seconds), (other, cost) = gauges.meter.told[2:]
    assert name == "latentlake_machine_seconds_total" and seconds == pytest.approx(10, abs=1)
    assert other == "latentlake_cost_total" and cost == pytest.approx(seconds / 3600 * 2 * 36)  # of two nodes

    def silent() -> list[dict[str, bool]]:
        raise RaySystemError("the head does not answer")

    monkeypatch.setattr(pools.ray, "nodes", silent)
    gauges.on_execution_step(executor)
    monkeypatch.setattr(pools.ray, "nodes", list)
    gauges.on_execution_step(Unlike())
    assert "no metrics of actors and queues" in caplog.text
    told = len(gauges.meter.told)
    gauges.on_execution_step(executor)
    assert len(gauges.meter.told) == told, "it has given up"
