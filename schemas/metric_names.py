"""All metrics by name: meaning, labels, and whether their history is recorded.

Prometheus' HELP and TYPE lines, `docs/metrics.md` and the check of queries come from here.
"""

from collections.abc import Iterator
from enum import StrEnum
from functools import partial

from schemas.base import Record


class MetricType(StrEnum):
    """The Prometheus type."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Metric(Record):
    """One metric. A counter's name ends in `_total`; a histogram consists of `_bucket`, `_sum`, `_count`."""

    name: str
    type: MetricType
    labels: tuple[str, ...]
    help: str
    has_history: bool = True
    """Whether its history can be queried."""

    @property
    def sample_names(self) -> tuple[str, ...]:
        """The names that its samples have."""
        if self.type is MetricType.HISTOGRAM:
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return (self.name,)


def _metrics(
    kind: MetricType, labels: tuple[str, ...], *, has_history: bool = True, **names: str
) -> Iterator[Metric]:
    for name, meaning in names.items():
        yield Metric(name=f"yard_{name}", type=kind, labels=labels, help=meaning, has_history=has_history)


_gauges = partial(_metrics, MetricType.GAUGE)
_counters = partial(_metrics, MetricType.COUNTER)
_histograms = partial(_metrics, MetricType.HISTOGRAM, has_history=False)
_DEVICE = ("node", "device")
_INSTANCE = ("instance_id", "model", "node")
"""Not `instance`: Prometheus gives that name to what it scrapes."""

