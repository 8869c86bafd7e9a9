"""Hook, trigger and operators against a server that answers as Ray's does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset, Connection
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.sdk.execution_time.context import OutletEventAccessors
from answering import Answering, answering
from latentlake_airflow import trigger as trigger_module
from latentlake_airflow.following import LogTail, last_object, reason_in
from latentlake_airflow.hook import RayJobHook, address_of
from latentlake_airflow.latentlake import MaintainTableOperator, RollbackTableOperator, SubmitEmbeddingJobOperator
from latentlake_airflow.operators import SubmitRayJobOperator
from latentlake_airflow.trigger import RayJobTrigger

TOKEN = "planted-" + "5" * 40
ID = "d.t@2026-11-26T030000@1"
JOBS = "/api/jobs/"
PRODUCTS = Asset("s3://lake/embeddings/products")
REPORT = {"run_id": "r", "table": "products", "version": 7, "tag": "prod", "state": "published", "rows_written": 3}


class Ti(SimpleNamespace):
    """A task instance that keeps what is pushed."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def context_of(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "ti": Ti(dag_id="d", task_id="t", map_index=-1, pushed={}),
        "dag": SimpleNamespace(fileloc=str(folder / "dag.py")),
        "logical_date": datetime(2026, 11, 26, 3, tzinfo=UTC),
        "run_id": "scheduled__2026-11-26T03:00:00+00:00",
        "outlet_events": OutletEventAccessors(),
        **more,
    }


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    monkeypatch.setattr(trigger_module, "FIRST_POLL_S", 0.01)
    with answering() as made:
        connection = {"conn_type": "ray_jobs", "host": made.address, "password": TOKEN}
        monkeypatch.setenv("AIRFLOW_CONN_RAY_JOBS_DEFAULT", json.dumps(connection))
        made.answer("GET", "/api/version", (200, {"ray_version": "2.60.0"}))
        made.answer("GET", JOBS, (200, []))
        made.answer("POST", JOBS, (200, {}))
        yield made


def has(fake: Answering, status: str, code: int | None = None, log: str = "", submission_id: str = ID) -> None:
    """Let a job be in this state."""
    job = {"submission_id": submission_id, "status": status, "driver_exit_code": code}
    fake.answer("GET", JOBS + submission_id, (200, job))
    fake.answer("GET", f"{JOBS}{submission_id}/logs", (200, {"logs": log}))


def is_there(fake: Answering, status: str, code: int | None = None, submission_id: str = ID) -> None:
    """Let the cluster have this job before anything is submitted."""
    fake.answer("GET", JOBS, (200, [{"submission_id": submission_id, "status": status, "driver_exit_code": code}]))


def posted(fake: Answering) -> list[dict[str, Any]]:
    return [json.loads(body) for method, path, _, body in fake.asked if (method, path) == ("POST", JOBS)]


def event(printed: int = 0) -> dict[str, Any]:
    return {"submission_id": ID, "printed": printed, "ended": "over"}


def embedding(**more: Any) -> SubmitEmbeddingJobOperator:
    return SubmitEmbeddingJobOperator(task_id="t", job_file="jobs/products.yaml", **more)


def with_job(folder: Path) -> Path:
    (folder / "jobs").mkdir()
    (folder / "jobs" / "products.yaml").write_text("name: products")
    return folder


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({"host": "head"}, "http://head:8265"),
        ({"host": "head", "port": 9000, "schema": "https"}, "https://head:9000"),
        ({"host": "https://ray.example.com/"}, "https://ray.example.com"),
        ({"host": "http://head", "port": 8265}, "http://head:8265"),
    ],
)
def test_a_connection_names_an_address(given: dict[str, Any], address: str):
    assert address_of(Connection(conn_id="c", conn_type="ray_jobs", **given)) == address


def test_the_connection_is_tried(fake: Answering):
    assert RayJobHook().test_connection() == (True, f"Ray 2.60.0 at {fake.address}")
    fake.answer("GET", "/api/version", (403, "Forbidden: invalid token"))
    works, told = RayJobHook().test_connection()
    assert not works and "does not take this token" in told and TOKEN not in told


