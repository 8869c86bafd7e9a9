"""The example DAGs, run by `airflow dags test` on a real Ray cluster (`with_ray.py` starts it)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from airflow_maker import DAGS, AirflowHome
from doc_commands import commands
from latentlake_airflow.client.jobs import JobServer

pytestmark = pytest.mark.skipif("RAY_JOBS_ADDRESS" not in os.environ, reason="no cluster: use `make test-airflow`")
PAGE = DAGS.parent.parent.parent / "docs" / "airflow.md"


@pytest.fixture
def home() -> Iterator[AirflowHome]:
    """All examples but those that need a scheduler."""
    with tempfile.TemporaryDirectory(prefix="la", dir="/tmp") as folder:
        names = [path.stem for path in DAGS.glob("*.py")]
        made = AirflowHome(Path(folder), tuple(names))
        made.run("db", "migrate")
        yield made


@pytest.fixture
def server() -> Iterator[JobServer]:
    with JobServer(os.environ["RAY_JOBS_ADDRESS"], Path(os.environ["RAY_JOBS_TOKEN"]).read_text().strip()) as made:
        yield made


def test_every_dag_loads_also_that_of_the_page(home: AirflowHome):
    (code,) = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (home.dags / "page.py").write_text(code)
    home.run("dags", "reserialize")
    assert "No data found" in home.run("dags", "list-import-errors")
    found = {dag["dag_id"] for dag in json.loads(last_json(home.run("dags", "list", "--output", "json")))}
    assert found == {path.stem for path in DAGS.glob("*.py")} | {"nightly"}


def last_json(text: str) -> str:
    return text[text.index("[{") :]


def test_the_nightly_run_a_backfill_and_upkeep(home: AirflowHome, server: JobServer):
    told = run_the_quickstart(home)
    assert "'state': 'published'" in told or '"state": "published"' in told
    assert "state=success" in told
    for day in ("2026-11-25", "2026-11-26"):
        assert "state=success" in home.run("dags", "test", "backfill_events", day)
    ids = {job.submission_id: job for job in server.list()}
    assert {f"backfill_events.embed_day@{day}@1" for day in ("2026-11-25", "2026-11-26")} <= set(ids)
    # A slot that is done is not run again; its report comes from the log.
    again = home.run("dags", "test", "backfill_events", "2026-11-26")
    assert "SUCCEEDED already; nothing was submitted" in again and "state=success" in again
    assert "state=success" in home.run("dags", "test", "weekly_upkeep")
    everything = told + again + json.dumps([vars(job) for job in server.list()], default=str)
    assert home.token not in everything and home.token not in stored(home)


def run_the_quickstart(home: AirflowHome) -> str:
    """The commands of the pages, with the address of this cluster; what they print. The connection is theirs."""
    del home.environment["AIRFLOW_CONN_RAY_JOBS_DEFAULT"]
    environment = {**home.environment, "AIRFLOW__CORE__TEST_CONNECTION": "Enabled", "RAY_AUTH_TOKEN": home.token}
    added = [*commands("docs/airflow.md", "Connection"), "airflow connections delete ray_jobs_default"]
    script = "\n".join([*added, *commands("docs/quickstart.md", "From Airflow")])
    for name in ("http://HEAD:8265", "ray-head"):
        script = script.replace(name, os.environ["RAY_JOBS_ADDRESS"])
    done = subprocess.run(
        ["bash", "-ec", script],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    connection = {"conn_type": "ray_jobs", "host": os.environ["RAY_JOBS_ADDRESS"], "password": home.token}
    home.environment["AIRFLOW_CONN_RAY_JOBS_DEFAULT"] = json.dumps(connection)
    return done.stdout


def stored(home: AirflowHome) -> str:
    """All that Airflow has written, logs and database."""
    files = [path for path in home.folder.rglob("*") if path.is_file()]
    return "".join(path.read_bytes().decode("latin-1") for path in files)


def test_a_program_without_latentlake(home: AirflowHome):
    told = home.run("dags", "test", "plain_ray_job")
    assert "the sum of squares is 285" in told and "state=success" in told


def test_a_worker_that_is_lost_leaves_its_job_to_the_next_try(home: AirflowHome, server: JobServer):
    program = (
        f"import os, time\nwhile not os.path.exists({str(home.folder / 'go')!r}): time.sleep(1)\nprint('it is done')"
    )
    (home.dags / "programs" / "count.py").write_text(program)
    date = "2026-11-01"
    submission_id = f"plain_ray_job.count@{date}T000000@1"
    lost = home.start("lost.log", "dags", "test", "plain_ray_job", date)
    wait_until(lambda: submission_id in {job.submission_id for job in server.list()})
    os.killpg(lost.pid, signal.SIGKILL)
    lost.wait()
    following = home.start("next.log", "dags", "test", "plain_ray_job", date)
    told = home.folder / "next.log"
    wait_until(lambda: re.search(rf"{submission_id} at \S+: (PENDING|RUNNING) already", told.read_text()))
    (home.folder / "go").touch()
    assert following.wait(300) == 0
    assert "it is done" in told.read_text() and "state=success" in told.read_text()
    attempts = [
        job.submission_id for job in server.list() if job.submission_id.startswith(f"plain_ray_job.count@{date}")
    ]
    assert attempts == [submission_id]


def wait_until(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < until
        time.sleep(1)


def test_a_refused_gate_fails_at_once_with_its_reason(home: AirflowHome, server: JobServer):
    job = home.dags / "jobs" / "products.yaml"
    job.write_text(job.read_text().replace("max_reject_rate: 0.05", "max_reject_rate: 0.0"))
    home.write_products("a red shoe", "")  # an empty text is rejected
    told = home.try_run("dags", "test", "nightly_products").stdout
    assert "exit code 3" in told and "GateRefused: " in told and "state=failed" in told
    assert len([j for j in server.list() if j.metadata.get("dag_run_id", "x") in told]) == 1


def test_a_wrong_job_fails_at_once_with_its_reason(home: AirflowHome):
    job = home.dags / "jobs" / "products.yaml"
    job.write_text(job.read_text().replace("modality: text", "modality: txt"))
    told = home.try_run("dags", "test", "nightly_products").stdout
    assert "exit code 2" in told and "InvalidSpec: " in told and "state=failed" in told
