"""What readers ask, kept in a file of their own machine where they want it: an index is tuned best with real queries.

Off by default. A line holds the vector of a query and the column that it asked, never the text, the file or the hits.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 32 * 2**20  # a file that is larger becomes the older one, of which there is one


def default_log() -> Path:
    """Where queries are logged on this machine, if nothing else is said."""
    import platformdirs

    return platformdirs.user_state_path("latentlake") / "queries.jsonl"


class QueryLog:
    """A file that queries are added to. Made by `connect(…, log_queries=…)`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, table: str, column: str, fingerprint: str, vectors: Iterable[np.ndarray]) -> None:
        """Note queries: the address of their table, the column, what made its vectors, and their own vectors."""
        told = {"time": round(time.time(), 3), "table": table, "column": column, "fingerprint": fingerprint}
        rounded = ([round(float(value), 7) for value in vector] for vector in vectors)
        lines = "".join(json.dumps({**told, "vector": vector}) + "\n" for vector in rounded)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size > MAX_BYTES:
            self.path.replace(older(self.path))
        # One write: lines of several processes do not mix.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, lines.encode())
        finally:
            os.close(file)


def older(path: Path) -> Path:
    """Where the queries before the newest are."""
    return path.with_name(f"{path.name}.old")


def logged_queries(path: Path, table: str, column: str, fingerprint: str) -> np.ndarray | None:
    """Vectors (n, length) of the queries that a log has of a column, the oldest first; None where it has none.

    Lines that are not whole are left out: a machine may stop as one is written.
    """
    found = [
        line["vector"]
        for place in (older(path), path)
        for line in read_lines(place)
        if (line.get("table"), line.get("column"), line.get("fingerprint")) == (table, column, fingerprint)
    ]
    lengths = {len(vector) for vector in found}
    return np.array(found, np.float32) if len(lengths) == 1 else None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log that can be read."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("vector"), list):
                yield line
