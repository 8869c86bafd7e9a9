"""Drivers as processes, and the processes of their Ray: starting, finding, killing, and waiting until they are gone."""

from __future__ import annotations

import json
import math
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray

DRIVER = Path(__file__).parent / "driver.py"
OF_RAY = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED")  # settings of the Ray that is shared
MARK = "LATENTLAKE_FAULTS"  # environment variable that all processes of a driver inherit
ACTOR = "ray::MapWorker(MapBatches(EmbedShard))"
READER = "ray::MapBatches(ReadShard)"
WRITER = "ray::MapBatches(WriteShard)"
TIMEOUT_S = 180


class Driver:
    """A driver that was started. Its files lie in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        job: Mapping[str, Any],
        *options: str,
        python_path: Path | None = None,
        program: Path = DRIVER,
        environment: Mapping[str, str] | None = None,
        shared_ray: bool = False,
    ) -> None:
        """With `shared_ray` its job runs on the Ray that this process is connected to, which outlives it; else on one of its own."""
        self.mark = secrets.token_hex(8)
        self.folder = folder / f"driver-{self.mark}"
        self.folder.mkdir(parents=True)
        (self.folder / "job.json").write_text(json.dumps(job))
        paths = [str(python_path)] if python_path else []
        paths += [inherited] if (inherited := os.environ.get("PYTHONPATH")) else []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        if shared_ray:
            kept |= {name: os.environ[name] for name in OF_RAY}
            options += ("--address", ray.get_runtime_context().gcs_address)
        command = [sys.executable, str(program), str(self.folder / "job.json"), str(self.folder / "report.json")]
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [*command, *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=python_path or self.folder,
                env={**kept, MARK: self.mark, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
            )

    @property
    def log(self) -> str:
        """What it has printed."""
        return (self.folder / "log").read_text()

    @property
    def report(self) -> dict[str, Any]:
        """Report of the run that it ended."""
        report: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return report

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait until it and its Ray are gone; its exit code. They are killed, with an `AssertionError`, after a while."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not done after {timeout_s:.0f} s:\n{self.log}") from None
        self.wait_for_ray()
        return code

    def wait_for_ray(self) -> None:
        """Wait until no process is left that it has started."""
        until = time.monotonic() + 60
        while left := list(self.processes()):
            if time.monotonic() > until:
                kill_all(left)
                raise AssertionError(f"Ray outlived its driver: {[process.pid for process in left]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it, then wait for its Ray to follow."""
        self.process.kill()
        self.process.wait()
        self.wait_for_ray()

    def processes(self) -> Iterator[psutil.Process]:
        """Processes that it has started, directly or not, and itself."""
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.mark:
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def succeed(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Wait for it; its report. An `AssertionError` with its log where it failed."""
        code = self.wait(timeout_s)
        assert code == 0, f"exit {code}:\n{self.log}"
        return self.report


def find_workers(title: str, among: Callable[[], Iterable[psutil.Process]]) -> list[psutil.Process]:
    """Ray workers that are doing something now, by the title of their process."""
    found = []
    for process in among():
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for_workers(
    title: str, among: Callable[[], Iterable[psutil.Process]], timeout_s: float = 60
) -> list[psutil.Process]:
    """Wait for Ray workers of a title; `AssertionError` where none comes."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if found := find_workers(title, among):
            return found
        time.sleep(0.02)
    raise AssertionError(f"no process {title!r} in {timeout_s:.0f} s")


class Workers:
    """Ray workers of this process's Ray. They are looked for four times per second, which takes long; their titles are always new."""

    def __init__(self) -> None:
        self._found: list[psutil.Process] = []
        self._found_at = -math.inf

    def __call__(self) -> Iterator[psutil.Process]:
        if time.monotonic() - self._found_at > 0.25:
            self._found = find_workers("ray::", partial(psutil.Process().children, recursive=True))
            self._found_at = time.monotonic()
        yield from self._found


def kill_all(processes: list[psutil.Process]) -> None:
    """Kill processes; those that are gone already do not matter."""
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
