"""The connection to a Ray cluster's job server."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook

from .client.errors import LatentLakeError
from .client.jobs import PATIENCE_S, JobServer

PORT = 8265
TEST_PATIENCE_S = 5.0  # for which the button "Test" waits for an answer


class RayJobHook(BaseHook):
    """The job server that a connection of type `ray_jobs` names: host, port, and the cluster's token as password.

    The host may be a whole address, https://HOST or http://HOST:8265.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "ray_jobs_default"
    conn_type = "ray_jobs"
    hook_name = "Ray job server"

    def __init__(self, conn_id: str = default_conn_name, patience_s: float = PATIENCE_S) -> None:
        """`patience_s`: how long a server that does not answer is asked again."""
        super().__init__()
        self.conn_id, self.patience_s = conn_id, patience_s

    def get_conn(self) -> JobServer:
        """A client of the server; close it, or use it in a `with` statement."""
        return self._open(self.get_connection(self.conn_id))

    async def async_conn(self) -> JobServer:
        """The same for triggers. Its methods block: call them in a thread."""
        return self._open(await self.aget_connection(self.conn_id))

    def test_connection(self) -> tuple[bool, str]:
        """Whether the server answers and takes the token, and what to tell the user."""
        self.patience_s = TEST_PATIENCE_S
        try:
            with self.get_conn() as server:
                return True, f"Ray {server.version()} at {server.address}"
        except LatentLakeError as failure:
            return False, str(failure)

    def _open(self, connection: Any) -> JobServer:
        return JobServer(address_of(connection), connection.password or None, self.patience_s)


def address_of(connection: Any) -> str:
    """The address that a connection names."""
    host = (connection.host or "").rstrip("/")
    if "://" not in host:
        return f"{connection.schema or 'http'}://{host}:{connection.port or PORT}"
    return f"{host}:{connection.port}" if connection.port else host