def test_a_job_is_submitted_and_the_task_waits_in_the_triggerer(fake: Answering, tmp_path: Path):
    has(fake, "PENDING")
    context = context_of(tmp_path)
    with pytest.raises(TaskDeferred) as deferred:
        SubmitRayJobOperator(task_id="t", entrypoint="python x.py").execute(context)
    (asked,) = posted(fake)
    assert (asked["submission_id"], asked["entrypoint"]) == (ID, "python x.py")
    assert asked["metadata"] == {"dag_id": "d", "task_id": "t", "dag_run_id": context["run_id"]}
    kind, arguments = deferred.value.trigger.serialize()
    assert kind == "latentlake_airflow.trigger.RayJobTrigger"
    assert arguments["submission_id"] == ID and context["ti"].pushed == {"submission_id": ID}
    assert {token for _, _, token, _ in fake.asked} == {f"Bearer {TOKEN}"}
    assert TOKEN not in json.dumps([asked, arguments, context["ti"].pushed])


@pytest.mark.parametrize(
    ("status", "code", "attempt"),
    [("PENDING", None, 1), ("RUNNING", None, 1), ("FAILED", 1, 2), ("FAILED", -9, 2), ("STOPPED", None, 2)],
)
def test_a_retry_takes_over_what_is_there(fake: Answering, tmp_path: Path, status: str, code: int | None, attempt: int):
    is_there(fake, status, code)
    submission_id = ID[:-1] + str(attempt)
    has(fake, "RUNNING", submission_id=submission_id)
    fake.answer("PUT", package_path(with_job(tmp_path)), (200, ""))
    with pytest.raises(TaskDeferred) as deferred:
        embedding().execute(context_of(tmp_path))
    assert deferred.value.trigger.submission_id == submission_id
    assert [asked["submission_id"] for asked in posted(fake)] == ([submission_id] if attempt == 2 else [])
    if attempt == 2:  # a killed run holds its lease for a while
        assert posted(fake)[0]["entrypoint"].endswith(" --wait") == (code != 1)


def package_path(folder: Path) -> str:
    from latentlake_airflow.client.packages import list_files, pack

    package = pack(list_files(folder / "jobs"), folder)
    return f"/api/packages/gcs/{package.name}"


def test_a_slot_that_is_done_is_not_run_again(fake: Answering, tmp_path: Path):
    is_there(fake, "SUCCEEDED", 0)
    has(fake, "SUCCEEDED", 0, f"a line\n{json.dumps(REPORT)}\n")
    fake.answer("PUT", package_path(with_job(tmp_path)), (200, ""))
    assert embedding().execute(context_of(tmp_path)) == REPORT and not posted(fake)


def test_a_run_without_a_logical_date_has_its_id_as_slot(fake: Answering, tmp_path: Path):
    wanted = "d.t@asset_triggered__2026-11-26T03_00_00_00_00_x@1"
    has(fake, "PENDING", submission_id=wanted)
    context = context_of(tmp_path, logical_date=None, run_id="asset_triggered__2026-11-26T03:00:00+00:00_x")
    with pytest.raises(TaskDeferred):
        SubmitRayJobOperator(task_id="t", entrypoint="x").execute(context)
    assert posted(fake)[0]["submission_id"] == wanted


def test_job_and_slot_may_be_named(fake: Answering, tmp_path: Path):
    has(fake, "PENDING", submission_id="words@2026-11-26T03_00_00_00_00@1")
    named = {"job": "words", "slot": "2026-11-26T03:00:00+00:00"}
    with pytest.raises(TaskDeferred):
        SubmitRayJobOperator(task_id="t", entrypoint="x", **named).execute(context_of(tmp_path))
    assert posted(fake)[0]["submission_id"] == "words@2026-11-26T03_00_00_00_00@1"


def test_a_mapped_task_has_its_index_in_the_name(fake: Answering, tmp_path: Path):
    has(fake, "PENDING", submission_id="d.t.4@2026-11-26T030000@1")
    context = context_of(tmp_path)
    context["ti"].map_index = 4
    with pytest.raises(TaskDeferred):
        SubmitRayJobOperator(task_id="t", entrypoint="x").execute(context)
    assert posted(fake)[0]["submission_id"] == "d.t.4@2026-11-26T030000@1"


def test_the_worker_may_wait(fake: Answering, tmp_path: Path):
    job = {"submission_id": ID, "status": "RUNNING"}
    fake.answer("GET", JOBS + ID, (200, job), (200, job), (200, {**job, "status": "SUCCEEDED", "driver_exit_code": 0}))
    fake.answer("GET", f"{JOBS}{ID}/logs", (200, {"logs": "a line\n"}))
    operator = SubmitRayJobOperator(task_id="t", entrypoint="x", deferrable=False, poll_s=0.01)
    told = operator.execute(context_of(tmp_path))
    assert told == {"submission_id": ID, "status": "SUCCEEDED", "exit_code": 0}


