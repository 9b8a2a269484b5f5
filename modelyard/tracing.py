"""OpenTelemetry spans, where OTEL_EXPORTER_OTLP_ENDPOINT says where to send them; otherwise nothing."""

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from modelyard import logging

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log = logging.get(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Span:
    """One piece of work in a trace. `traceparent` is what goes along with what it causes."""

    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent

    def note(self, **attributes: str | int | float | None) -> None:
        """What became known of it; nothing is noted of what is None."""


@contextlib.contextmanager
def span(name: str, traceparent: str | None, **attributes: str | int | float | None) -> Iterator[Span]:
    """A span below the one that `traceparent` names. Without an endpoint it only passes that on."""
    tracer = _tracer()
    if tracer is None:
        yield Span(traceparent)
        return
    from modelyard.tracing_live import live_span

    with live_span(tracer, name, traceparent) as live:
        live.note(**attributes)
        yield live


def tracing_environment() -> dict[str, str]:
    """The variables that OpenTelemetry reads, for a process that is given few others."""
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}


@cache
def _tracer() -> "Tracer | None":
    if not os.environ.get(ENDPOINT):
        return None
    try:
        from modelyard.tracing_live import start_tracer
    except ImportError:
        log.warning("no_tracing", reason=f"{ENDPOINT} is set; install modelyard[otel] to send spans there.")
        return None
    return start_tracer()
