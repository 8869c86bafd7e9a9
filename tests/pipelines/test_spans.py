"""Spans: of a run, its phases, its shards and their stages; to a provider in the process, and over the wire."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_commands import commands
from job_maker import make_job, run, write_texts
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from operators.errors import GateRefused
from pipelines.telemetry.spans import Spans, export_spans


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Where this process's spans go meanwhile."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def job_of(folder: Path, **sections: Any) -> dict[str, Any]:
    texts = {f"{n}.txt": f"text number {n}" for n in range(20)}
    return make_job(folder, write_texts(folder / "in", texts), shard={"max_objects": 10}, **sections)


def named(found: tuple[ReadableSpan, ...], name: str) -> list[ReadableSpan]:
    return [span for span in found if span.name == name]


def test_a_run_its_phases_and_its_shards_are_spans(tmp_path: Path, spans: InMemorySpanExporter):
    report = run(job_of(tmp_path))
    found = spans.get_finished_spans()
    (whole,) = named(found, "run")
    assert dict(whole.attributes or {}) == {
        "table": "t", "job": "job", "run_id": report["run_id"], "version": report["version"], "rows_written": 20,
        "state": "published",
    }  # fmt: skip
    by_id = {span.context.span_id: span for span in found}
    parents = {span.name: by_id[span.parent.span_id].name for span in found if span.parent is not None}
    assert {name for name, parent in parents.items() if parent == "run"} == set(report["phases"])
    assert {name: parents[name] for name in ("read", "embed", "write")} == dict.fromkeys(
        ("read", "embed", "write"), "shard"
    )
    shards = named(found, "shard")
    assert sorted((span.attributes or {})["shard"] for span in shards) == [0, 1]
    assert sum(int(str((span.attributes or {})["rows"])) for span in named(found, "embed")) == 20
    for span in found:
        assert whole.start_time is not None and span.start_time is not None and span.end_time is not None
        assert whole.start_time <= span.start_time <= span.end_time


def test_a_run_that_does_not_succeed_is_an_error(tmp_path: Path, spans: InMemorySpanExporter):
    job = job_of(tmp_path, gates={"max_reject_rate": 0.0})
    (tmp_path / "in" / "empty.txt").write_text("")
    with pytest.raises(GateRefused):
        run(job)
    (whole,) = named(spans.get_finished_spans(), "run")
    assert (whole.attributes or {})["state"] == "refused"
    assert not whole.status.is_ok and "max_reject_rate" in str(whole.status.description)


def test_without_opentelemetry_nothing_is_done(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    spans = Spans({"table": "t"})
    spans.begin("listing")
    spans.shard({"stages": [{"stage": "read", "began": 1.0, "ended": 2.0}]})
    spans.end("published")
    assert spans._run is None


def test_nothing_is_configured_unless_the_environment_asks(monkeypatch: pytest.MonkeyPatch):
    asked: list[object] = []
    monkeypatch.setattr(trace, "set_tracer_provider", asked.append)
    place = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    for environment in ({}, {**place, "OTEL_TRACES_EXPORTER": "none"}, {**place, "OTEL_SDK_DISABLED": "true"}):
        export_spans(environment)
    assert asked == []
    export_spans(place)
    assert len(asked) == 1


def test_a_missing_extra_is_told_and_stops_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    export_spans({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert "pip install 'latentlake[otel]'" in caplog.text


class Receiver(BaseHTTPRequestHandler):
    """What takes spans in, by OTLP over HTTP."""

    requests: list[tuple[str, ExportTraceServiceRequest]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.mark.slow
def test_the_command_sends_spans_where_the_standard_variables_say(tmp_path: Path):
    Receiver.requests = []
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job_of(tmp_path)))
    setting, command = commands("docs/observability.md", "Spans")
    name, place = setting.removeprefix("export ").split("=")
    here = place.replace("collector:4318", f"127.0.0.1:{server.server_port}")
    environment = {**os.environ, name: here, "OTEL_RESOURCE_ATTRIBUTES": "site=lab"}
    words = [sys.executable, "-m", "pipelines", *command.split()[1:], "--json"]
    try:
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert {path for path, _ in Receiver.requests} == {"/v1/traces"}
    resources = [resource for _, request in Receiver.requests for resource in request.resource_spans]
    told = {pair.key: pair.value.string_value for pair in resources[0].resource.attributes}
    assert (told["service.name"], told["site"]) == ("latentlake", "lab")
    names = [span.name for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert names.count("run") == 1 and names.count("shard") == 2
    assert set(json.loads(done.stdout)["phases"]) <= set(names)
