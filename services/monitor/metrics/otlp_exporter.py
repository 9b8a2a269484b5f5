"""The OTLP exporter of metrics, by OpenTelemetry's packages, which read its settings."""

import time
from collections.abc import Iterable, Iterator

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from schemas import metric_names
from schemas.metric_names import MetricType
from schemas.metrics import Sample
from services.monitor.metrics.samples import samples_by_metric

_CUMULATIVE = AggregationTemporality.CUMULATIVE
_UNITS = {"bytes": "By", "seconds": "s", "celsius": "Cel", "watts": "W", "hertz": "Hz", "ratio": "1"}
"""OpenTelemetry's names for the units in ours."""


class OtlpExporter:
    """Exports samples to a collector, in the thread that created it."""

    def __init__(self) -> None:
        self._exporter = OTLPMetricExporter()
        self._resource = Resource.create({"service.name": "modelyard"})
        self._started_ns = time.time_ns()

    def export(self, samples: Iterable[Sample]) -> bool:
        """Whether the collector accepted them, after retries."""
        return self._exporter.export(self.data(samples)) is MetricExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()

    def data(self, samples: Iterable[Sample]) -> MetricsData:
        metrics = [self._metric(metric, family) for metric, family in samples_by_metric(samples)]
        scope = ScopeMetrics(InstrumentationScope("modelyard"), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _metric(self, metric: metric_names.Metric, samples: list[Sample]) -> Metric:
        now, started = time.time_ns(), self._started_ns
        data: Gauge | Sum | Histogram
        if metric.type is MetricType.HISTOGRAM:
            data = Histogram(list(_histograms(metric.name, samples, started, now)), _CUMULATIVE)
        else:
            points = [NumberDataPoint(dict(sample.labels), started, now, sample.value) for sample in samples]
            is_counter = metric.type is MetricType.COUNTER
            data = Sum(points, _CUMULATIVE, is_monotonic=True) if is_counter else Gauge(points)
        return Metric(metric.name, metric.help, _unit(metric.name), data)


def _histograms(name: str, samples: list[Sample], started: int, now: int) -> Iterator[HistogramDataPoint]:
    """Prometheus counts at or below each bound, OpenTelemetry between two bounds."""
    grouped: dict[tuple[tuple[str, str], ...], dict[str, list[Sample]]] = {}
    for sample in samples:
        key = tuple((label, value) for label, value in sample.labels.items() if label != "le")
        grouped.setdefault(key, {}).setdefault(sample.name.removeprefix(name), []).append(sample)
    for key, parts in grouped.items():
        below = [int(sample.value) for sample in parts["_bucket"]]
        yield HistogramDataPoint(
            attributes=dict(key),
            start_time_unix_nano=started,
            time_unix_nano=now,
            count=int(parts["_count"][0].value),
            sum=parts["_sum"][0].value,
            bucket_counts=[count - before for count, before in zip(below, [0, *below], strict=False)],
            explicit_bounds=[float(sample.labels["le"]) for sample in parts["_bucket"][:-1]],
            min=None,  # type: ignore[arg-type]  # unknown, and optional in the protocol
            max=None,  # type: ignore[arg-type]
        )


def _unit(name: str) -> str:
    words = name.removesuffix("_total").split("_")
    if words[-2:] == ["per", "second"]:
        return f"{_UNITS.get(words[-3], '1')}/s"
    return _UNITS.get(words[-1], "1")
