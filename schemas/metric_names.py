"""Every metric by its name: what it means, what tells its series apart, and whether its history is kept.

Prometheus' HELP and TYPE lines, `docs/metrics.md` and the check of queries come from here.
"""

from collections.abc import Iterator
from enum import StrEnum

from schemas.base import Record


class MetricType(StrEnum):
    """As in Prometheus."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Metric(Record):
    """One metric. A counter's name ends in `_total`; a histogram is told as `_bucket`, `_sum`, `_count`."""

    name: str
    type: MetricType
    labels: tuple[str, ...]
    help: str
    kept: bool = True
    """Whether its history can be queried."""

    @property
    def sample_names(self) -> tuple[str, ...]:
        """The names that its samples have."""
        if self.type is MetricType.HISTOGRAM:
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return (self.name,)


def _gauges(labels: tuple[str, ...], *, kept: bool = True, **names: str) -> Iterator[Metric]:
    for name, meaning in names.items():
        yield Metric(name=f"yard_{name}", type=MetricType.GAUGE, labels=labels, help=meaning, kept=kept)


def _counters(labels: tuple[str, ...], *, kept: bool = True, **names: str) -> Iterator[Metric]:
    for name, meaning in names.items():
        yield Metric(name=f"yard_{name}", type=MetricType.COUNTER, labels=labels, help=meaning, kept=kept)


def _histograms(labels: tuple[str, ...], **names: str) -> Iterator[Metric]:
    for name, meaning in names.items():
        yield Metric(name=f"yard_{name}", type=MetricType.HISTOGRAM, labels=labels, help=meaning, kept=False)


_DEVICE = ("node", "device")
_INSTANCE = ("instance_id", "model", "node")
"""Not `instance`: Prometheus gives that name to what it scrapes."""

