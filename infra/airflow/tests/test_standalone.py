"""A scheduled run, the DAG that an asset's event starts, and an approval, under `airflow standalone` on a real Ray cluster."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow_maker import AirflowHome
from airflow_server import AirflowServer
from latentlake_airflow.client.jobs import JobServer

RUNS = int(os.environ.get("RUNS", "1"))
RUN_S = 600  # in which a run is over

pytestmark = pytest.mark.skipif("RAY_JOBS_ADDRESS" not in os.environ, reason="no cluster: use `make test-airflow`")


@pytest.fixture(scope="module")
def server() -> Iterator[AirflowServer]:
    """The nightly DAG every minute."""
    with tempfile.TemporaryDirectory(prefix="la", dir="/tmp") as folder:
        home = AirflowHome(Path(folder), ("nightly_products", "products_published", "gated_upgrade", "plain_ray_job"))
        (home.dags / "programs" / "count.py").write_text("import time; print('at work', flush=True); time.sleep(600)")
        nightly = home.dags / "nightly_products.py"
        nightly.write_text(nightly.read_text().replace('"0 3 * * *"', '"* * * * *"'))
        with AirflowServer(home) as made:
            yield made


def test_scheduled_runs_and_the_runs_that_their_assets_start(server: AirflowServer):
    server.unpause("products_published")
    server.unpause("nightly_products")
    counted = server.wait(
        f"{RUNS} scheduled runs", lambda: finished(server, "nightly_products", RUNS), RUN_S * (RUNS + 1)
    )
    server.ask("PATCH", "/dags/nightly_products", {"is_paused": True})
    assert all(run.startswith("scheduled__") for run in counted)
    first, *others = sorted(counted)
    states = [server.returned("nightly_products", quote(run), "embed")["state"] for run in (first, *others)]
    assert states == ["published"] + ["unchanged"] * len(others)
    told = server.log_of("nightly_products", quote(first), "embed")
    assert "nightly_products.embed@" in told and "rows_written" in told and server.home.token not in told
    events = server.ask("GET", "/assets/events?limit=100")["asset_events"]
    told_by = {event["source_run_id"]: event["extra"] for event in events}
    assert set(counted) <= set(told_by)
    assert {(facts["table"], facts["version"], facts["tag"]) for facts in told_by.values()} == {("products", 1, "prod")}
    server.wait("a run for every event", lambda: all_used(server), RUN_S)
    (started, *_) = server.wait("the asset's run", lambda: finished(server, "products_published", 1), RUN_S)
    assert started.startswith("asset_triggered__")
    assert "version 1, tag prod, published" in server.log_of("products_published", quote(started), "tell")


def finished(server: AirflowServer, dag_id: str, count: int) -> dict[str, str]:
    """The runs of a DAG that are over, once there are so many; none may have failed."""
    over = {run: state for run, state in server.runs(dag_id).items() if state in ("success", "failed")}
    assert "failed" not in over.values(), over
    return over if len(over) >= count else {}


def all_used(server: AirflowServer) -> bool:
    """Whether each event of an asset has started a run."""
    return all(event["created_dagruns"] for event in server.ask("GET", "/assets/events?limit=100")["asset_events"])


@pytest.mark.parametrize("answer", ["Reject", "Approve"])
def test_an_upgrade_waits_for_a_person(server: AirflowServer, answer: str):
    """It needs the version of `prod` that the test before has made."""
    server.unpause("gated_upgrade")
    run: Any = server.ask("POST", "/dags/gated_upgrade/dagRuns", {"logical_date": None})["dag_run_id"]
    at = f"/dags/gated_upgrade/dagRuns/{quote(run)}/taskInstances"
    waiting = ("awaiting_input", "deferred")
    server.wait(
        "the question", lambda: server.ask("GET", f"{at}/approve")["state"] in waiting and asked(server, at), RUN_S
    )
    assert server.ask("GET", f"{at}/promote")["state"] is None
    version = server.returned("gated_upgrade", quote(run), "candidate")["version"]
    subject = server.ask("GET", f"{at}/approve/-1/hitlDetails")["subject"]
    assert subject == f"Publish version {version} of products?"
    server.ask("PATCH", f"{at}/approve/-1/hitlDetails", {"chosen_options": [answer]})
    server.wait("the end", lambda: server.runs("gated_upgrade")[run] in ("success", "failed"), RUN_S)
    assert server.runs("gated_upgrade")[run] == "success"
    if answer == "Reject":
        assert server.ask("GET", f"{at}/promote")["state"] == "skipped"
    else:
        moved = server.returned("gated_upgrade", quote(run), "promote")
        assert (moved["tag"], moved["version"]) == ("prod", version) and moved["before"] < version


def asked(server: AirflowServer, at: str) -> bool:
    return bool(server.api.get(f"/api/v2{at}/approve/-1/hitlDetails").is_success)


def test_a_waiting_task_that_is_marked_as_failed_stops_its_job(server: AirflowServer):
    server.unpause("plain_ray_job")
    run = server.ask("POST", "/dags/plain_ray_job/dagRuns", {"logical_date": None})["dag_run_id"]
    at = f"/dags/plain_ray_job/dagRuns/{quote(run)}/taskInstances/count"
    with JobServer(os.environ["RAY_JOBS_ADDRESS"], server.home.token) as cluster:
        server.wait("the task", lambda: server.ask("GET", at)["state"] == "deferred", RUN_S)
        (job,) = [job for job in cluster.list() if job.metadata.get("dag_run_id") == run]
        server.wait("the job", lambda: cluster.info(job.submission_id).status == "RUNNING", RUN_S)
        server.ask("PATCH", at, {"new_state": "failed"})
        server.wait("its end", lambda: cluster.info(job.submission_id).is_over, RUN_S)
        assert cluster.info(job.submission_id).status in ("STOPPED", "FAILED")


def test_the_token_is_written_nowhere(server: AirflowServer):
    """Neither in a log nor in the database."""
    files = [path for path in server.home.folder.rglob("*") if path.is_file()]
    assert any(path.name == "airflow.db" for path in files) and any(path.suffix == ".log" for path in files)
    assert not [path for path in files if server.home.token.encode() in path.read_bytes()]
