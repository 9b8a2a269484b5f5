"""Samples in Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/."""

import math
from collections.abc import Iterable, Iterator

from schemas.metric_names import BY_SAMPLE_NAME, METRICS, Metric, MetricType
from schemas.metrics import Sample

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


def render(samples: Iterable[Sample], *, openmetrics: bool = False) -> str:
    """Family by family, in the order of METRICS; OpenMetrics text has an end mark."""
    families: dict[str, list[Sample]] = {metric.name: [] for metric in METRICS}
    for sample in samples:
        metric = BY_SAMPLE_NAME.get(sample.name)
        if metric is not None:
            families[metric.name].append(sample)
    lines = [line for metric in METRICS for line in _family(metric, families[metric.name], openmetrics)]
    return "\n".join([*lines, *(["# EOF"] if openmetrics else []), ""])


def _family(metric: Metric, samples: list[Sample], openmetrics: bool) -> Iterator[str]:
    if not samples:
        return
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
