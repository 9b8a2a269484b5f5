"""Samples of a snapshot of the yard, and their text format."""

import math

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from schemas.budgets import BudgetAction, BudgetLevel, BudgetState
from schemas.devices import Device, DeviceKind, DeviceProcess, Host
from schemas.downloads import Download, DownloadState
from schemas.errors import EngineFailed
from schemas.instances import Instance, InstanceState, Node, Reason, Reserved
from schemas.metric_names import BY_SAMPLE_NAME, METRICS, MetricType
from schemas.metrics import InstanceMetrics, Sample
from schemas.placement import Refusal, WaitingModel
from schemas.requests import Lane, Outcome, RequestFinished
from schemas.usage import Period, UsageUnit
from services.monitor.budget_totals import budget_samples
from services.monitor.metrics.broker_probe import BrokerHealth, StreamUsage
from services.monitor.metrics.counters import BUCKETS_S, MAX_SERIES, OTHER, DurationHistogram
from services.monitor.metrics.event_counters import InstanceCounters, RequestCounters
from services.monitor.metrics.export import render
from services.monitor.metrics.samples import YardSnapshot, collect_samples

NOW = 1_000_000.0
HOST = Host(
    swap_total_bytes=4,
    swap_used_bytes=1,
    disk_total_bytes=100,
    disk_used_bytes=60,
    disk_free_bytes=40,
    disk_read_bytes_s=1.0,
    disk_write_bytes_s=2.0,
    network_receive_bytes_s=3.0,
    network_transmit_bytes_s=4.0,
    load1=0.5,
    cores=8,
)
GPU = Device(
    node="n1",
    device="GPU-1",
    kind=DeviceKind.GPU,
    name='A "fast" card',
    memory_total_bytes=100,
    memory_used_bytes=30,
    memory_free_bytes=70,
    sampled_at=NOW,
    utilization_pct=50.0,
    temperature_c=61.0,
    power_w=120.0,
    power_limit_w=450.0,
    fan_pct=40.0,
    clock_mhz=2500.0,
    memory_clock_mhz=10000.0,
    pcie_generation=4,
    pcie_width=16,
    pcie_receive_bytes_s=5.0,
    pcie_transmit_bytes_s=6.0,
    throttled_by=("thermal",),
    processes=(
        DeviceProcess(pid=1, memory_bytes=20, instance="i1"),
        DeviceProcess(pid=2, memory_bytes=5, instance="i1"),
        DeviceProcess(pid=3, memory_bytes=5),
    ),
    host=HOST,
)


BUDGET = BudgetState(
    budget="team",
    level=BudgetLevel.WITHIN,
    starts_at=NOW,
    ends_at=NOW + 1,
    used="1",
    limit="4",
    ratio=0.25,
    unit=UsageUnit.MONEY,
    period=Period.MONTH,
    action=BudgetAction.WARN,
    tz="UTC",
)


def instance(name: str = "i1", **changes: object) -> Instance:
    fields = {
        "instance": name,
        "model": "m",
        "node": "n1",
        "engine": "embedded",
        "revision": 1,
        "state": InstanceState.READY,
        "reason": Reason.REQUESTED,
        "changed_at": NOW,
        "load_s": 2.5,
        "reserved": (Reserved(device="GPU-1", predicted_bytes=40, measured_bytes=25),),
        **changes,
    }
    return Instance(**fields)  # type: ignore[arg-type]


ACTIVITY = InstanceMetrics(
    instance="i1",
    model="m",
    node="n1",
    sampled_at=NOW,
    slots=4,
    busy=1,
    prompt_tokens=100,
    cached_tokens=40,
    completion_tokens=60,
    prompt_tokens_per_s=10.0,
    completion_tokens_per_s=20.0,
    requests=5,
    failed=1,
    kv_used_ratio=0.25,
    engine={"busy": 1.0, "waiting": 0.0},
)


