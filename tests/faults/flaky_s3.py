"""A proxy before an S3 server that breaks some of the requests, as object stores and networks do. Seeded."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KINDS = ("slow_down", "reset", "truncated", "stall")
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
HOP_HEADERS = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


@dataclass(frozen=True)
class Request:
    """What a client asks for."""

    method: str
    path: str  # with the query
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def length(self) -> str | None:
        """Its Content-Length; of a HEAD that of the object."""
        return next((value for name, value in self.headers if name.lower() == "content-length"), None)


class FlakyS3:
    """Forwards to the server at `target` and injects faults, each kind with a probability of its own.

    slow_down   503 SlowDown, before the request is forwarded or in place of its answer
    reset       the connection is reset, before the request is forwarded or in place of its answer
    truncated   the answer ends in the middle of its body, whose length was announced
    stall       nothing comes for `stall_s`, before the answer or in the middle of its body

    Whether a request meets a fault follows from the seed, the request's method and path, and how often it was made: two
    runs with equal requests meet equal faults, in whatever order their threads ask. No request meets more than `in_a_row`
    faults one after another.
    """

    def __init__(
        self,
        target: str,
        share: float = 0.05,
        *,
        shares: Mapping[str, float] | None = None,
        stall_s: float = 5.0,
        in_a_row: int = 4,
        seed: int = 0,
        drop_headers: tuple[str, ...] = (),
        only: Callable[[Request], bool] = lambda request: True,
    ) -> None:
        """`share` is the probability of every kind that `shares` does not name; `only` says which requests may fail.

        `drop_headers` are taken out of every request: without `If-None-Match` this is a store without conditional writes.
        """
        self.target, self.stall_s, self.in_a_row, self.seed = urlsplit(target).netloc, stall_s, in_a_row, seed
        self.shares = dict.fromkeys(KINDS, share) | dict(shares or {})
        self.drop_headers = {name.lower() for name in drop_headers}
        self.only = only
        self.counts: Counter[str] = Counter()  # faults by kind; "<kind> lost": the request was done and its answer lost
        self.requests: Counter[str] = Counter()  # by method
        self._asked: Counter[tuple[str, str]] = Counter()
        self._streaks: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._server = Server(self)

    @property
    def endpoint(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FlakyS3:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to serve, in a thread."""
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """End, and give the port back."""
        self._server.shutdown()
        self._server.server_close()

    def draw(self, request: Request) -> tuple[str | None, bool]:
        """The fault that a request meets, None for none, and whether it comes late: when the request has been done."""
        key = (request.method, request.path)
        with self._lock:
            self.requests[request.method] += 1
            self._asked[key] += 1
            dice = random.Random(f"{self.seed} {key} {self._asked[key]}")
            shot, late = dice.random(), dice.random() < 0.5
            kind = self._kind(shot) if self.only(request) and self._streaks[key] < self.in_a_row else None
            self._streaks[key] = self._streaks[key] + 1 if kind else 0
            return kind, late

    def count(self, kind: str) -> None:
        """Note a fault."""
        with self._lock:
            self.counts[kind] += 1

    def forward(self, request: Request) -> Answer:
        """Ask the server."""
        connection = HTTPConnection(self.target, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in self.drop_headers}
        try:
            connection.request(request.method, request.path, request.body or None, headers)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def _kind(self, shot: float) -> str | None:
        edge = 0.0
        for kind, share in self.shares.items():
            edge += share
            if shot < edge:
                return kind
        return None


class Server(ThreadingHTTPServer):
    """Serves a proxy's requests on a free port of loopback, each connection in a thread of its own."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: FlakyS3) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.proxy = proxy


class Handler(BaseHTTPRequestHandler):
    """Forwards what a connection asks, or does it harm."""

    server: Server
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):  # the client gave up, or a fault closed the connection
            super().handle_one_request()
            return
        self.close_connection = True

    def answer(self) -> None:
        """Forward a request, with the fault that the proxy has drawn for it."""
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, dict(self.headers.items()), body)
        kind, late = proxy.draw(request)
        if kind in ("slow_down", "reset") and not late:
            proxy.count(kind)
            return self.refuse() if kind == "slow_down" else self.reset()
        answer = proxy.forward(request)
        has_body = bool(answer.body) and self.command != "HEAD"
        if kind in ("slow_down", "reset"):
            proxy.count(kind)
            proxy.count(f"{kind} lost")
            return self.refuse() if kind == "slow_down" else self.reset()
        if kind == "stall" and not (late and has_body):
            proxy.count(kind)
            time.sleep(proxy.stall_s)
        self.begin(answer)
        half = len(answer.body) // 2
        if kind == "truncated" and has_body:
            proxy.count(kind)
            self.wfile.write(answer.body[:half])
            self.close_connection = True
        elif kind == "stall" and late and has_body:
            proxy.count(kind)
            self.wfile.write(answer.body[:half])
            time.sleep(proxy.stall_s)
            self.wfile.write(answer.body[half:])
        elif has_body:
            self.wfile.write(answer.body)
        return None

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def begin(self, answer: Answer) -> None:
        """Send the status and the headers."""
        self.send_response(answer.status)
        for name, value in answer.headers:
            if name.lower() not in HOP_HEADERS:
                self.send_header(name, value)
        length = answer.length if self.command == "HEAD" else None
        if answer.status != 204:
            self.send_header("Content-Length", length or str(len(answer.body)))
        self.end_headers()

    def refuse(self) -> None:
        """Answer 503 SlowDown."""
        body = b"" if self.command == "HEAD" else SLOW_DOWN
        self.begin(Answer(503, [("Content-Type", "application/xml")], body))
        self.wfile.write(body)

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise ConnectionResetError("injected")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
