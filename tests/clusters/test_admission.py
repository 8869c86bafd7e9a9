"""What goes to a cluster's job server before, or beside, a run: budgets, calibrations, and the doctor's questions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from answering import Answering, answering
from command_line import latentlake_here
from doc_commands import commands
from test_submission import write_job

from clusters import ClusterProfile, attempts
from pipelines.doctor import DO, NOT_CHECKED, OK, cluster, examine
from pipelines.job.jobfile import load_section
from pipelines.submission import prepare

TOKEN = "planted-" + "7" * 40
JOBS = "/api/jobs/"
GROUP = {"name": "cpu", "cpus": 8, "memory_mb": 32_000, "price_per_hour": 0.5}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(attempts, "POLL_S", 0.01)
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.1)
    with answering() as made:
        made.answer("GET", "/api/version", (200, {"ray_version": version("ray")}))
        made.answer("GET", JOBS, (200, []))
        yield made


def write_profile(fake: Answering, folder: Path, **more: Any) -> ClusterProfile:
    (folder / "cluster.yaml").write_text(json.dumps({"kind": "ray", "job_server": fake.address, **more}))
    return load_section(ClusterProfile, folder / "cluster.yaml")


def takes(fake: Answering, job: str, folder: Path, profile: ClusterProfile, arguments: list[str], command: str) -> None:
    """Let the cluster have the packages, and take the job, which is done at once."""
    for package in prepare(folder / "job.yaml", (), None, profile, arguments, command=command).packages:
        fake.answer("GET", f"/api/packages/gcs/{package.name}", (200, ""))
    fake.answer("POST", JOBS, (200, {}))
    info = {"submission_id": f"{job}@1", "status": "SUCCEEDED", "driver_exit_code": 0, "metadata": {}}
    fake.answer("GET", f"{JOBS}{job}@1", (200, info))
    fake.answer("GET", f"{JOBS}{job}@1/logs", (200, {"logs": "the log\n"}))


def submitted(fake: Answering) -> dict[str, Any]:
    (asked,) = [json.loads(body) for method, _, _, body in fake.asked if method == "POST"]
    return asked


def test_a_budget_is_passed_on_to_the_run(fake: Answering, tmp_path: Path):
    """By the commands of the page."""
    here, there = commands("docs/planning.md", "A budget")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a text")
    write_job(
        tmp_path, source={"kind": "files", "uri": f"{tmp_path}/in"}, table={"uri": f"{tmp_path}/lake", "name": "t"}
    )
    done = latentlake_here(*shlex.split(here)[1:], cwd=tmp_path)
    assert done.returncode == 0 and "version 1" in done.stdout, done.stderr
    write_job(tmp_path)
    profile = write_profile(fake, tmp_path, worker_groups=[GROUP])
    takes(fake, "job", tmp_path, profile, ["--max-hours", "8", "--max-cost", "120"], "run")
    done = latentlake_here(*shlex.split(there)[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert submitted(fake)["entrypoint"].endswith(" --max-hours 8 --max-cost 120")


def test_a_budget_that_cannot_be_counted_is_not_submitted(fake: Answering, tmp_path: Path):
    write_job(tmp_path)
    write_profile(fake, tmp_path)
    done = latentlake_here("submit", "job.yaml", "--cluster", "cluster.yaml", "--max-cost", "20", cwd=tmp_path)
    assert done.returncode == 2 and "--max-cost needs a price" in done.stderr and not fake.asked


def test_a_calibration_is_made_where_the_job_would_run(fake: Answering, tmp_path: Path):
    write_job(tmp_path)
    profile = write_profile(fake, tmp_path)
    takes(fake, "job.calibrate", tmp_path, profile, ["--sample", "50", "--runner", "auto"], "calibrate")
    done = latentlake_here("calibrate", "job.yaml", "--cluster", "cluster.yaml", "--sample", "50", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "the log\n"), done.stderr
    asked = submitted(fake)
    assert asked["submission_id"] == "job.calibrate@1"
    assert asked["entrypoint"].startswith("python -m pipelines calibrate job.yaml --cluster .latentlake/cluster.json")


def findings(profile: ClusterProfile) -> list[tuple[str, str]]:
    found = [(one.status, one.told) for one in examine(None, profile) if one.subject == "cluster"]
    assert TOKEN not in str(found)
    return found


def test_the_doctor_asks_the_job_server(fake: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = write_profile(fake, tmp_path)
    answers, same, machines = findings(profile)
    assert answers[0] == OK and "takes the token" in answers[1]
    assert same[0] == OK and "0 submitted jobs" in same[1] and machines[0] == NOT_CHECKED
    assert {authorization for _, _, authorization, _ in fake.asked} == {f"Bearer {TOKEN}"}
    fake.answer("GET", "/api/version", (200, {"ray_version": "2.9.0"}))
    assert findings(profile)[1][0] == DO and "its Ray is 2.9.0" in findings(profile)[1][1]
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert findings(profile)[0][0] == DO and "asks for no token" in findings(profile)[0][1]


@pytest.mark.parametrize(("status", "told"), [(403, "does not take this token"), (401, "wants a token"), (200, None)])
def test_the_doctor_tells_of_a_token_that_is_refused(fake: Answering, tmp_path: Path, status: int, told: str | None):
    """Ray tells its version to anyone; only what needs the token shows whether it is right."""
    fake.answer("GET", JOBS, (status, "Unauthorized" if told else []))
    found = findings(write_profile(fake, tmp_path))
    assert (found[0][0] == DO and told in found[0][1]) if told else found[0][0] == OK