def finished(number: int = 0, **changes: object) -> RequestFinished:
    fields = {
        "request": f"r{number}",
        "model": "m",
        "lane": Lane.INTERACTIVE,
        "path": "/v1/chat/completions",
        "stream": True,
        "outcome": Outcome.OK,
        "status": 200,
        "queued_at": NOW - 2,
        "finished_at": NOW,
        "key": "k1",
        "node": "n1",
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 6,
        "queue_ms": 100.0,
        "first_token_ms": 400.0,
        **changes,
    }
    return RequestFinished(**fields)  # type: ignore[arg-type]


def full_snapshot() -> YardSnapshot:
    """A snapshot in which every metric has a value."""
    requests, instances = RequestCounters(), InstanceCounters()
    requests.add(finished())
    error = EngineFailed("It broke.").body().error
    requests.add(finished(1, outcome=Outcome.FAILED, status=502, error=error))
    for number in range(2, 12):
        requests.add(finished(number, model="flaky", node=None, key=None))
    for state, reason in ((InstanceState.STOPPED, Reason.IDLE), (InstanceState.FAILED, Reason.OOM)):
        instances.on_change(state, instance(state, state=InstanceState.STARTING))
        instances.on_change(state, instance(state, state=state, reason=reason))
    download = {"download": "d", "reference": "org/x", "model": "m", "created_at": NOW, "changed_at": NOW}
    return YardSnapshot(
        now=NOW,
        version="1.2.3",
        devices={"n1.GPU-1": GPU},
        nodes={"n1": Node(node="n1", version="1.2.3", started_at=NOW)},
        instances={"i1": instance()},
        activity={"i1": ACTIVITY},
        waiting={"m": WaitingModel(model="m", reason="room", since=NOW - 7)},
        downloads={
            "d": Download(
                **download,  # type: ignore[arg-type]
                state=DownloadState.TRANSFERRING,
                bytes_total=100,
                bytes_done=50,
                speed_bytes_s=5.0,
            )
        },
        queue={("m", "interactive"): 3},
        requests=requests,
        instance_counters=instances,
        broker=BrokerHealth(0.001, 2, {"INFER": StreamUsage(messages=1, stored_bytes=2, limit_bytes=3)}),
        extra=(
            *budget_samples(BUDGET),
            Sample(name="yard_disk_days_until_full", value=9.0, labels={"node": "n1", "disk": "/x"}),
            Sample(name="yard_monitor_memory_bytes", value=1.0),
            Sample(name="yard_monitor_history_series", value=1.0),
            Sample(name="yard_monitor_cpu_seconds_total", value=1.0),
        ),
    )


