"""Nodes, their instances and logs, and the metrics of all of them."""

from schemas.base import CALLERS, GATEWAY, MONITOR, OPERATOR, RUNNER, SERVICES, SUPERVISOR, WATCHERS
from schemas.devices import Device
from schemas.instances import (
    Accepted,
    ClearNode,
    Instance,
    NodeCleared,
    NodeLeft,
    StartInstance,
    StartWorker,
    StopInstance,
    WorkerStarted,
)
from schemas.logs import LogBatch, ServiceLogBatch
from schemas.metrics import (
    Exposition,
    GetSamples,
    HistoryChunk,
    InstanceMetrics,
    MetricsQuery,
    MetricsReply,
    Samples,
)
from schemas.placement import Cordon, GetNodeOptions, NodeOptions
from schemas.subject import Command, Subject

NODE_OPTIONS = Command(
    "yard.command.node.{node}.options",
    GetNodeOptions,
    NodeOptions,
    callers=(SUPERVISOR,),
    server=SUPERVISOR,
    summary="The ways in which a node could run a model, with the memory of each.",
)
NODE_CORDON = Command(
    "yard.command.node.{node}.cordon",
    Cordon,
    Accepted,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="Stop or resume scheduling on this node; with `drain` its instances are stopped too.",
    changes="node",
)
NODE_START = Command(
    "yard.command.node.{node}.start",
    StartInstance,
    Accepted,
    callers=(SUPERVISOR,),
    server=SUPERVISOR,
    summary="The scheduler proposes a start; the node accepts or refuses.",
)
NODE_STOP = Command(
    "yard.command.node.{node}.stop",
    StopInstance,
    Accepted,
    callers=(SUPERVISOR,),
    server=SUPERVISOR,
    summary="Drain and stop one instance on this node.",
)
NODE_WORKER = Command(
    "yard.command.node.{node}.worker",
    StartWorker,
    WorkerStarted,
    callers=(RUNNER,),
    server=SUPERVISOR,
    summary="Host a part of a model for an instance, possibly of another node.",
    timeout_s=20.0,
)
NODE_CLEAR = Command(
    "yard.command.node.{node}.clear",
    ClearNode,
    NodeCleared,
    callers=(OPERATOR,),
    server=SUPERVISOR,
    summary="Stop every instance on this node and accept no further start; replies when all have ended.",
    changes="node",
)
NODE_LEFT = Subject(
    "yard.event.node.{node}.left",
    NodeLeft,
    publish=(SUPERVISOR,),
    subscribe=(*WATCHERS, MONITOR),
    summary="A node left deliberately; a crashed node publishes nothing.",
)
INSTANCE_CHANGED = Subject(
    "yard.event.instance.{instance}.{state}",
    Instance,
    publish=(SUPERVISOR, RUNNER),
    subscribe=(*WATCHERS, MONITOR),
    summary="An instance changed its state.",
)
INSTANCE_LOG = Subject(
    "yard.log.{node}.{instance}",
    LogBatch,
    publish=(RUNNER,),
    subscribe=WATCHERS,
    summary="Output of an engine.",
)
SERVICE_LOG = Subject(
    "yard.log.{node}.service.{service}",
    ServiceLogBatch,
    publish=SERVICES,
    subscribe=WATCHERS,
    summary="Log lines of a service.",
)


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