METRICS: tuple[Metric, ...] = (
    *_gauges(("version",), has_history=False, info="1; the version of the monitor."),
    *_gauges(("node", "version"), has_history=False, node_info="1 for every node that is online."),
    *_gauges(
        ("node",),
        node_up="1 if the node is online, 0 if it belongs to the yard and is offline.",
        node_cordoned="1 while the node takes no new starts.",
    ),
    *_gauges(
        (*_DEVICE, "kind", "name", "simulated"),
        has_history=False,
        device_info="1 for every device that responds; simulated ones are labelled.",
    ),
    *_gauges(
        _DEVICE,
        device_memory_used_bytes="Memory in use by all processes.",
        device_memory_used_ratio="The same as a share of all its memory, 0 to 1.",
        device_utilization_ratio="Utilization, 0 to 1.",
        device_temperature_celsius="Temperature.",
        device_power_watts="Power draw.",
        device_fan_ratio="Fan speed, 0 to 1.",
        device_clock_hertz="Clock of its cores.",
        device_pcie_receive_bytes_per_second="Bytes received over PCIe.",
        device_pcie_transmit_bytes_per_second="Bytes sent over PCIe.",
    ),
    *_gauges(
        _DEVICE,
        has_history=False,
        device_memory_total_bytes="Memory of the device.",
        device_memory_free_bytes="Free memory.",
        device_power_limit_watts="Power limit.",
        device_memory_clock_hertz="Clock of its memory.",
        device_pcie_generation="Generation of the PCIe link as it runs now.",
        device_pcie_lanes="Lanes of the PCIe link as it runs now.",
        device_processes="Processes that use the device.",
    ),
    *_gauges((*_DEVICE, "reason"), device_throttled="1 while its clocks are throttled for this reason."),
    *_gauges(
        (*_DEVICE, *_INSTANCE[:2]),
        device_instance_memory_bytes="Memory of the device that one instance has, as the driver counts it.",
    ),
    *_gauges(
        ("node",),
        host_swap_used_bytes="Swap space in use.",
        host_disk_used_bytes="Bytes in use on the file system of YARD_HOME.",
        host_disk_used_ratio="Share of the file system that is not writable any more, 0 to 1.",
        host_disk_read_bytes_per_second="What all disks read.",
        host_disk_write_bytes_per_second="What all disks write.",
        host_network_receive_bytes_per_second="Bytes received over the network, without loopback.",
        host_network_transmit_bytes_per_second="Bytes sent over the network, without loopback.",
        host_load1="Runnable processes, averaged over a minute.",
    ),
    *_gauges(
        ("node",),
        has_history=False,
        host_swap_total_bytes="Swap space.",
        host_disk_total_bytes="Size of the file system of YARD_HOME.",
        host_disk_free_bytes="Free bytes on the file system of YARD_HOME.",
        host_cores="Logical processors.",
    ),
    *_gauges(
        _INSTANCE,
        has_history=False,
        instance_load_seconds="Time from start to ready.",
        instance_consecutive_failures="Consecutive failures of its model.",
    ),
    *_gauges(
        (*_INSTANCE, "device"),
        has_history=False,
        instance_reserved_bytes="Memory of a device reserved for it.",
    ),
    *_gauges(
        (*_INSTANCE, "state"), has_history=False, instance_state="1 for the present state of the instance."
    ),
    *_gauges(
        _INSTANCE,
        instance_slots="Requests that it can process at the same time.",
        instance_busy="Requests in flight.",
        instance_prompt_tokens_per_second="Prompt tokens of the last seconds, cached ones included.",
        instance_completion_tokens_per_second="Tokens generated in the last seconds.",
        instance_prompt_cache_hit_ratio="Cached share of all prompt tokens since its start, 0 to 1.",
        instance_kv_used_ratio="KV cache usage, 0 to 1.",
        instance_engine_busy="Requests in flight as the engine reports them.",
        instance_engine_waiting="Requests queued inside the engine.",
    ),
    *_gauges((*_INSTANCE, "device"), instance_memory_bytes="Measured memory of a device."),
    *_counters(
        _INSTANCE,
        instance_requests_total="Finished requests.",
        instance_failed_requests_total="Failed requests.",
        instance_prompt_tokens_total="Prompt tokens, cached ones included.",
        instance_cached_tokens_total="Prompt tokens found in its cache.",
        instance_completion_tokens_total="Generated tokens.",
    ),
    *_gauges(
        ("model",),
        model_ready="Ready instances of the model.",
        model_starting="Starting instances of the model.",
        model_blocked_seconds="How long the model has been requested without being served.",
        model_circuit_open="1 while the circuit breaker of the model is open after repeated failures.",
    ),
    *_gauges(("model", "lane"), model_queue="Requests of the model that are queued or in flight."),
    *_counters(("model", "node"), model_starts_total="Started instances."),
    *_counters(
        ("model", "node", "reason"),
        model_stops_total="Stopped instances, by reason: idle, evicted, requested, ….",
        model_failures_total="Failed instances, by reason: crashed, oom, unhealthy, ….",
    ),
    *_counters(
        ("model", "node", "outcome"),
        requests_total="Finished requests: ok, failed or cancelled. `node` is empty where no runner took it.",
    ),
    *_counters(("model", "code"), request_errors_total="Failed requests by their error's code."),
    *_counters(
        ("model", "node", "kind"), tokens_total="Tokens: prompt (cached ones included), cached, completion."
    ),
    *_counters(("key", "outcome"), key_requests_total="Finished requests, by the id of the API key."),
    *_counters(("key", "kind"), key_tokens_total="Tokens by the id of the API key."),
    *_histograms(
        ("model", "node"),
        request_duration_seconds="From queued to finished, of answered requests.",
        request_first_token_seconds="From queued to the first byte of the answer.",  # noqa: S106 - no password
        request_queue_seconds="From queued to taken by a runner.",
    ),
    *_histograms(("key",), key_request_duration_seconds="As above, by the id of the API key."),
    *_gauges(
        ("model", "quantile"),
        request_duration_quantile_seconds="Of the last five minutes, from queued to finished.",
        request_first_token_quantile_seconds="As above, to the first byte.",  # noqa: S106 - no password
        request_queue_quantile_seconds="As above, in the queue.",
    ),
    *_gauges(
        ("model",),
        request_error_ratio="Failed share of the requests of the last five minutes, 0 to 1, from ten on.",
    ),
    *_gauges(("state",), downloads="Downloads in the list, by state."),
    *_gauges(
        ("model",),
        download_bytes="Received bytes of running downloads.",
        download_total_bytes="Total bytes of running downloads.",
        download_bytes_per_second="Speed of running downloads.",
    ),
    *_gauges(
        ("budget", "key", "model", "unit", "period"),
        budget_used_ratio="Used share of a budget in its period, 1 at the limit.",
        budget_used="The same in the budget's unit.",
        budget_limit="The limit of the period, in the budget's unit.",
    ),
    *_gauges(
        ("node", "disk"),
        disk_days_until_full="Days until a disk with models or a home is full, by the trend of two weeks.",
    ),
    *_gauges(
        (), broker_round_trip_seconds="Round-trip time of a ping to the broker, or its age without a reply."
    ),
    *_counters((), broker_reconnects_total="Reconnects of the monitor to the broker."),
    *_gauges(
        ("stream",),
        has_history=False,
        broker_stream_messages="Messages in a stream.",
        broker_stream_bytes="Bytes in a stream.",
        broker_stream_limit_bytes="Maximum bytes of a stream; absent for streams without a limit.",
    ),
    *_gauges(
        (),
        monitor_memory_bytes="Main memory of the monitor process.",
        monitor_history_series="Series with recorded history.",
    ),
    *_counters((), monitor_cpu_seconds_total="Processor time of the monitor process."),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
BY_SAMPLE_NAME: dict[str, Metric] = {name: metric for metric in METRICS for name in metric.sample_names}
