"""Spans of a run for OpenTelemetry: the run, its phases, its shards and their stages.

The driver makes all of them; what a stage did elsewhere is in the shard's record, with its times. Without OpenTelemetry in the
process, nothing is done.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

NAME = "latentlake"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Spans:
    """The spans of one run. Spans go to the process's tracer provider, if there is one."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._trace = sys.modules.get("opentelemetry.trace")
        self._attributes = attributes
        self._run: Any = None
        self._phase: Any = None

    def begin(self, phase: str) -> None:
        """A phase begins, and the one before ends; with the first, the run."""
        if self._trace is None:
            return
        if self._run is None:
            self._run = self._start("run", None, time.time(), self._attributes)
        self._end_phase()
        self._phase = self._start(phase, self._run, time.time(), {})

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """More is known of the run."""
        if self._run is not None:
            self._run.set_attributes(attributes)

    def shard(self, facts: Mapping[str, Any]) -> None:
        """A shard is finished; see `flow.facts`."""
        stages = facts["stages"]
        if self._run is None or not stages:
            return
        attributes = {name: facts[name] for name in ("shard", "rows", "bytes_read")}
        attributes["rejects"] = sum(facts["rejects"].values())
        shard = self._start("shard", self._phase, min(stage["began"] for stage in stages), attributes)
        for stage in stages:
            work = facts["models"].get(stage.get("column"), {})
            told = {name: work[name] for name in ("rows", "tokens", "model_s") if name in work}
            column = {"column": stage["column"]} if "column" in stage else {}
            span = self._start(stage["stage"], shard, stage["began"], {**column, **told})
            span.end(nanoseconds(stage["ended"]))
        shard.end(nanoseconds(max(stage["ended"] for stage in stages)))

    def end(self, state: str, failure: str | None = None) -> None:
        """The run has ended."""
        if self._run is None:
            return
        self._end_phase()
        self._run.set_attribute("state", state)
        if failure is not None:
            assert self._trace is not None
            self._run.set_status(self._trace.Status(self._trace.StatusCode.ERROR, failure))
        self._run.end()
        self._run = None

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._phase.end()
            self._phase = None

    def _start(self, name: str, parent: Any, began: float, attributes: Mapping[str, Any]) -> Any:
        assert self._trace is not None
        context = None if parent is None else self._trace.set_span_in_context(parent)
        tracer = self._trace.get_tracer(NAME)
        return tracer.start_span(name, context, start_time=nanoseconds(began), attributes=dict(attributes))


def nanoseconds(moment: float) -> int:
    """Seconds since the epoch, as OpenTelemetry has them."""
    return int(moment * 1e9)


def export_spans(environment: Mapping[str, str]) -> None:
    """Send the spans of this process where the standard variables `OTEL_*` say, by OTLP over HTTP; nothing where they name no place."""
    exporters = environment.get("OTEL_TRACES_EXPORTER", "otlp")
    if exporters != "otlp" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    if not any(environment.get(name) for name in ENDPOINTS):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning(
            "no spans are sent: OTEL_* ask for them, and OpenTelemetry is missing: pip install 'latentlake[otel]'"
        )
        return
    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": NAME}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
