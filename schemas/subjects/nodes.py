"""Nodes, their instances and logs, and the metrics of all of them."""

from schemas.base import GATEWAY, MONITOR, OPERATOR, RUNNER, SERVICES, SUPERVISOR, WATCHERS
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
from schemas.subject import CommandDeclarer, Subject

_supervisor = CommandDeclarer(SUPERVISOR)
_scheduling = CommandDeclarer(SUPERVISOR, callers=(SUPERVISOR,))
_monitor = CommandDeclarer(MONITOR)

NODE_OPTIONS = _scheduling(
    "node.{node}.options",
    GetNodeOptions,
    NodeOptions,
    "The ways in which a node could run a model, with the memory of each.",
)
NODE_CORDON = _supervisor(
    "node.{node}.cordon",
    Cordon,
    Accepted,
    "Stop or resume scheduling on this node; with `drain` its instances are stopped too.",
    changes="node",
)
NODE_START = _scheduling(
    "node.{node}.start",
    StartInstance,
    Accepted,
    "The scheduler proposes a start; the node accepts or refuses.",
)
NODE_STOP = _scheduling(
    "node.{node}.stop", StopInstance, Accepted, "Drain and stop one instance on this node."
)
NODE_WORKER = _supervisor(
    "node.{node}.worker",
    StartWorker,
    WorkerStarted,
    "Host a part of a model for an instance, possibly of another node.",
    callers=(RUNNER,),
    timeout_s=20.0,
)
NODE_CLEAR = _supervisor(
    "node.{node}.clear",
    ClearNode,
    NodeCleared,
    "Stop every instance on this node and accept no further start; replies when all have ended.",
    callers=(OPERATOR,),
    changes="node",
)
NODE_LEFT = Subject(
    "yard.event.node.{node}.left",
    NodeLeft,
    "A node left deliberately; a crashed node publishes nothing.",
    publish=(SUPERVISOR,),
    subscribe=(*WATCHERS, MONITOR),
)
INSTANCE_CHANGED = Subject(
    "yard.event.instance.{instance}.{state}",
    Instance,
    "An instance changed its state.",
    publish=(SUPERVISOR, RUNNER),
    subscribe=(*WATCHERS, MONITOR),
)
INSTANCE_LOG = Subject("yard.log.{node}.{instance}", LogBatch, "Output of an engine.", publish=(RUNNER,))
SERVICE_LOG = Subject(
    "yard.log.{node}.service.{service}", ServiceLogBatch, "Log lines of a service.", publish=SERVICES
)


METRICS_QUERY = _monitor(
    "metrics.query",
    MetricsQuery,
    MetricsReply,
    "The history of metrics, at most a day, downsampled to min, avg and max per step.",
)
METRICS_NOW = _monitor("metrics.now", GetSamples, Samples, "The current value of every metric.")
METRICS_EXPOSE = _monitor(
    "metrics.expose",
    Exposition,
    bytes,
    "All metrics in the Prometheus text format, compressed with zlib.",
    callers=(GATEWAY,),
)
DEVICE_METRIC = Subject(
    "yard.metric.device.{node}.{device}",
    Device,
    "One sample of one device, once a second.",
    publish=(MONITOR,),
)
INSTANCE_METRIC = Subject(
    "yard.metric.instance.{node}.{instance}",
    InstanceMetrics,
    "Activity of one instance, once a second.",
    publish=(RUNNER,),
    subscribe=(*WATCHERS, MONITOR),
)
HISTORY = Subject(
    "yard.history.{step}.{part}",
    HistoryChunk,
    "Downsampled metrics, every five minutes; `step` is the seconds per point.",
    publish=(MONITOR,),
    subscribe=(),
)