def value(samples: list[Sample], name: str, **labels: str) -> float:
    (sample,) = [
        sample for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sample.value


def test_every_metric_is_sampled_with_its_labels() -> None:
    samples = collect_samples(full_snapshot())
    for sample in samples:
        metric = BY_SAMPLE_NAME[sample.name]
        assert tuple(label for label in sample.labels if label != "le") == metric.labels, sample.name
    sampled = {BY_SAMPLE_NAME[sample.name].name for sample in samples}
    assert {metric.name for metric in METRICS} - sampled == set()


def test_series_are_unique() -> None:
    series = [(sample.name, *sorted(sample.labels.items())) for sample in collect_samples(full_snapshot())]
    assert len(series) == len(set(series))


def test_values_have_the_units_of_their_names() -> None:
    samples = collect_samples(full_snapshot())
    assert value(samples, "yard_device_utilization_ratio") == 0.5
    assert value(samples, "yard_device_clock_hertz") == 2.5e9
    assert value(samples, "yard_device_instance_memory_bytes", instance_id="i1") == 25
    assert value(samples, "yard_instance_prompt_cache_hit_ratio") == 0.4
    assert value(samples, "yard_model_blocked_seconds", model="m") == 7
    assert value(samples, "yard_request_first_token_seconds_sum", model="m", node="n1") == 0.8
    assert value(samples, "yard_request_duration_seconds_count", model="m") == 1, (
        "failed ones have no duration"
    )


def test_an_empty_yard_has_few_samples() -> None:
    assert {sample.name for sample in collect_samples(YardSnapshot(now=NOW))} == {
        "yard_info",
        "yard_broker_reconnects_total",
    }


def test_collecting_samples_is_pure() -> None:
    snapshot = full_snapshot()
    assert collect_samples(snapshot) == collect_samples(snapshot)


def test_a_missing_sensor_has_no_sample() -> None:
    silent = Device(
        node="n1", device="d", kind=DeviceKind.GPU, name="x", memory_total_bytes=1, memory_used_bytes=0,
        memory_free_bytes=1, sampled_at=NOW,
    )  # fmt: skip
    names = {sample.name for sample in collect_samples(YardSnapshot(now=NOW, devices={"d": silent}))}
    assert "yard_device_temperature_celsius" not in names
    assert "yard_device_memory_used_bytes" in names


def test_the_series_of_a_metric_are_limited() -> None:
    requests = RequestCounters()
    for number in range(2 * MAX_SERIES):
        requests.add(finished(number, model=f"m{number}", key=f"k{number}"))
    samples = list(requests.samples(NOW))
    counted = [sample for sample in samples if sample.name == "yard_requests_total"]
    assert len(counted) == MAX_SERIES + 1
    assert sum(sample.value for sample in counted) == 2 * MAX_SERIES
    assert value(samples, "yard_key_requests_total", key=OTHER) == MAX_SERIES


def test_quantiles_are_interpolated_over_the_last_minutes() -> None:
    requests = RequestCounters()
    for number in range(100):
        requests.add(finished(number, queued_at=NOW - 0.75, finished_at=NOW))
    at = {"model": "m", "quantile": "0.5"}
    assert value(list(requests.samples(NOW)), "yard_request_duration_quantile_seconds", **at) == 0.75
    later = [sample for sample in requests.samples(NOW + 600) if "quantile" in sample.labels]
    assert later == []


def test_requests_from_the_future_do_not_stay_in_the_last_minutes() -> None:
    requests = RequestCounters()
    for number in range(100):
        ahead = NOW + 3600.0 * (number + 1)
        requests.add(finished(number, finished_at=ahead, queued_at=ahead - 1, outcome=Outcome.FAILED))
        requests.add(finished(1000 + number, finished_at=ahead, queued_at=ahead - 1))
    assert [sample for sample in requests.samples(NOW) if sample.name.endswith("_ratio")] == []
    assert not [
        sample
        for sample in requests.samples(NOW + 600)
        if "quantile" in sample.labels or sample.name.endswith("_ratio")
    ]


@pytest.mark.parametrize("ms", [-5.0, 1e308])
def test_invalid_durations_are_clamped(ms: float) -> None:
    requests = RequestCounters()
    for number in range(2000):
        requests.add(
            finished(number, queue_ms=ms, first_token_ms=ms, queued_at=-ms if ms > 0 else NOW, finished_at=ms)
        )
    for sample in requests.samples(NOW):
        assert math.isfinite(sample.value), sample
        assert sample.value >= 0, sample


def test_the_error_ratio_needs_ten_requests_and_ignores_cancelled_ones() -> None:
    requests = RequestCounters()
    for number in range(9):
        requests.add(finished(number, outcome=Outcome.FAILED if number < 3 else Outcome.OK))
    requests.add(finished(9, outcome=Outcome.CANCELLED))
    assert not [sample for sample in requests.samples(NOW) if sample.name == "yard_request_error_ratio"]
    requests.add(finished(10))
    assert value(list(requests.samples(NOW)), "yard_request_error_ratio", model="m") == 0.3
    assert not [sample for sample in requests.samples(NOW + 600) if sample.name == "yard_request_error_ratio"]


def test_an_expected_node_without_a_record_is_down() -> None:
    nodes = {"a": Node(node="a", version="1", started_at=1)}
    up = collect_samples(YardSnapshot(now=NOW, nodes=nodes, expected=frozenset({"a", "b"})))
    assert [value(up, "yard_node_up", node=name) for name in "ab"] == [1.0, 0.0]


def test_a_refused_model_does_not_wait() -> None:
    refusal = Refusal(error="There is no room.", retry_at=NOW + 60)
    waiting = {"m": WaitingModel(model="m", reason="room", since=NOW - 7, refused=refusal)}
    names = {sample.name for sample in collect_samples(YardSnapshot(now=NOW, waiting=waiting))}
    assert "yard_model_blocked_seconds" not in names


@pytest.mark.parametrize(
    ("states", "circuit_open"),
    [
        ([(InstanceState.FAILED, True)], 1.0),
        ([(InstanceState.FAILED, False)], 0.0),
        ([(InstanceState.FAILED, True), (InstanceState.READY, False)], 0.0),
        ([(InstanceState.READY, False), (InstanceState.FAILED, True)], 1.0),
    ],
)
def test_the_newest_instance_decides_on_an_open_circuit(
    states: list[tuple[InstanceState, bool]], circuit_open: float
) -> None:
    records = {
        str(at): instance(str(at), state=state, circuit_open=is_open, changed_at=NOW + at, retry_at=NOW + 60)
        for at, (state, is_open) in enumerate(states)
    }
    samples = collect_samples(YardSnapshot(now=NOW, instances=dict(reversed(records.items()))))
    assert value(samples, "yard_model_circuit_open", model="m") == circuit_open


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.011, 3.0, 600.0, 601.0])
def test_a_bucket_counts_durations_up_to_its_bound(seconds: float) -> None:
    histogram = DurationHistogram()
    histogram.add(seconds)
    buckets = [sample for sample in histogram.samples("x", {}) if sample.name == "x_bucket"]
    expected = [float(seconds <= bound) for bound in BUCKETS_S]
    assert [sample.value for sample in buckets] == [*expected, 1.0]


