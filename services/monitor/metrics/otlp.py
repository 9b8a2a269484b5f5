"""Metrics over OpenTelemetry's protocol, where OTEL_EXPORTER_OTLP_ENDPOINT says where to send them."""

import asyncio
import os
from collections.abc import Callable, Mapping

from modelyard.bus import logs
from modelyard.bus.tracing import ENDPOINT
from modelyard.host.settings import SettingsError
from schemas.metrics import Sample
from services.monitor.thread import OwnThread

log = logs.get(__name__)

_OWN_ENDPOINT = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
"""Milliseconds, as OpenTelemetry has it."""
_DEFAULT_INTERVAL_MS = "60000"


async def send_metrics(
    samples: Callable[[], tuple[Sample, ...]], environ: Mapping[str, str] = os.environ
) -> None:
    """Send what `samples` gives at every interval, until cancelled; return at once where nobody wants it."""
    if not is_wanted(environ):
        return
    try:
        from services.monitor.metrics.otlp_live import Exporter
    except ImportError:
        log.warning("no_metrics_sent", reason=f"{ENDPOINT} is set; install modelyard[otel] to send there.")
        return
    every_s, thread = interval_s(environ), OwnThread("otlp")
    exporter = await thread.run(Exporter)
    try:
        while True:
            await asyncio.sleep(every_s)
            if not await thread.run(exporter.send, samples()):
                log.warning("metrics_not_sent")
    finally:
        thread.end(exporter.close)


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether there is somebody to send to; OTEL_METRICS_EXPORTER=none says no."""
    endpoint = environ.get(_OWN_ENDPOINT) or environ.get(ENDPOINT)
    return bool(endpoint) and environ.get("OTEL_METRICS_EXPORTER", "otlp") == "otlp"


def interval_s(environ: Mapping[str, str]) -> float:
    """SettingsError if it is no time."""
    value = environ.get(_INTERVAL) or _DEFAULT_INTERVAL_MS
    try:
        interval_ms = float(value)
    except ValueError:
        interval_ms = 0.0
    if not 0 < interval_ms <= 1e9:
        raise SettingsError(f"{_INTERVAL}={value} is not a number of milliseconds.")
    return interval_ms / 1000
