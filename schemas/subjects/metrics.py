"""Metrics of devices, instances and the yard."""

from schemas.base import CALLERS, GATEWAY, MONITOR, RUNNER, WATCHERS
from schemas.devices import Device
from schemas.metrics import (
    Exposition,
    GetSamples,
    HistoryChunk,
    InstanceMetrics,
    MetricsQuery,
    MetricsReply,
    Samples,
)
from schemas.subject import Command, Subject

METRICS_QUERY = Command(
    "yard.command.metrics.query",
    MetricsQuery,
    MetricsReply,
    callers=CALLERS,
    server=MONITOR,
    summary="The history of metrics, at most a day, downsampled to min, avg and max per step.",
)
METRICS_NOW = Command(
    "yard.command.metrics.now",
    GetSamples,
    Samples,
    callers=CALLERS,
    server=MONITOR,
    summary="The current value of every metric.",
)
METRICS_EXPOSE = Command(
    "yard.command.metrics.expose",
    Exposition,
    bytes,
    callers=(GATEWAY,),
    server=MONITOR,
    summary="All metrics in the Prometheus text format, compressed with zlib.",
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
    summary="Activity of one instance, once a second.",
)
HISTORY = Subject(
    "yard.history.{step}.{part}",
    HistoryChunk,
    publish=(MONITOR,),
    subscribe=(),
    summary="Downsampled metrics, every five minutes; `step` is the seconds per point.",
)
