"""The commands on jobs of a cluster, against a server that answers as Ray's does; `test_submit.py` has the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from answering import Answering, answering
from command_line import latentlake_here
from test_submission import write_job

from clusters import attempts
from pipelines.cli import submit as commands

TOKEN = "planted-" + "7" * 40
JOBS = "/api/jobs/"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setattr(attempts, "POLL_S", 0.01)
    monkeypatch.setattr(commands, "POLL_S", 0.01)
    with answering() as made:
        made.answer("GET", "/api/version", (200, {"ray_version": "2.60.0"}))
        yield made


def record(submission_id: str, status: str, code: int | None = None, **more: object) -> dict[str, object]:
    job = {"submission_id": submission_id, "status": status, "driver_exit_code": code, "start_time": 1_795_000_000_000}
    return {**job, "entrypoint": "python", "metadata": {"table": "s3://lake/t"}, **more}


def has(fake: Answering, *jobs: dict[str, object]) -> None:
    """Let the cluster have these jobs."""
    fake.answer("GET", JOBS, (200, list(jobs)))
    for job in jobs:
        fake.answer("GET", JOBS + str(job["submission_id"]), (200, job))


def submit(fake: Answering, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    write_job(folder)
    return latentlake_here("submit", "job.yaml", "--address", fake.address, *arguments, cwd=folder)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), *[("FAILED", n, n) for n in (1, 2, 3, 4, 130)], ("FAILED", -9, 1), ("STOPPED", None, 130)],
)
def test_the_exit_code_is_the_jobs(fake: Answering, tmp_path: Path, status: str, code: int | None, expected: int):
    has(fake)
    fake.answers |= {("PUT", path): [(200, "")] for path in sent_packages(tmp_path)}
    fake.answer("POST", JOBS, (200, {}))
    fake.answer("GET", f"{JOBS}job@1", (200, record("job@1", "RUNNING")), (200, record("job@1", status, code)))
    fake.answer("GET", f"{JOBS}job@1/logs", (200, {"logs": "the log of the job\n"}))
    done = submit(fake, tmp_path)
    assert (done.returncode, done.stdout) == (expected, "the log of the job\n")
    assert f"job@1: {status}" in done.stderr
    if code and code > 0:
        assert f"job@1: it ended with exit code {code}" in done.stderr
    kinds = [(method, path) for method, path, _, _ in fake.asked]
    assert [method for method, _ in kinds[:6]] == [
        "GET",
        "GET",
        "PUT",
        "GET",
        "PUT",
        "GET",
    ]  # version, two packages, the list
    asked = json.loads(next(body for method, _, _, body in fake.asked if method == "POST"))
    assert asked["submission_id"] == "job@1" and asked["entrypoint"] == "python -m pipelines run job.yaml"
    assert TOKEN not in done.stdout + done.stderr + json.dumps(asked)


def sent_packages(folder: Path) -> list[str]:
    """Where the packages of the job are sent."""
    from pipelines.submission import prepare

    return [f"/api/packages/gcs/{package.name}" for package in prepare(write_job(folder)).packages]


def test_a_job_that_does_not_start_says_why(fake: Answering, tmp_path: Path):
    failed = record("job@1", "FAILED", message="runtime_env setup failed: no pip package 'x'", error_type="RUNTIME_ENV")
    has(fake, failed)
    fake.answer("GET", f"{JOBS}job@1/logs", (200, {"logs": ""}))
    done = latentlake_here("logs", "job@1", "--follow", "--address", fake.address, cwd=tmp_path)
    assert done.returncode == 1 and "no pip package 'x'" in done.stderr


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_job_at_work_is_followed(fake: Answering, tmp_path: Path, status: str):
    has(fake, record("job@3", status))
    fake.answer("GET", f"{JOBS}job@3", (200, record("job@3", "SUCCEEDED", 0)))
    fake.answer("GET", f"{JOBS}job@3/logs", (200, {"logs": "x"}))
    fake.answers |= {("GET", path): [(200, "")] for path in sent_packages(tmp_path)}
    done = submit(fake, tmp_path)
    assert (done.returncode, done.stdout) == (0, "x")
    assert f"job@3: {status} already" in done.stderr and "with other files or options" in done.stderr
    assert "POST" not in [method for method, *_ in fake.asked]


def test_the_job_of_another_table_is_not_taken_for_this_one(fake: Answering, tmp_path: Path):
    has(fake, record("job@1", "RUNNING", metadata={"table": "s3://other/t"}))
    fake.answers |= {("GET", path): [(200, "")] for path in sent_packages(tmp_path)}
    done = submit(fake, tmp_path)
    assert done.returncode == 2 and "writes s3://other/t, and this job writes s3://lake/t" in done.stderr


def test_ctrl_c_leaves_the_job_running(fake: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    has(fake, record("job@1", "RUNNING"))
    fake.answer("GET", f"{JOBS}job@1/logs", (200, {"logs": "a line\n"}))

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(attempts.time, "sleep", interrupt)
    done = latentlake_here("logs", "job", "--follow", "--address", fake.address, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (130, "a line\n")
    assert f"Follow it: latentlake logs job@1 --follow --address {fake.address}" in done.stderr
    assert f"Stop it: latentlake cancel job@1 --address {fake.address}" in done.stderr
    assert {method for method, *_ in fake.asked} == {"GET"}


def test_a_terminated_submitter_leaves_the_job_running(fake: Answering, tmp_path: Path):
    """Also one that ignores SIGINT, as a shell's background jobs do."""
    has(fake, record("job@1", "RUNNING"))
    fake.answer("GET", f"{JOBS}job@1/logs", (200, {"logs": "a line\n"}))
    command = [sys.executable, "-m", "pipelines", "logs", "job", "--follow", "--address", fake.address]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None and process.stdout.readline() == "a line\n"
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 130 and "job@1 was left running" in err and "Traceback" not in err
    assert {method for method, *_ in fake.asked} == {"GET"}


