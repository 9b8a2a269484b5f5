"""Export of metrics by OTLP, where OTEL_EXPORTER_OTLP_ENDPOINT is set."""

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from modelyard.bus import logs
from modelyard.bus.tracing import ENDPOINT
from modelyard.host.settings import SettingsError
from schemas.metrics import Sample

log = logs.get(__name__)

_METRICS_ENDPOINT = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
"""Milliseconds, as OpenTelemetry has it."""
_DEFAULT_INTERVAL_MS = "60000"


async def export_metrics(
    samples: Callable[[], tuple[Sample, ...]], environ: Mapping[str, str] = os.environ
) -> None:
    """Export `samples()` at every interval until cancelled; return at once where no endpoint is set."""
    if not is_enabled(environ):
        return
    try:
        from services.monitor.metrics.otlp_exporter import OtlpExporter
    except ImportError:
        reason = f"{ENDPOINT} is set; install modelyard[otel] to send there."
        log.warning("metrics_export_unavailable", reason=reason)
        return
    period_s = interval_s(environ)
    loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1, "otlp")
    exporter = await loop.run_in_executor(thread, OtlpExporter)
    try:
        while True:
            await asyncio.sleep(period_s)
            if not await loop.run_in_executor(thread, exporter.export, samples()):
                log.warning("metrics_export_failed")
    finally:
        thread.submit(exporter.close)
        thread.shutdown(wait=False)


def is_enabled(environ: Mapping[str, str]) -> bool:
    """Whether an endpoint is set and OTEL_METRICS_EXPORTER does not disable the export."""
    endpoint = environ.get(_METRICS_ENDPOINT) or environ.get(ENDPOINT)
    return bool(endpoint) and environ.get("OTEL_METRICS_EXPORTER", "otlp") == "otlp"


def interval_s(environ: Mapping[str, str]) -> float:
    """SettingsError unless it is a positive number of milliseconds."""
    value = environ.get(_INTERVAL) or _DEFAULT_INTERVAL_MS
    try:
        interval_ms = float(value)
    except ValueError:
        interval_ms = 0.0
    if not 0 < interval_ms <= 1e9:
        raise SettingsError(f"{_INTERVAL}={value} is not a number of milliseconds.")
    return interval_ms / 1000
