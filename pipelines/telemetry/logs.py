"""Log lines as JSON objects, one per line, with the run that they are of. The logging is Python's own."""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from logging.handlers import QueueHandler
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]

HELD = 1000  # records that wait to travel; the oldest go
TEXT = "%(levelname)s %(name)s: %(message)s"
OURS = ("pipelines", "latentlake", "operators", "clusters")  # loggers whose events are told in JSON, below warnings too
PLAIN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName"}
ABOUT: ContextVar[Mapping[str, Any]] = ContextVar("about", default={})  # noqa: B039 (never changed in place)


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record's `extra` has; not what a library, such as Ray, adds to every record for itself."""
    return {name: value for name, value in vars(record).items() if name not in PLAIN and not name.startswith("_")}


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, event, message, what it is about, and its `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line. What is no JSON is told as text."""
        message = record.getMessage()
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", "log"),
            "message": message,
            **ABOUT.get(),
            **extra_of(record),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


@contextmanager
def about(**facts: Any) -> Iterator[None]:
    """While entered, log lines of this thread say what they are about: `run_id`, `table`, `shard`."""
    token = ABOUT.set({**ABOUT.get(), **facts})
    try:
        yield
    finally:
        ABOUT.reset(token)


def configure(log_format: LogFormat) -> None:
    """Log to stderr: warnings as text, or as JSON also the events of runs. Where somebody else logs already, text changes nothing."""
    root = logging.getLogger()
    own = next((handler for handler in root.handlers if isinstance(handler, OwnHandler)), None)
    if own is None and (log_format == "json" or not root.handlers):
        own = OwnHandler()
        root.addHandler(own)
    if own is not None:
        own.stream = sys.stderr  # not by setStream, which flushes what may be closed
        own.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(TEXT))
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO if log_format == "json" else logging.NOTSET)


class OwnHandler(logging.StreamHandler[TextIO]):
    """LatentLake's own handler, recognized by its class."""


def in_json() -> bool:
    """Whether this process logs in JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


@dataclass(frozen=True)
class WorkerLogs:
    """How the processes that work for a run log: as its driver does. Travels to them with their tasks."""

    json: bool = field(default_factory=in_json)
    facts: Mapping[str, Any] = field(default_factory=lambda: dict(ABOUT.get()))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Log as told, about the run."""
        if self.json and not in_json():
            configure("json")
        with about(**self.facts):
            yield

    @contextmanager
    def collected(self) -> Iterator[deque[logging.LogRecord]]:
        """Log also into what is yielded: records that can travel to the driver, and be logged there."""
        records: deque[logging.LogRecord] = deque(maxlen=HELD)
        collector, root = Collector(records), logging.getLogger()
        configure("json" if self.json else "text")
        root.addHandler(collector)
        try:
            with about(**self.facts):
                yield records
        finally:
            root.removeHandler(collector)


class Collector(QueueHandler):
    """Keeps records, made ready to travel, with what they are about."""

    def __init__(self, records: deque[logging.LogRecord]) -> None:
        super().__init__(records)  # type: ignore[arg-type]  # `enqueue` alone would use it as a queue

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record as text and plain values, whatever a library has put into it."""
        ready: logging.LogRecord = super().prepare(record)
        vars(ready).update(json.loads(json.dumps({**extra_of(ready), **ABOUT.get()}, default=str)))
        return ready

    def enqueue(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.queue.append(record)  # type: ignore[attr-defined]