def test_detached_it_returns_at_once(fake: Answering, tmp_path: Path):
    has(fake)
    fake.answers |= {("GET", path): [(200, "")] for path in sent_packages(tmp_path)}
    fake.answer("POST", JOBS, (200, {}))
    fake.answer("GET", f"{JOBS}job@2026-11-26@1", (200, record("job@2026-11-26@1", "PENDING")))
    done = submit(fake, tmp_path, "--detach", "--slot", "2026-11-26", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["id"], told["status"], told["exit_code"]) == ("job@2026-11-26@1", "PENDING", None)


def test_what_is_wrong_is_told_before_anything_is_sent(fake: Answering, tmp_path: Path):
    fake.answer("GET", "/api/version", (401, "Unauthorized: Missing authentication token"))
    done = submit(fake, tmp_path)
    assert done.returncode == 2 and "RAY_AUTH_TOKEN_PATH" in done.stderr and len(fake.asked) == 1
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "job.yaml").write_text("name: job\nmodalty: text\n")
    done = latentlake_here("submit", "bad/job.yaml", "--address", fake.address, cwd=tmp_path)
    assert done.returncode == 2 and "Did you mean 'modality'?" in done.stderr and len(fake.asked) == 1


def test_no_address_says_how_to_give_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    done = latentlake_here("list", cwd=tmp_path)
    assert done.returncode == 2 and "--address http://HOST:8265" in done.stderr and "job_server" in done.stderr


def test_the_profile_knows_the_server_and_the_token(fake: Answering, tmp_path: Path):
    (tmp_path / "token").write_text("of the profile")
    profile = tmp_path / "cluster.yaml"
    profile.write_text(f"kind: ray\njob_server: {fake.address}\ntoken: file:{tmp_path}/token\n")
    done = latentlake_here("list", "--cluster", str(profile), cwd=tmp_path)
    assert done.returncode == 2 and "not one word" in done.stderr and "of the profile" not in done.stderr
    (tmp_path / "token").write_text("profiles")
    has(fake)
    done = latentlake_here("list", "--cluster", str(profile), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "none\n")
    assert fake.asked[-1][2] == "Bearer profiles"


def test_jobs_are_found_by_id_name_slot_and_file(fake: Answering, tmp_path: Path):
    jobs = [record("job@1", "FAILED", 1), record("job@2", "SUCCEEDED", 0), record("job@s@1", "FAILED", 3)]
    has(fake, *jobs, record("raysubmit_x", "RUNNING"))
    write_job(tmp_path)

    def status(*arguments: str) -> str:
        done = latentlake_here("status", *arguments, "--json", "--address", fake.address, cwd=tmp_path)
        return json.loads(done.stdout)["id"] if done.returncode == 0 else done.stderr

    assert status("job@1") == "job@1"
    assert status("job") == status("job.yaml") == "job@2"
    assert status("job", "--slot", "s") == "job@s@1"
    assert status("raysubmit_x") == "raysubmit_x"
    assert "no job 'other'" in status("other") and "slot 't'" in status("job", "--slot", "t")
    listed = latentlake_here("list", "--json", "--address", fake.address, cwd=tmp_path)
    assert {job["id"] for job in json.loads(listed.stdout)} == {"job@1", "job@2", "job@s@1"}
    listed = latentlake_here("list", "--all", "--address", fake.address, cwd=tmp_path)
    assert "raysubmit_x" in listed.stdout and "s3://lake/t" in listed.stdout


def test_cancel_waits_for_the_end(fake: Answering, tmp_path: Path):
    has(fake, record("job@1", "RUNNING"))
    path = f"{JOBS}job@1"
    fake.answer("POST", f"{path}/stop", (200, {"stopped": True}))
    fake.answer("GET", path, (200, record("job@1", "RUNNING")), (200, record("job@1", "STOPPED")))
    done = latentlake_here("cancel", "job@1", "--address", fake.address, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "job@1: STOPPED\n")
    done = latentlake_here(
        "cancel", "job@1", "--address", fake.address, cwd=tmp_path
    )  # a second time, nothing is asked of it
    assert done.returncode == 0 and [method for method, *_ in fake.asked].count("POST") == 1
