"""OpenTelemetry spans, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector; otherwise nothing is recorded."""

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from modelyard.bus import logs

if TYPE_CHECKING:
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

log = logs.get(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Span:
    """One piece of work in a trace. `traceparent` travels with whatever it causes."""

    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent

    def set_attributes(self, **attributes: str | int | float | None) -> None:
        """Attributes of the span (`__` in a name becomes a dot); those that are None are left out."""


class _RecordedSpan(Span):
    def __init__(self, span: "OtelSpan", traceparent: str | None) -> None:
        super().__init__(traceparent)
        self._span = span

    def set_attributes(self, **attributes: str | int | float | None) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name.replace("__", "."), value)


@contextlib.contextmanager
def span(name: str, traceparent: str | None, **attributes: str | int | float | None) -> Iterator[Span]:
    """A child span of `traceparent`. Without a collector it only passes `traceparent` on."""
    tracing = _tracing()
    if tracing is None:
        yield Span(traceparent)
        return
    tracer, propagator = tracing
    parent = propagator.extract({"traceparent": traceparent} if traceparent else {})
    with tracer.start_as_current_span(name, context=parent) as otel_span:
        carrier: dict[str, str] = {}
        propagator.inject(carrier)
        recorded = _RecordedSpan(otel_span, carrier.get("traceparent"))
        recorded.set_attributes(**attributes)
        yield recorded


def tracing_environment() -> dict[str, str]:
    """The variables that OpenTelemetry reads, for a process that is given few others."""
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}


@cache
def _tracing() -> "tuple[Tracer, TraceContextTextMapPropagator] | None":
    """Exports in the background, as OpenTelemetry's own variables say; flushed at exit."""
    if not os.environ.get(ENDPOINT):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        reason = f"{ENDPOINT} is set; install modelyard[otel] to export spans."
        log.warning("tracing_unavailable", reason=reason)
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": "modelyard"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("modelyard"), TraceContextTextMapPropagator()
