"""A proxy before an S3 server that counts what clients read: the bytes of each object, as they cross the network.

Counters of a process would see its imports and the page cache too. What a table never overwrites (data and index files) is
kept here once it was fetched, because the test server reads a whole object for every range of it.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

KEPT = re.compile(r"\.lance/(data|_indices)/.+\.\w+$")
HOP_HEADERS = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")
RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


class CountingS3:
    """Forwards to the server at `target`; a context. `read` has the bytes of bodies by object (`bucket/key`)."""

    def __init__(self, target: str, delay_s: float = 0.0) -> None:
        """`delay_s` is waited before each answer, as a store further off would have it."""
        self.target = urlsplit(target).netloc
        self.delay_s = delay_s
        self.read: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()  # by method
        self._kept: dict[str, tuple[list[tuple[str, str]], bytes]] = {}
        self._lock = threading.Lock()
        self._server = Server(self)

    @property
    def endpoint(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> CountingS3:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self) -> Counter[str]:
        """Bytes read by object since the last call."""
        with self._lock:
            read, self.read = self.read, Counter()
        return read

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """The server's answer, or a kept object's."""
        time.sleep(self.delay_s)
        name = unquote(urlsplit(path).path).lstrip("/")
        ranged = RANGE.match(next((v for k, v in headers.items() if k.lower() == "range"), ""))
        if method == "GET" and ranged and KEPT.search(name):
            if name not in self._kept:
                whole = {key: value for key, value in headers.items() if key.lower() != "range"}
                status, found, content = self.forward(method, path, whole, body)
                if status != 200:
                    return status, found, content
                self._kept[name] = found, content
            found, content = self._kept[name]
            first, last = bounds(ranged, len(content))
            found = [*found, ("Content-Range", f"bytes {first}-{last}/{len(content)}")]
            answer: Answer = 206, found, content[first : last + 1]
        else:
            answer = self.forward(method, path, headers, body)
        with self._lock:
            self.requests[method] += 1
            if method == "GET":
                self.read[name] += len(answer[2])
        return answer

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Ask the server."""
        connection = HTTPConnection(self.target, timeout=600)
        try:
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()


Answer = tuple[int, list[tuple[str, str]], bytes]  # status, headers, body


def bounds(ranged: re.Match[str], size: int) -> tuple[int, int]:
    """First and last byte of a range."""
    first, last = ranged.groups()
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(size - 1, int(last) if last else size - 1)


class Server(ThreadingHTTPServer):
    """Serves a proxy's requests on a free port of loopback, each connection in a thread of its own."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = (
        1024  # Lance connects many times at once: the 5 of the standard library refuse most of them, which wait
    )

    def __init__(self, proxy: CountingS3) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.proxy = proxy


class Handler(BaseHTTPRequestHandler):
    """Answers what a connection asks."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_any(self) -> None:
        """Answer a request of any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, content = self.server.proxy.answer(self.command, self.path, dict(self.headers.items()), body)
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP_HEADERS:
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        if status != 204:
            self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(content)))
        self.end_headers()
        if content and self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do_any

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