def test_the_command_of_an_embedding_job(fake: Answering, tmp_path: Path):
    has(fake, "PENDING")
    fake.answer("PUT", package_path(with_job(tmp_path)), (200, ""))
    operator = embedding(overrides={"source.uri": "s3://a b/", "gates.min_recall": 0.9}, limit=5)
    with pytest.raises(TaskDeferred):
        operator.execute(context_of(tmp_path))
    (asked,) = posted(fake)
    assert asked["entrypoint"] == (
        "python -m pipelines run products.yaml --json --set 'source.uri=s3://a b/' --set gates.min_recall=0.9 --limit 5"
    )
    assert asked["runtime_env"]["working_dir"].startswith("gcs://_ray_pkg_")
    assert asked["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "30"}


def test_the_report_is_returned_and_told_with_the_asset(fake: Answering, tmp_path: Path):
    has(fake, "SUCCEEDED", 0, f"a line\n{json.dumps(REPORT)}\n(raylet) a late line\n")
    context = context_of(tmp_path)
    assert embedding(outlets=[PRODUCTS]).resume(context, event()) == REPORT
    assert context["outlet_events"][PRODUCTS].extra == REPORT


@pytest.mark.parametrize(("code", "again"), [(1, True), (2, False), (3, False), (4, True), (130, True)])
def test_a_failure_says_why(fake: Answering, tmp_path: Path, code: int, again: bool):
    log = f"loading\n{json.dumps(REPORT)}\nGateRefused: too many rejects.\n  Raise the limit.\n[raylet] bye\n"
    has(fake, "FAILED", code, log)
    context = context_of(tmp_path)
    with pytest.raises(AirflowException) as failed:
        embedding().resume(context, event())
    told = str(failed.value)
    assert f"it ended with exit code {code}" in told and told.endswith("too many rejects.\n  Raise the limit.")
    assert isinstance(failed.value, AirflowFailException) != again
    assert context["ti"].pushed == {"report": REPORT}


def test_a_strangers_exit_code_is_retried(fake: Answering, tmp_path: Path):
    has(fake, "FAILED", 3, "a\nb\n")
    with pytest.raises(AirflowException, match="exit code 3\na\nb") as failed:
        SubmitRayJobOperator(task_id="t", entrypoint="x").resume(context_of(tmp_path), event())
    assert not isinstance(failed.value, AirflowFailException)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_token_fails_at_once(fake: Answering, tmp_path: Path, status: int):
    fake.answer("GET", "/api/version", (status, "no"))
    with pytest.raises(AirflowFailException, match="token") as failed:
        SubmitRayJobOperator(task_id="t", entrypoint="x").execute(context_of(tmp_path))
    assert TOKEN not in str(failed.value)


def test_a_job_file_that_is_not_there_fails_at_once(fake: Answering, tmp_path: Path):
    with pytest.raises(AirflowFailException, match=r"no job file .*products.yaml"):
        embedding().execute(context_of(tmp_path))


@pytest.mark.parametrize(
    ("job", "overrides"),
    [
        ("table: {uri: ./lake}", {}),
        ("table: {uri: s3://l}\nsource: {uri: texts}", {}),
        ("table: {uri: s3://l}", {"table.uri": "file://lake"}),
    ],
)
def test_a_place_that_vanishes_with_the_job_is_refused(
    fake: Answering, tmp_path: Path, job: str, overrides: dict[str, Any]
):
    (with_job(tmp_path) / "jobs" / "products.yaml").write_text(job)
    with pytest.raises(AirflowFailException, match=r"\.uri: '.*' would be in the folder .* which is deleted"):
        embedding(overrides=overrides).execute(context_of(tmp_path))
    assert not posted(fake)


@pytest.mark.parametrize("job", ["table: {uri: ./lake}", "table: [broken", "table: /lake", "- a list"])
def test_what_else_is_wrong_the_cluster_tells(fake: Answering, tmp_path: Path, job: str):
    has(fake, "PENDING")
    (with_job(tmp_path) / "jobs" / "products.yaml").write_text(job)
    fake.answer("PUT", package_path(tmp_path), (200, ""))
    with pytest.raises(TaskDeferred):
        embedding(overrides={"table.uri": "/mnt/lake"}).execute(context_of(tmp_path))


def fired(waiting: RayJobTrigger) -> dict[str, Any]:
    async def first() -> Any:
        return await anext(waiting.run())

    return asyncio.run(first()).payload


def trigger(**more: Any) -> RayJobTrigger:
    return RayJobTrigger("ray_jobs_default", ID, 0.01, **more)


def test_the_trigger_shows_the_log_and_fires_at_the_end(fake: Answering, capsys: pytest.CaptureFixture[str]):
    job = {"submission_id": ID, "status": "RUNNING"}
    fake.answer("GET", JOBS + ID, (200, job), (503, "away"), (200, job), (200, {**job, "status": "SUCCEEDED"}))
    fake.answer(
        "GET", f"{JOBS}{ID}/logs", *((200, {"logs": text}) for text in ("one\ntw", "one\ntwo\nthr", "one\ntwo\nthree"))
    )
    assert fired(trigger()) == event(len("one\ntwo\nthree"))
    assert re.findall(r"info +\] (\w+) +\[", capsys.readouterr().out) == ["one", "two", "three"]


def test_the_trigger_fires_where_the_cluster_has_forgotten_the_job(fake: Answering, tmp_path: Path):
    told = fired(trigger())
    assert told["ended"] == "gone"
    with pytest.raises(AirflowException, match="no job") as failed:
        embedding().resume(context_of(tmp_path), told)
    assert not isinstance(failed.value, AirflowFailException)


def test_a_task_that_takes_too_long_stops_its_job(fake: Answering, tmp_path: Path):
    has(fake, "RUNNING")
    fake.answer("POST", f"{JOBS}{ID}/stop", (200, {"stopped": True}))
    with pytest.raises(TaskDeferred) as deferred:
        SubmitRayJobOperator(task_id="t", entrypoint="x", execution_timeout=timedelta(0)).execute(context_of(tmp_path))
    deferred.value.trigger.poll_s = 0.01
    told = fired(deferred.value.trigger)
    assert told["ended"] == "late"
    with pytest.raises(AirflowException, match="execution_timeout has passed"):
        embedding().resume(context_of(tmp_path), told)
    assert stopped(fake)


def stopped(fake: Answering) -> bool:
    return ("POST", f"{JOBS}{ID}/stop") in [(method, path) for method, path, _, _ in fake.asked]


def test_killing_the_task_stops_the_job(fake: Answering, tmp_path: Path):
    """In the worker, and while it waits in the triggerer."""
    has(fake, "RUNNING")
    fake.answer("POST", f"{JOBS}{ID}/stop", (200, {"stopped": True}))
    operator = SubmitRayJobOperator(task_id="t", entrypoint="x")
    operator.on_kill()
    assert not stopped(fake)  # nothing was submitted yet
    with pytest.raises(TaskDeferred):
        operator.execute(context_of(tmp_path))
    operator.on_kill()
    assert stopped(fake)
    fake.asked.clear()
    asyncio.run(trigger().on_kill())
    assert stopped(fake)


def test_commands_on_tables(fake: Answering, tmp_path: Path):
    context = context_of(tmp_path)
    moved = RollbackTableOperator(
        task_id="t", lake="s3://l", table="p", to="7", options={"region": "eu"}, outlets=[PRODUCTS]
    )
    submission, packages = moved.prepare(context)
    assert submission.command == "python -m pipelines rollback s3://l p --wait --tag prod --to 7 --option region=eu"
    assert not packages and not submission.after_kill
    has(fake, "SUCCEEDED", 0, "s3://l/p: tag 'prod' is at version 7, it was at 9.\n")
    assert moved.resume(context, event()) == {"table": "p", "tag": "prod", "version": 7, "before": 9}
    assert context["outlet_events"][PRODUCTS].extra == {"table": "p", "tag": "prod", "version": 7}
    upkeep = MaintainTableOperator(task_id="t", lake="s3://l", table="p", keep_days=3)
    assert upkeep.prepare(context)[0].command == "python -m pipelines maintain s3://l p --wait --json --keep-days 3"
    has(fake, "SUCCEEDED", 0, '{"version": 10}\n')
    assert upkeep.resume(context, event()) == {"version": 10}


def test_lines_come_whole_and_once():
    tail = LogTail()
    assert tail.more("a\nb", False) == ["a"]
    assert tail.more("a\nb", False) == []
    assert tail.more("a\nbc\r10%\r20%\n\nd", False) == ["20%", ""]
    assert tail.more("a\nbc\r10%\r20%\n\nd", True) == ["d"]
    assert tail.more("a\nbc\r10%\r20%\n\nd", True) == []


def test_what_a_log_says_in_the_end():
    assert last_object(["{}", '{"a": 1}', "{broken", "x"]) == {"a": 1}
    assert last_object(["x"]) is None
    assert (
        reason_in(["ValueError: old", "SpecError: new", "  how to fix it", "end"]) == "SpecError: new\n  how to fix it"
    )
    assert reason_in(["a", "", "b"]) == "a\nb"
