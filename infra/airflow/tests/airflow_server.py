"""`airflow standalone` for a test, and its REST API."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
from airflow_maker import AIRFLOW, AirflowHome

START_S = 300
POLL_S = 2


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class AirflowServer:
    """Scheduler, API server, triggerer and DAG processor of a home. Use it in a `with` statement."""

    def __init__(self, home: AirflowHome) -> None:
        """Start it in a session of its own: standalone leaves its children behind when it alone is told to end."""
        api, logs, triggers = free_ports(3)
        self.home, self.address = home, f"http://127.0.0.1:{api}"
        self.log = home.folder / "standalone.log"
        environment = {
            **home.environment,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(api),
            "AIRFLOW__API__BASE_URL": self.address,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.address}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(logs),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(triggers),
            # Of a machine that has much else to do.
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "300",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "200",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "900",
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [AIRFLOW, "standalone"],
                env=environment,
                cwd=home.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.api = httpx.Client(base_url=self.address, timeout=60, trust_env=False)
            self.wait("the API server", self._token, START_S)
        except BaseException:
            self.close()
            raise

    def _token(self) -> bool:
        try:
            answer = self.api.get("/auth/token")
        except httpx.TransportError:
            return False
        if answer.status_code != httpx.codes.CREATED:
            return False
        self.api.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return True

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What the API answers below /api/v2."""
        answer = self.api.request(method, f"/api/v2{path}", json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def wait(self, what: str, look: Callable[[], Any], limit_s: float) -> Any:
        """The first answer that is true."""
        until = time.monotonic() + limit_s
        while not (found := look()):
            assert self.process.poll() is None, self.log.read_text()[-5000:]
            assert time.monotonic() < until, f"{what}: not within {limit_s} s\n{self.log.read_text()[-5000:]}"
            time.sleep(POLL_S)
        return found

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run, once it is known."""
        self.wait(f"DAG {dag_id}", lambda: self.api.get(f"/api/v2/dags/{dag_id}").is_success, START_S)
        self.ask("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def runs(self, dag_id: str) -> dict[str, str]:
        """State of each run of a DAG."""
        found = self.ask("GET", f"/dags/{dag_id}/dagRuns?limit=100")["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in found}

    def returned(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task returned."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value?stringify=false"
        return self.ask("GET", path)["value"]

    def log_of(self, dag_id: str, run_id: str, task_id: str, attempt: int = 1) -> str:
        """A task's log, as the web page shows it."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}?full_content=true"
        return str(self.ask("GET", path)["content"])

    def close(self) -> None:
        """End the whole group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(30 if number == signal.SIGTERM else None)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    def __enter__(self) -> AirflowServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
