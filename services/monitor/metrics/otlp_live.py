"""The part of sending metrics that needs OpenTelemetry's packages: they know the wire and its settings."""

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
from schemas.metric_names import BY_SAMPLE_NAME, METRICS, MetricType
from schemas.metrics import Sample

_CUMULATIVE = AggregationTemporality.CUMULATIVE
_UNITS = {"bytes": "By", "seconds": "s", "celsius": "Cel", "watts": "W", "hertz": "Hz", "ratio": "1"}
"""OpenTelemetry's names for the units in ours."""


class Exporter:
    """Sends samples to a collector. To be used from the thread that made it."""

    def __init__(self) -> None:
        self._exporter = OTLPMetricExporter()
        self._resource = Resource.create({"service.name": "modelyard"})
        self._started_ns = time.time_ns()

    def send(self, samples: Iterable[Sample]) -> bool:
        """Whether the collector took them; it is tried again for a while."""
        return self._exporter.export(self.data(samples)) is MetricExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()

    def data(self, samples: Iterable[Sample]) -> MetricsData:
        """The samples as OpenTelemetry has them."""
        by_metric: dict[str, list[Sample]] = {}
        for sample in samples:
            metric = BY_SAMPLE_NAME.get(sample.name)
            if metric is not None:
                by_metric.setdefault(metric.name, []).append(sample)
        metrics = [self._metric(one, by_metric[one.name]) for one in METRICS if one.name in by_metric]
        scope = ScopeMetrics(InstrumentationScope("modelyard"), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _metric(self, metric: metric_names.Metric, samples: list[Sample]) -> Metric:
        now, begun = time.time_ns(), self._started_ns
        told: Gauge | Sum | Histogram
        if metric.type is MetricType.HISTOGRAM:
            told = Histogram(list(_histograms(metric.name, samples, begun, now)), _CUMULATIVE)
        else:
            points = [NumberDataPoint(dict(one.labels), begun, now, one.value) for one in samples]
            counts = metric.type is MetricType.COUNTER
            told = Sum(points, _CUMULATIVE, is_monotonic=True) if counts else Gauge(points)
        return Metric(metric.name, metric.help, _unit(metric.name), told)


def _histograms(name: str, samples: list[Sample], begun: int, now: int) -> Iterator[HistogramDataPoint]:
    """Prometheus counts what is at or below each bound, OpenTelemetry what is between two."""
    grouped: dict[tuple[tuple[str, str], ...], dict[str, list[Sample]]] = {}
    for sample in samples:
        key = tuple((label, value) for label, value in sample.labels.items() if label != "le")
        grouped.setdefault(key, {}).setdefault(sample.name.removeprefix(name), []).append(sample)
    for key, parts in grouped.items():
        below = [int(one.value) for one in parts["_bucket"]]
        yield HistogramDataPoint(
            attributes=dict(key),
            start_time_unix_nano=begun,
            time_unix_nano=now,
            count=int(parts["_count"][0].value),
            sum=parts["_sum"][0].value,
            bucket_counts=[count - before for count, before in zip(below, [0, *below], strict=False)],
            explicit_bounds=[float(one.labels["le"]) for one in parts["_bucket"][:-1]],
            min=None,  # type: ignore[arg-type]  # nobody knows, and the protocol lets it out
            max=None,  # type: ignore[arg-type]
        )


def _unit(name: str) -> str:
    words = name.removesuffix("_total").split("_")
    if words[-2:] == ["per", "second"]:
        return f"{_UNITS.get(words[-3], '1')}/s"
    return _UNITS.get(words[-1], "1")