def test_starts_and_ends_of_instances_are_counted_once() -> None:
    instances = InstanceCounters()
    instances.add_existing(instance("old", state=InstanceState.READY))
    for state in (InstanceState.STARTING, InstanceState.LOADING, InstanceState.READY, InstanceState.READY):
        instances.on_change("new", instance("new", state=state))
    instances.on_change("old", instance("old", state=InstanceState.STOPPED, reason=Reason.EVICTED))
    instances.on_change("old", instance("old", state=InstanceState.STOPPED, reason=Reason.EVICTED))
    samples = list(instances.samples())
    assert value(samples, "yard_model_starts_total") == 1
    assert value(samples, "yard_model_stops_total", reason="evicted") == 1


def parsed(text: str) -> dict[str, str]:
    """The values of sample lines, by name and labels."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines}


def test_every_family_is_declared_once_before_its_samples() -> None:
    text = render(collect_samples(full_snapshot()))
    types = [line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert types == [metric.name for metric in METRICS]
    assert text.endswith("\n")
    assert parsed(text)['yard_requests_total{model="m",node="n1",outcome="ok"}'] == "1"
    assert 'name="A \\"fast\\" card"' in text


def test_openmetrics_has_counters_without_total_and_an_end_mark() -> None:
    text = render(collect_samples(full_snapshot()), openmetrics=True)
    assert text.endswith("# EOF\n")
    assert "# TYPE yard_requests counter\n" in text
    assert parsed(text)['yard_requests_total{model="m",node="n1",outcome="ok"}'] == "1"


def test_the_text_is_valid_for_the_parser_of_prometheus() -> None:
    text = render(collect_samples(full_snapshot()))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == len(METRICS)
    for metric in METRICS:
        counts = metric.type is MetricType.COUNTER
        name = metric.name.removesuffix("_total") if counts else metric.name
        assert families[name].type == metric.type.value
    strict = openmetrics.text_string_to_metric_families(
        render(collect_samples(full_snapshot()), openmetrics=True)
    )
    assert len(list(strict)) == len(METRICS)


def test_label_values_are_escaped() -> None:
    evil = Sample(name="yard_model_ready", value=float("nan"), labels={"model": 'a"} 1\nyard_evil 2 \\'})
    text = render([evil])
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        'yard_model_ready{model="a\\"} 1\\nyard_evil 2 \\\\"} NaN'
    ]
