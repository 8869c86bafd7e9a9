"""Log lines as JSON: of the driver, of the process that works without Ray, and of Ray's workers, each with its run."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import threading
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import latentlake_here
from job_maker import make_job, write_texts
from run_maker import no_successor, plan_of

from pipelines.flow.runners.inline import InlineRunner
from pipelines.telemetry.logs import JsonFormatter, WorkerLogs, about, configure, in_json


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def plain() -> Any:
    """Logging as it was, afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    configure("text")
    root.handlers[:] = handlers
    root.setLevel(level)


def record(message: str = "so it is", **extra: Any) -> logging.LogRecord:
    return logging.getLogger("pipelines.x").makeRecord("pipelines.x", 30, "f", 1, message, (), None, extra=extra)


def test_a_line_is_one_object_with_what_it_is_about():
    with about(run_id="r", table="t"), about(shard=3):
        told = json.loads(JsonFormatter().format(record("two\nlines", event="shard", rows=5, odd={1})))
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "level": "warning", "logger": "pipelines.x", "event": "shard", "message": "two\nlines",
        "run_id": "r", "table": "t", "shard": 3, "rows": 5, "odd": "{1}",
    }  # fmt: skip
    assert "run_id" not in json.loads(JsonFormatter().format(record()))


def test_a_failure_is_told_with_its_trace():
    try:
        raise ValueError("no")
    except ValueError:
        failed = logging.LogRecord("x", 40, "f", 1, "oh", (), sys.exc_info())
    assert "ValueError: no" in json.loads(JsonFormatter().format(failed))["exception"]


def test_a_thread_may_take_along_what_it_is_about():
    found: list[str] = []

    def tell() -> None:
        found.append(JsonFormatter().format(record()))

    with about(run_id="r"):
        thread = threading.Thread(target=copy_context().run, args=(tell,))
        thread.start()
        thread.join()
    assert json.loads(found[0])["run_id"] == "r"


@pytest.mark.usefixtures("plain")
def test_a_worker_logs_as_its_driver_does(capsys: pytest.CaptureFixture[str]):
    logging.getLogger().handlers.clear()
    logs = WorkerLogs(json=True, facts={"run_id": "r"})
    with logs.entered(), about(shard=7):
        logging.getLogger("pipelines.flow").warning("halved, to %d", 5)
    (line,) = lines_of(capsys.readouterr().err)
    assert (line["message"], line["run_id"], line["shard"]) == ("halved, to 5", "r", 7)


@pytest.mark.usefixtures("plain")
def test_what_is_collected_can_travel_and_is_told_again(capsys: pytest.CaptureFixture[str]):
    logging.getLogger().handlers.clear()
    logs = WorkerLogs(json=True, facts={"run_id": "r"})
    with logs.collected() as records, about(shard=7):
        logging.getLogger("pipelines.flow").warning(
            "of %s", threading.Lock(), extra={"event": "x", "odd": threading.Lock()}
        )
    capsys.readouterr()
    (travelled,) = pickle.loads(pickle.dumps(records))
    logging.getLogger(travelled.name).handle(travelled)
    (line,) = lines_of(capsys.readouterr().err)
    assert line["message"].startswith("of <unlocked") and (line["run_id"], line["shard"], line["event"]) == (
        "r",
        7,
        "x",
    )


def write_job(folder: Path, **sections: Any) -> Path:
    texts = {f"{n}.txt": f"text number {n}" for n in range(20)}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(make_job(folder, write_texts(folder / "in", texts), **sections)))
    return path


def check_run(lines: list[dict[str, Any]], report: dict[str, Any]) -> None:
    events = [line["event"] for line in lines]
    assert events.count("shard") == report["shards"] == 2 and events[-1] == "end"
    assert [line["phase"] for line in lines if line["event"] == "phase"] == list(report["phases"])
    assert {line["table"] for line in lines} == {"t"} and {line["job"] for line in lines} == {"job"}
    assert {line["run_id"] for line in lines if line["event"] in ("shard", "end")} == {report["run_id"]}
    assert sum(line["rows"] for line in lines if line["event"] == "shard") == 20


@pytest.mark.usefixtures("plain")
def test_a_run_without_ray_tells_all_in_json(tmp_path: Path):
    path = write_job(tmp_path, shard={"max_objects": 10})
    done = latentlake_here("--log-format", "json", "run", str(path), "--runner", "inline", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_run(lines_of(done.stderr), json.loads(done.stdout))


@pytest.mark.usefixtures("plain")
def test_an_error_is_json_too_and_the_environment_may_ask_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LATENTLAKE_LOG_FORMAT", "json")
    done = latentlake_here("run", "nowhere.yaml", cwd=tmp_path)
    (line,) = lines_of(done.stderr)
    assert done.returncode == 2 == line["exit_code"] and line["event"] == "error" and "nowhere.yaml" in line["message"]
    assert in_json()
    monkeypatch.delenv("LATENTLAKE_LOG_FORMAT")
    done = latentlake_here("run", "nowhere.yaml", cwd=tmp_path)
    assert not in_json() and not done.stderr.startswith("{")


@pytest.mark.usefixtures("plain")
def test_the_process_without_ray_hands_its_lines_to_the_driver(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    plan = plan_of(make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "x"})))
    plan.place.child("attempts").put("000000000-h.json", b"broken")  # a note that cannot be read is warned of
    with about(run_id=plan.run_id), InlineRunner(no_successor) as runner:
        assert len(list(runner.embed_shards(plan, None, [0], "x"))) == 1
    (line,) = [found for found in caplog.records if "000000000-h.json" in found.getMessage()]
    assert (line.name, vars(line)["run_id"], vars(line)["shard"]) == ("pipelines.state.journal", plan.run_id, 0)
