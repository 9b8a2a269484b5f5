"""The part of tracing that needs OpenTelemetry's own packages."""

import contextlib
from collections.abc import Iterator

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from modelyard.tracing import Span

_propagator = TraceContextTextMapPropagator()


class LiveSpan(Span):
    """A span that will be sent."""

    def __init__(self, span: OtelSpan) -> None:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        super().__init__(carrier.get("traceparent"))
        self._span = span

    def note(self, **attributes: str | int | float | None) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name.replace("__", "."), value)


def start_tracer() -> Tracer:
    """Sends in the background, as OpenTelemetry's own environment variables say; flushed at exit."""
    provider = TracerProvider(resource=Resource.create({"service.name": "modelyard"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("modelyard")


@contextlib.contextmanager
def live_span(tracer: Tracer, name: str, traceparent: str | None) -> Iterator[LiveSpan]:
    """A span below `traceparent`, current inside the block."""
    parent = _propagator.extract({"traceparent": traceparent} if traceparent else {})
    with tracer.start_as_current_span(name, context=parent) as span:
        yield LiveSpan(span)
