"""A service that embeds texts, on loopback, and that can be out of order; `hosted_family` asks it."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

FAMILY = {"embedders/hosted": (Path(__file__).parent / "hosted_family.py").read_text()}
POISON = "poison"


class Service:
    """A context. `down` requests to come are refused, and all until `down_until` (monotonic seconds); `embedded` are the texts that
    it gave vectors for.
    """

    def __init__(self, down: int = 0, retry_after: str | None = None, takes_s: float = 0.0) -> None:
        self.down, self.retry_after, self.takes_s = down, retry_after, takes_s
        self.down_until = 0.0
        self.embedded: list[str] = []
        self.asked = self.refused = self.under_way = self.most = 0
        self.lock = threading.Lock()

    def __enter__(self) -> Service:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with service.lock:
                    service.asked += 1
                    service.under_way += 1
                    service.most = max(service.most, service.under_way)
                    refused = service.down > 0 or time.monotonic() < service.down_until
                    service.down = max(0, service.down - 1)
                    service.refused += refused
                texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                time.sleep(service.takes_s)
                status = 503 if refused else 400 if POISON in texts else 200
                answer = [[1.0, *(float(len(text) >> bit & 1) for bit in range(3))] for text in texts]
                with service.lock:
                    service.under_way -= 1
                    service.embedded += texts if status == 200 else []
                self.send_response(status)
                if refused and service.retry_after:
                    self.send_header("Retry-After", service.retry_after)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
