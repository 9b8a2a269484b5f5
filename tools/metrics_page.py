"""The table of metrics as a page, derived from the contract: `python -m tools.metrics_page`."""

import sys

from schemas.metric_names import METRICS, MetricType

_HEAD = """\
# Metrics

The monitor gathers them once a second, whoever looks on. They are told

- to Prometheus at `GET /metrics` of the gateway, as text or, where the scraper asks for it, as OpenMetrics.
  Where API keys are in use, a key is needed: `authorization: {type: Bearer, credentials: KEY}`;
- as JSON at `GET /api/metrics` (`?names=a,b`), over NATS by `yard.command.metrics.now`;
- with their history of a day at `GET /api/metrics/history?names=a,b&since=…&until=…&step_s=…`, where every
  other parameter is a label with its value; over NATS by `yard.command.metrics.query`. Each point has the
  smallest, the mean and the largest value of its step. Of a counter they are its increase a second. Steps
  are 10 s for the last two hours and 60 s before;
- to an OpenTelemetry collector, with `OTEL_EXPORTER_OTLP_ENDPOINT` set and `modelyard[otel]` installed, every
  `OTEL_METRIC_EXPORT_INTERVAL` milliseconds (60000).

A sensor that does not answer has no sample. What is gone (an instance that ended, a device that is silent for
10 s) has none either. Counters begin anew with the process that counts: with what ended
while it was away, and where all of that is known still, with all there was. Of what is counted by models,
keys or errors there are at most 200 series a metric; what comes after is counted together under `other`.

`examples/prometheus/` has a configuration, alert rules and a Grafana dashboard.

| metric | type | labels | history | meaning |
|---|---|---|---|---|
"""


def text() -> str:
    """The page as it lies in `docs/metrics.md`."""
    rows = (
        f"| `{one.name}` | {one.type} | {_labels(one.labels, one.type)} | {'yes' if one.kept else 'no'} | "
        f"{one.help} |\n"
        for one in METRICS
    )
    return _HEAD + "".join(rows)


def _labels(labels: tuple[str, ...], kind: MetricType) -> str:
    named = (*labels, "le") if kind is MetricType.HISTOGRAM else labels
    return ", ".join(f"`{label}`" for label in named) or "-"


if __name__ == "__main__":
    sys.stdout.write(text())
