"""The table of metrics as a page, derived from the contract: `python -m tools.metrics_page`."""

import sys

from schemas.metric_names import METRICS, MetricType

_HEAD = """\
# Metrics

The monitor samples all metrics once a second. They are available

- for Prometheus at `GET /metrics` of the gateway, in the text format or, if the scraper asks for it, as
  OpenMetrics. With API keys in use, a key is needed: `authorization: {type: Bearer, credentials: KEY}`;
- as JSON at `GET /api/metrics` (`?names=a,b`), and over NATS by `yard.command.metrics.now`;
- with a day of history at `GET /api/metrics/history?names=a,b&since=…&until=…&step_s=…`, where every other
  parameter is a label with its value, and over NATS by `yard.command.metrics.query`. Each point has the
  minimum, the mean and the maximum of its step; for a counter they are the increase per second. Steps are
  10 s for the last two hours and 60 s before;
- for an OpenTelemetry collector, with `OTEL_EXPORTER_OTLP_ENDPOINT` set and `modelyard[otel]` installed,
  every `OTEL_METRIC_EXPORT_INTERVAL` milliseconds (60000).

A sensor that does not respond has no sample, nor has an instance that ended or a device that has been silent
for 10 s. Counters restart with the monitor: from the events that it missed, and, if the event stream is
complete, from all events. Counters by model, key or error have at most 200 series each; further ones are
summed up under `other`.

`examples/prometheus/` has a configuration, alert rules and a Grafana dashboard.

| metric | type | labels | history | meaning |
|---|---|---|---|---|
"""


def text() -> str:
    """The page as it lies in `docs/metrics.md`."""
    rows = (
        f"| `{metric.name}` | {metric.type} | {_labels(metric.labels, metric.type)} | "
        f"{'yes' if metric.has_history else 'no'} | "
        f"{metric.help} |\n"
        for metric in METRICS
    )
    return _HEAD + "".join(rows)


def _labels(labels: tuple[str, ...], kind: MetricType) -> str:
    named = (*labels, "le") if kind is MetricType.HISTOGRAM else labels
    return ", ".join(f"`{label}`" for label in named) or "-"


if __name__ == "__main__":
    sys.stdout.write(text())
