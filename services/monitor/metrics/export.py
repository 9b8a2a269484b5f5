"""Export of metrics: Prometheus' text format, and OTLP where OTEL_EXPORTER_OTLP_ENDPOINT is set."""

import asyncio
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from modelyard.bus import logs
from modelyard.bus.tracing import ENDPOINT
from modelyard.host.settings import SettingsError
from schemas.metric_names import Metric, MetricType
from schemas.metrics import Sample
from services.monitor.metrics.samples import samples_by_metric

log = logs.get(__name__)

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_METRICS_ENDPOINT = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
"""Milliseconds, as OpenTelemetry has it."""
_DEFAULT_INTERVAL_MS = "60000"


def render(samples: Iterable[Sample], *, openmetrics: bool = False) -> str:
    """Family by family, in the order of METRICS; OpenMetrics text has an end mark."""
    families = samples_by_metric(samples)
    lines = [line for metric, family in families for line in _family(metric, family, openmetrics)]
    return "\n".join([*lines, *(["# EOF"] if openmetrics else []), ""])


def _family(metric: Metric, samples: list[Sample], openmetrics: bool) -> Iterator[str]:
    stripped = openmetrics and metric.type is MetricType.COUNTER
    name = metric.name.removesuffix("_total") if stripped else metric.name
    yield f"# HELP {name} {metric.help.translate(_HELP_ESCAPES)}"
    yield f"# TYPE {name} {metric.type}"
    for sample in samples:
        pairs = ",".join(f'{label}="{text.translate(_ESCAPES)}"' for label, text in sample.labels.items())
        labels = f"{{{pairs}}}" if pairs else ""
        yield f"{sample.name}{labels} {_number(sample.value)}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


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