METRICS: tuple[Metric, ...] = (
    *_gauges(("version",), kept=False, info="1; the version of the monitor that tells this."),
    *_gauges(("node", "version"), kept=False, node_info="1 for every node that is there."),
    *_gauges(
        ("node",),
        node_up="1 if the node is there, 0 if it belongs to the yard and is not.",
        node_cordoned="1 while the node takes no new starts.",
    ),
    *_gauges(
        (*_DEVICE, "kind", "name", "simulated"),
        kept=False,
        device_info="1 for every device that answers; simulated ones are named as such.",
    ),
    *_gauges(
        _DEVICE,
        device_memory_used_bytes="Memory in use, by whomever.",
        device_memory_used_ratio="The same as a share of all its memory, 0 to 1.",
        device_utilization_ratio="How busy it is, 0 to 1.",
        device_temperature_celsius="Its temperature.",
        device_power_watts="What it draws now.",
        device_fan_ratio="Fan speed, 0 to 1.",
        device_clock_hertz="Clock of its cores.",
        device_pcie_receive_bytes_per_second="What comes to it over PCIe.",
        device_pcie_transmit_bytes_per_second="What it sends over PCIe.",
    ),
    *_gauges(
        _DEVICE,
        kept=False,
        device_memory_total_bytes="Memory of the device.",
        device_memory_free_bytes="Memory that is free.",
        device_power_limit_watts="What it may draw at most.",
        device_memory_clock_hertz="Clock of its memory.",
        device_pcie_generation="Generation of the PCIe link as it runs now.",
        device_pcie_lanes="Lanes of the PCIe link as it runs now.",
        device_processes="Processes that use it.",
    ),
    *_gauges((*_DEVICE, "reason"), device_throttled="1 while its clocks are held down for this reason."),
    *_gauges(
        (*_DEVICE, *_INSTANCE[:2]),
        device_instance_memory_bytes="Memory of the device that one instance has, as the driver counts it.",
    ),
    *_gauges(
        ("node",),
        host_swap_used_bytes="Swap space in use.",
        host_disk_used_bytes="What of it is in use.",
        host_disk_used_ratio="What of it nobody can write to any more, 0 to 1.",
        host_disk_read_bytes_per_second="What all disks read.",
        host_disk_write_bytes_per_second="What all disks write.",
        host_network_receive_bytes_per_second="What comes over the network, loopback left out.",
        host_network_transmit_bytes_per_second="What goes out over the network, loopback left out.",
        host_load1="Processes that ran or wanted to, averaged over a minute.",
    ),
    *_gauges(
        ("node",),
        kept=False,
        host_swap_total_bytes="Swap space.",
        host_disk_total_bytes="Size of the file system that YARD_HOME is on.",
        host_disk_free_bytes="What of it is left.",
        host_cores="Logical processors.",
    ),
    *_gauges(
        _INSTANCE,
        kept=False,
        instance_load_seconds="How long it took from start to ready.",
        instance_failures_in_row="How often its model failed in a row.",
    ),
    *_gauges(
        (*_INSTANCE, "device"),
        kept=False,
        instance_reserved_bytes="Memory of a device that it may take.",
    ),
    *_gauges(
        (*_INSTANCE, "state"),
        kept=False,
        instance_state="1 with the state that the instance is in.",
    ),
    *_gauges(
        _INSTANCE,
        instance_slots="Requests that it can be at, at a time.",
        instance_busy="Requests that it is at.",
        instance_prompt_tokens_per_second="Prompt tokens of the last seconds, cached ones included.",
        instance_completion_tokens_per_second="Tokens written in the last seconds.",
        instance_prompt_cache_hit_ratio="Prompt tokens found in its cache, of all since its start, 0 to 1.",
        instance_kv_used_ratio="How full its KV cache is, 0 to 1.",
        instance_engine_busy="Requests that the engine itself says it is at.",
        instance_engine_waiting="Requests that wait inside the engine.",
    ),
    *_gauges(
        (*_INSTANCE, "device"),
        instance_memory_bytes="Memory of a device that it was seen to take.",
    ),
    *_counters(
        _INSTANCE,
        instance_requests_total="Requests that it ended.",
        instance_failed_requests_total="Those of them that failed.",
        instance_prompt_tokens_total="Prompt tokens, cached ones included.",
        instance_cached_tokens_total="Prompt tokens that were found in its cache.",
        instance_completion_tokens_total="Tokens that it wrote.",
    ),
    *_gauges(
        ("model",),
        model_ready="Instances of the model that are ready.",
        model_coming="Instances of the model that are on their way.",
        model_blocked_seconds="How long the model has been asked for without being served.",
        model_circuit_open="1 while the model is not tried again after too many failures.",
    ),
    *_gauges(("model", "lane"), model_queue="Requests of the model that wait or are answered."),
    *_counters(("model", "node"), model_starts_total="Instances that were started."),
    *_counters(
        ("model", "node", "reason"),
        model_stops_total="Instances that were stopped, by reason: idle, evicted, requested, ….",
        model_failures_total="Instances that failed, by reason: crashed, oom, unhealthy, ….",
    ),
    *_counters(
        ("model", "node", "outcome"),
        requests_total="Requests that ended: ok, failed or cancelled. `node` is empty where none took it.",
    ),
    *_counters(("model", "code"), request_errors_total="Failed requests by their error's code."),
    *_counters(
        ("model", "node", "kind"), tokens_total="Tokens: prompt (cached ones included), cached, completion."
    ),
    *_counters(("key", "outcome"), key_requests_total="Requests that ended, by the id of the API key."),
    *_counters(("key", "kind"), key_tokens_total="Tokens by the id of the API key."),
    *_histograms(
        ("model", "node"),
        request_duration_seconds="From queued to ended, of requests that were answered.",
        request_first_token_seconds="From queued to the first byte of the answer.",  # noqa: S106 - no password
        request_queue_seconds="From queued to taken by a runner.",
    ),
    *_histograms(("key",), key_request_duration_seconds="As above, by the id of the API key."),
    *_gauges(
        ("model", "quantile"),
        request_duration_quantile_seconds="Of the last five minutes, from queued to ended.",
        request_first_token_quantile_seconds="As above, to the first byte.",  # noqa: S106 - no password
        request_queue_quantile_seconds="As above, in the queue.",
    ),
    *_gauges(
        ("model",),
        request_error_ratio="What of the requests of the last five minutes failed, 0 to 1, from ten on.",
    ),
    *_gauges(("state",), downloads="Downloads that are kept in the list, by state."),
    *_gauges(
        ("model",),
        download_bytes="Bytes that are there, of downloads under way.",
        download_total_bytes="Bytes of downloads under way.",
        download_bytes_per_second="Speed of downloads under way.",
    ),
    *_gauges(
        ("budget", "key", "model", "unit", "period"),
        budget_used_ratio="What of a budget is used in its period, 1 at the limit.",
        budget_used="The same in the budget's unit.",
        budget_limit="What may be used in the period, in the budget's unit.",
    ),
    *_gauges(
        ("node", "disk"),
        disk_days_until_full="How long until a disk with models or a home is full at the pace of two weeks.",
    ),
    *_gauges((), broker_round_trip_seconds="How long the broker took to answer a ping, or has not answered."),
    *_counters((), broker_reconnects_total="How often the monitor lost its broker and found it again."),
    *_gauges(
        ("stream",),
        kept=False,
        broker_stream_messages="Messages that a stream keeps.",
        broker_stream_bytes="Bytes that a stream keeps.",
        broker_stream_limit_bytes="Bytes that a stream may keep; none for those without a limit.",
    ),
    *_gauges(
        (),
        monitor_memory_bytes="Main memory of the monitor itself.",
        monitor_history_series="Series whose history is kept.",
    ),
    *_counters((), monitor_cpu_seconds_total="Processor time of the monitor itself."),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
BY_SAMPLE_NAME: dict[str, Metric] = {name: metric for metric in METRICS for name in metric.sample_names}
