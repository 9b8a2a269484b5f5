"""Numbers about devices, instances and everything else."""

from schemas.base import CALLERS, GATEWAY, MONITOR, RUNNER, WATCHERS
from schemas.devices import Device
from schemas.metrics import (
    AskSamples,
    Exposition,
    HistoryChunk,
    InstanceMetrics,
    MetricsAnswer,
    MetricsQuery,
    Samples,
)
from schemas.subject import Command, Subject

METRICS_QUERY = Command(
    "yard.command.metrics.query",
    MetricsQuery,
    MetricsAnswer,
    callers=CALLERS,
    server=MONITOR,
    summary="The history of metrics, at most a day, thinned to min, avg and max a step.",
)
METRICS_NOW = Command(
    "yard.command.metrics.now",
    AskSamples,
    Samples,
    callers=CALLERS,
    server=MONITOR,
    summary="Every metric as it is now.",
)
METRICS_EXPOSE = Command(
    "yard.command.metrics.expose",
    Exposition,
    bytes,
    callers=(GATEWAY,),
    server=MONITOR,
    summary="Every metric as Prometheus reads it, compressed by zlib.",
)
DEVICE_METRIC = Subject(
    "yard.metric.device.{node}.{device}",
    Device,
    publish=(MONITOR,),
    subscribe=WATCHERS,
    summary="One sample of one device, once a second.",
)
INSTANCE_METRIC = Subject(
    "yard.metric.instance.{node}.{instance}",
    InstanceMetrics,
    publish=(RUNNER,),
    subscribe=(*WATCHERS, MONITOR),
    summary="What one instance does, once a second.",
)
HISTORY = Subject(
    "yard.history.{step}.{part}",
    HistoryChunk,
    publish=(MONITOR,),
    subscribe=(),
    summary="Thinned metrics, every five minutes; `step` is the seconds of a point.",
)
