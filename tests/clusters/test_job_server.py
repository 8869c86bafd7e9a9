"""The client of a job server, against a server that answers as Ray's does: what it sends, and what it says of bad answers.

`test_submit.py` has the real one.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from answering import Answering, answering

from clusters import attempts
from clusters.attempts import (
    Attempt,
    Submission,
    attempt_of,
    check_slot,
    follow,
    is_settled,
    submit_attempt,
    was_killed,
)
from clusters.jobs import JobInfo, JobServer
from clusters.packages import pack
from clusters.tokens import find_token
from operators.errors import ClusterError, CredentialsError, NotFound, SpecError

TOKEN = "planted-" + "5" * 40
TRACEBACK = 'Traceback (most recent call last):\n  File "job_head.py"\nValueError: {}\n'
TAKEN = TRACEBACK.format("Job with submission_id job@1 already exists. Please use a different submission_id.")


@pytest.fixture
def fake() -> Iterator[Answering]:
    with answering() as made:
        yield made


@pytest.fixture
def server(fake: Answering) -> Iterator[JobServer]:
    with JobServer(fake.address, TOKEN, patience_s=1) as made:
        yield made


def record(submission_id: str, status: str, code: int | None = None, **more: object) -> dict[str, object]:
    """A job, as the server tells it."""
    return {"type": "SUBMISSION", "submission_id": submission_id, "status": status, "driver_exit_code": code, **more}


def test_a_package_is_sent_where_the_cluster_lacks_it(fake: Answering, server: JobServer, tmp_path: Path):
    package = pack({"a": b"1"}, tmp_path)
    path = f"/api/packages/gcs/{package.name}"
    fake.answer("GET", path, (404, "does not exist"), (200, ""))
    fake.answer("PUT", path, (200, ""))
    assert [server.upload(package), server.upload(package)] == [True, False]
    assert [(method, body) for method, _, _, body in fake.asked] == [
        ("GET", b""),
        ("PUT", package.content),
        ("GET", b""),
    ]
    assert {authorization for _, _, authorization, _ in fake.asked} == {f"Bearer {TOKEN}"}


def test_a_job_is_submitted_once(fake: Answering, server: JobServer):
    fake.answer("POST", "/api/jobs/", (200, {"submission_id": "job@1"}), (500, TAKEN))
    assert server.submit("job@1", "python x", {"working_dir": "gcs://p.zip"}, {"table": "t"})
    assert not server.submit("job@1", "python x")
    assert json.loads(fake.asked[0][3]) == {
        "submission_id": "job@1",
        "entrypoint": "python x",
        "runtime_env": {"working_dir": "gcs://p.zip"},
        "metadata": {"table": "t"},
    }
    assert TOKEN not in str(fake.asked[0][3])


@pytest.mark.parametrize(
    ("status", "text", "error", "told"),
    [
        (401, "Unauthorized: Missing authentication token", CredentialsError, "wants a token .*RAY_AUTH_TOKEN_PATH"),
        (
            403,
            "Forbidden: Invalid authentication token",
            CredentialsError,
            "does not take this token .*RAY_AUTH_TOKEN_PATH",
        ),
        (413, "Maximum request body size 104857600 exceeded", SpecError, "too large .*100 MiB.*rayignore"),
        (500, TRACEBACK.format("no space"), ClusterError, "answers 500: ValueError: no space"),
        (503, "starting", ClusterError, "answers 503: starting"),
        (404, "Not Found", ClusterError, "no job server of Ray .*8265"),
        (302, "moved", ClusterError, "no job server of Ray"),
        (200, "<html>hello</html>", ClusterError, "no job server of Ray"),
    ],
)
def test_a_bad_answer_says_what_to_do(
    fake: Answering, server: JobServer, status: int, text: str, error: type[Exception], told: str
):
    fake.answer("GET", "/api/version", (status, text))
    with pytest.raises(error, match="(?s)" + told) as failure:
        server.version()
    assert TOKEN not in str(failure.value) and fake.address in str(failure.value)


def test_without_a_token_the_remedy_is_one(fake: Answering):
    fake.answer("GET", "/api/version", (403, "Forbidden"))
    with JobServer(fake.address) as server, pytest.raises(CredentialsError, match="lets nobody in without a token"):
        server.version()
    assert fake.asked[0][2] == ""


def test_a_server_that_is_starting_is_asked_again(fake: Answering, server: JobServer):
    fake.answer("GET", "/api/version", (503, "starting"), (200, {"ray_version": "2.60.0"}))
    assert server.version() == "2.60.0"
    fake.answer("POST", "/api/jobs/", (500, "No available agent to submit job, please try again later."), (200, {}))
    assert server.submit("a", "b")


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with JobServer(address, patience_s=0.2) as server, pytest.raises(ClusterError, match=f"no answer .*{address}"):
        server.version()


@pytest.mark.parametrize("address", ["10.0.0.5:6379", "ray://10.0.0.5:10001", "http://", "http://me:secret@host:8265"])
def test_an_address_of_another_kind_is_refused(address: str):
    with pytest.raises(SpecError, match="http://HOST:8265") as failure:
        JobServer(address)
    assert "secret" not in str(failure.value)


def test_a_job_that_is_not_there_is_not_found(server: JobServer):
    for ask in (server.info, server.logs, server.stop, server.delete):
        with pytest.raises(NotFound, match="no job 'job@1'"):
            ask("job@1")


def test_a_name_cannot_lead_elsewhere(fake: Answering, server: JobServer):
    with pytest.raises(NotFound):
        server.info("../version?x#y")
    assert fake.asked[0][1] == "/api/jobs/..%2Fversion%3Fx%23y"


def test_the_token_is_where_ray_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token({}) is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("usual\n")
    (tmp_path / "file").write_text(" kept \n")
    assert find_token({}) is None
    assert find_token({"RAY_AUTH_MODE": "token"}) == "usual"
    assert find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "file")}) == "kept"
    assert find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "file"), "RAY_AUTH_TOKEN": "given"}) == "given"
    (tmp_path / "file").write_text("\n")
    for path, told in {"file": "is empty", "none": "cannot read"}.items():
        with pytest.raises(CredentialsError, match=told):
            find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / path)})


def test_a_token_that_no_header_takes_is_not_repeated():
    with pytest.raises(CredentialsError) as failure:
        JobServer("http://127.0.0.1:1", "two words")
    assert "two" not in str(failure.value)


@pytest.mark.parametrize(
    ("status", "code", "expected", "killed"),
    [
        ("PENDING", None, None, False),
        ("RUNNING", None, None, False),
        ("SUCCEEDED", 0, 0, False),
        *[("FAILED", code, code, False) for code in (1, 2, 3, 4, 130)],
        ("FAILED", 137, 1, True),
        ("FAILED", -9, 1, True),
        ("FAILED", None, 1, True),
        ("STOPPED", None, 130, True),
    ],
)
def test_the_exit_code_is_the_jobs_own(status: str, code: int | None, expected: int | None, killed: bool):
    info = JobInfo("job@1", status, driver_exit_code=code)
    assert (info.exit_code, was_killed(info)) == (expected, killed)


@pytest.mark.parametrize("attempt", [Attempt("a.b-c", None, 1), Attempt("a", "2026-11-26", 12)])
def test_an_id_names_its_attempt(attempt: Attempt):
    assert attempt_of(attempt.submission_id) == attempt


@pytest.mark.parametrize("other", ["raysubmit_x", "a@b@c@1", "a@x", "@1", "a@@1", ""])
def test_the_ids_of_others_name_none(other: str):
    assert attempt_of(other) is None


@pytest.mark.parametrize("slot", ["", "a@b", "a/b", "a b"])
def test_a_slot_fits_into_an_id(slot: str):
    with pytest.raises(SpecError, match="--slot"):
        check_slot(slot)


@pytest.mark.parametrize("slot", [None, "s"])
@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"])
def test_what_is_at_work_or_done_is_not_done_twice(status: str, slot: str | None):
    at_work = status in ("PENDING", "RUNNING")
    assert is_settled(JobInfo("x", status), slot) == (at_work or (status == "SUCCEEDED" and slot is not None))


def test_the_next_attempt_follows_the_last(fake: Answering, server: JobServer):
    jobs = [
        record("job@1", "FAILED", 1),
        record("job@10", "FAILED", -9),
        record("job@s@11", "RUNNING"),
        record("x", "FAILED"),
    ]
    fake.answer("GET", "/api/jobs/", (200, [*jobs, {"type": "DRIVER", "submission_id": None, "status": "RUNNING"}]))
    fake.answer("POST", "/api/jobs/", (200, {}))
    fake.answer("GET", "/api/jobs/job@11", (200, record("job@11", "PENDING")))
    info, new = submit_attempt(server, "job", None, Submission("python x", " --wait"))
    assert (info.submission_id, new) == ("job@11", True)
    sent = json.loads(fake.asked[1][3])
    assert sent["entrypoint"] == "python x --wait"  # the last one was killed, and may hold the table for a minute


def test_the_slower_of_two_submitters_follows_the_job_of_the_other(fake: Answering, server: JobServer):
    fake.answer("GET", "/api/jobs/", (200, []), (200, [record("job@1", "PENDING", metadata={"table": "t"})]))
    fake.answer("POST", "/api/jobs/", (500, TAKEN))
    info, new = submit_attempt(server, "job", None, Submission("x", metadata={"table": "t"}))
    assert (info.submission_id, new) == ("job@1", False)
    with pytest.raises(SpecError, match=r"'job@1' writes t, and this job writes u"):
        submit_attempt(server, "job", None, Submission("x", metadata={"table": "u"}))


def test_nothing_is_printed_twice(fake: Answering, server: JobServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attempts, "POLL_S", 0.01)
    path = "/api/jobs/job@1"
    states = [("RUNNING", None), ("RUNNING", None), ("FAILED", 3)]
    fake.answer("GET", path, *[(200, record("job@1", status, code)) for status, code in states])
    undecodable = (500, TRACEBACK.format("'utf-8' codec can't decode byte 0xc3"))
    logs = [(200, {"logs": "a"}), undecodable, (200, {"logs": "aéb\n"}), (200, {"logs": "aéb\nend"})]
    fake.answer("GET", f"{path}/logs", *logs)
    written, told = [], []
    info = follow(server, JobInfo("job@1", "PENDING"), written.append, lambda job: told.append(job.status))
    assert (info.exit_code, written, told) == (3, ["a", "éb\n", "end"], ["PENDING", "RUNNING", "FAILED"])


def test_a_log_that_cannot_be_read_does_not_hide_the_end(fake: Answering, server: JobServer):
    fake.answer("GET", "/api/jobs/job@1/logs", (500, TRACEBACK.format("the node is lost")))
    written: list[str] = []
    info = follow(server, JobInfo("job@1", "SUCCEEDED"), written.append, lambda job: None)
    assert info.exit_code == 0 and "the node is lost" in written[0]
