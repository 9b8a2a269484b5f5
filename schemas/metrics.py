"""Numbers about the yard: samples under their Prometheus names, and their history."""

from collections.abc import Sequence

import msgspec

from schemas.base import Record


class Sample(Record):
    """One number at one moment. `name` is the documented metric name, with its unit
    (`yard_device_temperature_celsius`)."""

    name: str
    value: float
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class InstanceMetrics(Record, omit_defaults=True):
    """Activity of one instance, once a second, from its runner. Totals count from its start."""

    instance: str
    model: str
    node: str
    sampled_at: float
    slots: int = 0
    busy: int = 0
    """Requests at work."""
    waiting: int = 0
    """Requests in the queues of its model, which all instances of it share."""
    prompt_tokens: int = 0
    """Total, those from the cache included."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_per_s: float = 0.0
    completion_tokens_per_s: float = 0.0
    """Over the last seconds."""
    requests: int = 0
    failed: int = 0
    """Prompt tokens that were cached."""
    kv_used_ratio: float | None = None
    """KV cache usage, 0 to 1; None where the engine does not report it."""
    engine: dict[str, float] = msgspec.field(default_factory=dict)
    """The engine's own metrics under our names; read only while it is busy."""


class MetricsQuery(Record):
    """Which history to return. `names` are documented metric names; all `labels` must match."""

    names: tuple[str, ...]
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    since: float | None = None
    """Unix seconds; None: an hour ago. History is retained for a day."""
    until: float | None = None
    step_s: float | None = None
    """Seconds per point; None: about 300 points."""


class Series(Record):
    """One metric with one set of labels. Point n is of the step that begins at `since + n * step_s`.

    Of a counter, the points are its increase a second. None: nothing was sampled in that step.
    """

    name: str
    labels: dict[str, str]
    min: tuple[float | None, ...]
    avg: tuple[float | None, ...]
    max: tuple[float | None, ...]


class MetricsReply(Record):
    """The requested history."""

    since: float
    step_s: float
    series: tuple[Series, ...] = ()


class GetSamples(Record):
    """The samples of now; without `names` all but the buckets of histograms."""

    names: tuple[str, ...] = ()


class Samples(Record):
    """The samples of one moment."""

    sampled_at: float
    samples: tuple[Sample, ...]


class Exposition(Record):
    """To the monitor: everything as Prometheus reads it; the text comes compressed by zlib."""

    openmetrics: bool = False
    """In the OpenMetrics variant of the format."""


class HistorySeries(Record, array_like=True):
    """Closed steps of one series; NaN has no JSON and is null."""

    name: str
    labels: dict[str, str]
    min: Sequence[float | None]
    avg: Sequence[float | None]
    max: Sequence[float | None]


class HistoryChunk(Record):
    """A chunk of downsampled history, for a monitor that restarts."""

    since: float
    step_s: float
    series: tuple[HistorySeries, ...]
