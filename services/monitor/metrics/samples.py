"""All samples of one moment, as a pure function of a snapshot of the yard."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from schemas.devices import Device, Host
from schemas.downloads import ENDED, Download
from schemas.instances import COMING, LIVE, Instance, InstanceState, Node
from schemas.metric_names import BY_SAMPLE_NAME, METRICS, Metric
from schemas.metrics import InstanceMetrics, Sample
from schemas.placement import WaitingModel
from services.monitor.metrics.broker_probe import BrokerHealth
from services.monitor.metrics.event_counters import InstanceCounters, RequestCounters

_DEVICE_GAUGES = (
    ("yard_device_memory_total_bytes", "memory_total_bytes", 1.0),
    ("yard_device_memory_used_bytes", "memory_used_bytes", 1.0),
    ("yard_device_memory_free_bytes", "memory_free_bytes", 1.0),
    ("yard_device_utilization_ratio", "utilization_pct", 0.01),
    ("yard_device_temperature_celsius", "temperature_c", 1.0),
    ("yard_device_power_watts", "power_w", 1.0),
    ("yard_device_power_limit_watts", "power_limit_w", 1.0),
    ("yard_device_fan_ratio", "fan_pct", 0.01),
    ("yard_device_clock_hertz", "clock_mhz", 1e6),
    ("yard_device_memory_clock_hertz", "memory_clock_mhz", 1e6),
    ("yard_device_pcie_generation", "pcie_generation", 1.0),
    ("yard_device_pcie_lanes", "pcie_width", 1.0),
    ("yard_device_pcie_receive_bytes_per_second", "pcie_receive_bytes_s", 1.0),
    ("yard_device_pcie_transmit_bytes_per_second", "pcie_transmit_bytes_s", 1.0),
)
_HOST_GAUGES = (
    ("yard_host_swap_total_bytes", "swap_total_bytes"),
    ("yard_host_swap_used_bytes", "swap_used_bytes"),
    ("yard_host_disk_total_bytes", "disk_total_bytes"),
    ("yard_host_disk_used_bytes", "disk_used_bytes"),
    ("yard_host_disk_free_bytes", "disk_free_bytes"),
    ("yard_host_disk_read_bytes_per_second", "disk_read_bytes_s"),
    ("yard_host_disk_write_bytes_per_second", "disk_write_bytes_s"),
    ("yard_host_network_receive_bytes_per_second", "network_receive_bytes_s"),
    ("yard_host_network_transmit_bytes_per_second", "network_transmit_bytes_s"),
    ("yard_host_load1", "load1"),
    ("yard_host_cores", "cores"),
)
_ACTIVITY = (
    ("yard_instance_slots", "slots"),
    ("yard_instance_busy", "busy"),
    ("yard_instance_prompt_tokens_per_second", "prompt_tokens_per_s"),
    ("yard_instance_completion_tokens_per_second", "completion_tokens_per_s"),
    ("yard_instance_kv_used_ratio", "kv_used_ratio"),
    ("yard_instance_requests_total", "requests"),
    ("yard_instance_failed_requests_total", "failed"),
    ("yard_instance_prompt_tokens_total", "prompt_tokens"),
    ("yard_instance_cached_tokens_total", "cached_tokens"),
    ("yard_instance_completion_tokens_total", "completion_tokens"),
)
_ENGINE = (("yard_instance_engine_busy", "busy"), ("yard_instance_engine_waiting", "waiting"))


@dataclass(frozen=True, kw_only=True)
class YardSnapshot:
    """State of the yard, by the keys of its buckets, and counters."""

    now: float
    version: str = ""
    devices: Mapping[str, Device] = field(default_factory=dict)
    """By `node.device`, without those that are not sampled any more."""
    nodes: Mapping[str, Node] = field(default_factory=dict)
    expected: frozenset[str] = frozenset()
    """Nodes of the yard, present or not, without those that left on purpose."""
    instances: Mapping[str, Instance] = field(default_factory=dict)
    activity: Mapping[str, InstanceMetrics] = field(default_factory=dict)
    """By instance."""
    waiting: Mapping[str, WaitingModel] = field(default_factory=dict)
    downloads: Mapping[str, Download] = field(default_factory=dict)
    queue: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Messages of the work queue, by model and lane."""
    requests: RequestCounters = field(default_factory=RequestCounters)
    instance_counters: InstanceCounters = field(default_factory=InstanceCounters)
    broker: BrokerHealth = field(default_factory=BrokerHealth)
    extra: tuple[Sample, ...] = ()
    """Samples of other parts of the monitor."""


