"""A Ray cluster of real nodes on this machine: explicit ports, token authentication, own folders, ended by process id."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

MARK = "LATENTLAKE_CLUSTER"  # environment variable that all processes of a node inherit
START_S = 240
PORTS = ("node-manager-port", "object-manager-port", "metrics-export-port", "dashboard-agent-listen-port")


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class RayNode:
    """A node as `ray start --block` makes it: a head, or a member of the cluster at `address`.

    Its files are in a folder of its own, as on a machine of its own: where two nodes share one, each deletes the working
    folder of the other's submitted jobs.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], options: list[str]) -> None:
        self.mark = secrets.token_hex(4)
        self.log = folder / f"{self.mark}.log"
        ports = [f"--{name}={port}" for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)]
        first = 20000 + secrets.randbelow(127) * 100  # below the ports that are given to whoever asks for any
        command = [
            str(Path(sys.executable).parent / "ray"),
            "start",
            "--block",
            "--disable-usage-stats",
            f"--temp-dir={folder / self.mark}",
            *options,
            *ports,
        ]
        command += [f"--min-worker-port={first}", f"--max-worker-port={first + 99}", "--object-store-memory=150000000"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**environment, MARK: self.mark}, cwd=folder
            )

    def processes(self) -> Iterator[psutil.Process]:
        """The node's processes that live."""
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.mark:
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def kill(self) -> None:
        """Kill the node with all it runs, at once, as when its machine is lost."""
        while left := list(self.processes()):
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.1)
        self.process.wait()


class RayCluster:
    """A head, and further nodes as they are added. Close it, or use it in a `with` statement."""

    def __init__(self, folder: Path, cpus: int = 2, gpus: int = 0) -> None:
        """`folder` needs a short path: sockets are in it."""
        self.folder = folder
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {
            **kept,
            "PATH": path,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_raylet_start_wait_time_s": "120",
            # A lost node is noticed within seconds, not after half a minute.
            "RAY_health_check_initial_delay_ms": "2000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "4000",
            "RAY_health_check_failure_threshold": "5",
        }
        self.nodes: list[RayNode] = []
        port, dashboard, client = free_ports(3)
        self.address, self.dashboard = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        head = [
            "--head",
            "--node-ip-address=127.0.0.1",
            f"--port={port}",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}",
        ]
        self._start([*head, f"--num-cpus={cpus}", f"--num-gpus={gpus}"])

    def add_node(self, cpus: int = 2, gpus: int = 0) -> RayNode:
        """Start another node, and wait until it lives."""
        options = ["--node-ip-address=127.0.0.1", f"--address={self.address}"]
        return self._start([*options, f"--num-cpus={cpus}", f"--num-gpus={gpus}"])

    def run(self, *command: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run a command that may talk to the cluster; it and its output."""
        return subprocess.run(
            command, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how
        )

    def close(self) -> None:
        """End all nodes."""
        for node in self.nodes[::-1]:
            node.kill()

    def _start(self, options: list[str]) -> RayNode:
        node = RayNode(self.folder, self.environment, options)
        self.nodes.append(node)
        until = time.monotonic() + START_S
        while "Ray runtime started" not in (log := node.log.read_text()):
            if node.process.poll() is not None or time.monotonic() > until:
                self.close()
                raise AssertionError(f"the node did not start:\n{log}")
            time.sleep(0.2)
        return node

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
