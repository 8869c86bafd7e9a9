"""A service that embeds goes down in the middle of a run through Ray: for a while, and for too long."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from comparison import take_snapshot
from hosted_service import FAMILY, Service
from job_maker import make_job
from processes import Driver
from third_party import write_package

WAIT_S = 300
TEXTS = 400


def job_of(folder: Path, url: str, bound_s: float) -> dict[str, Any]:
    (folder / "in").mkdir()
    for n in range(TEXTS):
        (folder / "in" / f"{n:04}.txt").write_text(f"text number {n}")
    hosted = {"column": "v", "family": "hosted", "base_url": url}
    source = {"kind": "files", "uri": str(folder / "in")}
    limits = {"unavailable_timeout_s": bound_s}
    return make_job(folder, source, [hosted], shard={"max_objects": 50}, limits=limits)


def drive(folder: Path, job: dict[str, Any]) -> Driver:
    package = folder / "site"
    return Driver(folder, job, python_path=package if package.exists() else write_package(package, FAMILY))


def wait_for(service: Service, texts: int, driver: Driver) -> None:
    until = time.monotonic() + WAIT_S
    while len(service.embedded) < texts:
        assert time.monotonic() < until and driver.process.poll() is None, driver.log
        time.sleep(0.05)


@pytest.mark.fault("a model's service is down for a while", "it is asked again; nothing is rejected; the run ends")
def test_down_for_a_while(tmp_path: Path) -> None:
    with Service(takes_s=0.05) as service:
        job = job_of(tmp_path, service.url, 120)
        driver = drive(tmp_path, job)
        wait_for(service, 100, driver)
        service.down_until = time.monotonic() + 5
        report = driver.succeed(WAIT_S)
        assert (report["counts"]["embedded"], report["counts"]["rejected"]) == (TEXTS, 0)
        assert report["model_rows_per_s"] is None and service.most > 1
        assert sorted(service.embedded) == sorted(f"text number {n}" for n in range(TEXTS))  # each once
        assert service.refused


@pytest.mark.fault("a model's service stays down", "exit 1, nothing rejected; the next run resumes finished shards")
def test_down_for_too_long(tmp_path: Path) -> None:
    with Service(takes_s=0.05) as service:
        job = job_of(tmp_path, service.url, 3)
        driver = drive(tmp_path, job)
        wait_for(service, 150, driver)
        service.down = 10**6
        assert driver.wait(WAIT_S) == 1
        assert "limits.unavailable_timeout_s" in driver.log
        service.down = 0
        report = drive(tmp_path, job).succeed(WAIT_S)
        assert report["run_id"] == driver.report["run_id"] and report["shards_taken_over"] >= 1
        assert (report["counts"]["embedded"], report["counts"]["rejected"]) == (TEXTS, 0)
        assert len(take_snapshot(job).rows) == TEXTS