def collect_samples(snapshot: YardSnapshot) -> list[Sample]:
    """Every metric of `schemas.metric_names` that has a value now."""
    instances = snapshot.instances.values()
    samples = [_sample("yard_info", 1.0, version=snapshot.version)]
    samples += node_samples(snapshot.nodes, snapshot.expected)
    models = {instance.instance: instance.model for instance in instances}
    for device in snapshot.devices.values():
        samples += device_samples(device)
        samples += instance_memory_samples(device, models)
    samples += instance_samples(instances)
    for activity in snapshot.activity.values():
        samples += activity_samples(activity)
    samples += model_samples(instances, snapshot.waiting.values(), snapshot.now)
    samples += queue_samples(snapshot.queue)
    samples += snapshot.instance_counters.samples()
    samples += snapshot.requests.samples(snapshot.now)
    samples += download_samples(snapshot.downloads.values())
    samples += broker_samples(snapshot.broker)
    samples += snapshot.extra
    return samples


def samples_by_metric(samples: Iterable[Sample]) -> list[tuple[Metric, list[Sample]]]:
    """The metrics with samples, in the order of METRICS; unknown samples are left out."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        if (metric := BY_SAMPLE_NAME.get(sample.name)) is not None:
            by_name.setdefault(metric.name, []).append(sample)
    return [(metric, by_name[metric.name]) for metric in METRICS if metric.name in by_name]


def _sample(name: str, value: float, **labels: str) -> Sample:
    return Sample(name=name, value=float(value), labels=labels)


def _attribute_samples(
    record: Host | InstanceMetrics, attributes: Iterable[tuple[str, str]], labels: dict[str, str]
) -> Iterator[Sample]:
    for name, attribute in attributes:
        if (value := getattr(record, attribute)) is not None:
            yield _sample(name, value, **labels)


def node_samples(nodes: Mapping[str, Node], expected: Iterable[str]) -> Iterator[Sample]:
    """Every node of the yard: up is 1 with a live record, 0 where one is expected."""
    for name in sorted({*expected, *nodes}):
        yield _sample("yard_node_up", name in nodes, node=name)
    for node in nodes.values():
        yield _sample("yard_node_info", 1.0, node=node.node, version=node.version)
        yield _sample("yard_node_cordoned", node.cordoned, node=node.node)


def device_samples(device: Device) -> Iterator[Sample]:
    """The sensors of a device; one without a value has no sample."""
    labels = {"node": device.node, "device": device.device}
    simulated = "true" if device.simulated else "false"
    info = {"kind": device.kind.value, "name": device.name, "simulated": simulated}
    yield Sample(name="yard_device_info", value=1.0, labels=labels | info)
    for name, attribute, factor in _DEVICE_GAUGES:
        if (value := getattr(device, attribute)) is not None:
            yield _sample(name, value * factor, **labels)
    if device.memory_total_bytes:
        used = device.memory_used_bytes / device.memory_total_bytes
        yield _sample("yard_device_memory_used_ratio", used, **labels)
    yield _sample("yard_device_processes", len(device.processes), **labels)
    for reason in device.throttled_by:
        yield _sample("yard_device_throttled", 1.0, **labels, reason=reason)
    if (host := device.host) is not None:
        yield from _attribute_samples(host, _HOST_GAUGES, {"node": device.node})
        if host.disk_total_bytes and host.disk_free_bytes is not None:
            used = 1 - host.disk_free_bytes / host.disk_total_bytes
            yield _sample("yard_host_disk_used_ratio", used, node=device.node)


def instance_memory_samples(device: Device, models: dict[str, str]) -> Iterator[Sample]:
    """Memory of a device by instance; `models` has the model of every instance."""
    memory: Counter[str] = Counter()
    for process in device.processes:
        if process.instance in models and process.memory_bytes is not None:
            memory[process.instance] += process.memory_bytes
    for instance, memory_bytes in memory.items():
        labels = {"node": device.node, "device": device.device, "instance_id": instance}
        yield _sample("yard_device_instance_memory_bytes", memory_bytes, **labels, model=models[instance])


def activity_samples(activity: InstanceMetrics) -> Iterator[Sample]:
    labels = _instance_labels(activity)
    yield from _attribute_samples(activity, _ACTIVITY, labels)
    if activity.prompt_tokens:
        ratio = activity.cached_tokens / activity.prompt_tokens
        yield _sample("yard_instance_prompt_cache_hit_ratio", ratio, **labels)
    for name, key in _ENGINE:
        if key in activity.engine:
            yield _sample(name, activity.engine[key], **labels)


def instance_samples(instances: Iterable[Instance]) -> Iterator[Sample]:
    """State and memory of live instances, and the failures of failed ones."""
    for instance in instances:
        labels = _instance_labels(instance)
        if instance.state in LIVE or instance.state is InstanceState.FAILED:
            yield _sample("yard_instance_state", 1.0, **labels, state=instance.state.value)
            yield _sample("yard_instance_consecutive_failures", instance.failures, **labels)
        if instance.state not in LIVE:
            continue
        if instance.load_s is not None:
            yield _sample("yard_instance_load_seconds", instance.load_s, **labels)
        for part in instance.reserved:
            place = {**labels, "node": part.node or instance.node, "device": part.device}
            yield _sample("yard_instance_reserved_bytes", part.predicted_bytes, **place)
            if part.measured_bytes is not None:
                yield _sample("yard_instance_memory_bytes", part.measured_bytes, **place)


def model_samples(
    instances: Iterable[Instance], waiting: Iterable[WaitingModel], now: float
) -> Iterator[Sample]:
    """Every model that has instances or waiting requests."""
    ready: Counter[str] = Counter()
    coming: Counter[str] = Counter()
    circuit_open: dict[str, bool] = {}
    # The newest record decides: that of an older failure may still exist.
    for instance in sorted(instances, key=lambda instance: instance.changed_at):
        model = instance.model
        ready[model] += instance.state is InstanceState.READY
        coming[model] += instance.state in COMING
        circuit_open[model] = instance.circuit_open and (instance.retry_at or 0.0) > now
    for model, count in ready.items():
        yield _sample("yard_model_ready", count, model=model)
        yield _sample("yard_model_starting", coming[model], model=model)
        yield _sample("yard_model_circuit_open", circuit_open[model], model=model)
    for waiting_model in waiting:
        if waiting_model.refused is None:
            blocked_s = max(now - waiting_model.since, 0.0)
            yield _sample("yard_model_blocked_seconds", blocked_s, model=waiting_model.model)


def queue_samples(queue: Mapping[tuple[str, str], int]) -> Iterator[Sample]:
    for (model, lane), count in queue.items():
        yield _sample("yard_model_queue", count, model=model, lane=lane)


def download_samples(downloads: Iterable[Download]) -> Iterator[Sample]:
    states: Counter[str] = Counter()
    for download in downloads:
        states[download.state.value] += 1
        if download.state in ENDED:
            continue
        yield _sample("yard_download_bytes", download.bytes_done, model=download.model)
        if download.bytes_total is not None:
            yield _sample("yard_download_total_bytes", download.bytes_total, model=download.model)
        if download.speed_bytes_s is not None:
            yield _sample("yard_download_bytes_per_second", download.speed_bytes_s, model=download.model)
    for state, count in states.items():
        yield _sample("yard_downloads", count, state=state)


def broker_samples(broker: BrokerHealth) -> Iterator[Sample]:
    if broker.round_trip_s is not None:
        yield _sample("yard_broker_round_trip_seconds", broker.round_trip_s)
    yield _sample("yard_broker_reconnects_total", broker.reconnects)
    for name, usage in broker.streams.items():
        yield _sample("yard_broker_stream_messages", usage.messages, stream=name)
        yield _sample("yard_broker_stream_bytes", usage.stored_bytes, stream=name)
        if usage.limit_bytes is not None:
            yield _sample("yard_broker_stream_limit_bytes", usage.limit_bytes, stream=name)


def _instance_labels(record: Instance | InstanceMetrics) -> dict[str, str]:
    return {"instance_id": record.instance, "model": record.model, "node": record.node}
