"""Metrics on a real broker: collected, restored after a restart, served over NATS, HTTP and OTLP."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import nats.errors
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from nats.js import api

from modelyard.bus.connection import Bus
from modelyard.bus.ensure import ensure_all
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, streams, subjects
from schemas.base import Role
from schemas.errors import BadRequest, YardError
from schemas.instances import Instance, InstanceState, Reason
from schemas.metrics import GetSamples, InstanceMetrics, MetricsQuery, Sample, Samples
from schemas.models import ModelSpec
from services.gateway.access import ApiKeys, Origins
from services.gateway.http import guard, handle_errors
from services.gateway.metrics import MetricsApi
from services.monitor.metrics.event_counters import RequestConsumer, RequestCounters
from services.monitor.metrics.history import MetricsHistory
from services.monitor.metrics.history_archive import CHUNK_S, HistoryArchive
from services.supervisor.engines.llama_cpp import LLAMA_API
from services.supervisor.runner import metrics as instance_metrics
from services.supervisor.runner.metrics import InstanceMetricsPublisher
from services.supervisor.runner.record import InstanceRecord
from services.supervisor.runner.slot_pool import SlotPool
from services.supervisor.runner.upstream import Upstream
from tests.integration.monitor_service import TIMEOUT_S, emit, monitor, record, restart_broker
from tests.support import Yard, eventually

Http = TestClient[web.Request, web.Application]
TOTAL = "yard_requests_total"
TOKENS = "yard_instance_completion_tokens_per_second"


def runner_metrics(at: float, tokens_per_s: float = 40.0) -> InstanceMetrics:
    return InstanceMetrics(
        instance="i1",
        model="demo",
        node="testnode",
        sampled_at=at,
        slots=4,
        completion_tokens_per_s=tokens_per_s,
    )


async def publish(bus: Bus, metrics: InstanceMetrics) -> None:
    await bus.publish(subjects.INSTANCE_METRIC, metrics, node="testnode", instance="i1")
    await bus.nc.flush()


async def until(operator: Bus, condition: Callable[[dict[str, Sample]], bool]) -> dict[str, Sample]:
    """The first samples that fulfil the condition, the last of each name."""

    async def sampled() -> dict[str, Sample] | None:
        try:
            samples: Samples = await operator.call(subjects.METRICS_NOW, GetSamples())
        except (YardError, TimeoutError, nats.errors.Error):
            return None  # the broker restarts
        by_name = {sample.name: sample for sample in samples.samples}
        return by_name if condition(by_name) else None

    found = await eventually(sampled, "samples that fulfil the condition", timeout_s=TIMEOUT_S)
    assert found is not None
    return found


async def test_events_are_sampled_and_added_to_the_history(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    async with monitor(yard):
        await until(operator, lambda now: "yard_device_memory_used_bytes" in now)
        await emit(runner, ["r1", "r2", "r2"])
        await publish(runner, runner_metrics(time.time()))
        samples = await until(operator, lambda now: {"yard_requests_total", TOKENS} <= now.keys())
        assert samples["yard_requests_total"].value == 2, "a duplicate event is one request"
        assert samples["yard_requests_total"].labels == {"model": "demo", "node": "", "outcome": "ok"}
        assert samples["yard_broker_round_trip_seconds"].value > 0
        query = MetricsQuery(names=("yard_requests_total", TOKENS), since=time.time() - 60)
        answer = await operator.call(subjects.METRICS_QUERY, query)
        assert {series.name for series in answer.series} == {"yard_requests_total", TOKENS}
        values = [
            value
            for series in answer.series
            if series.name == TOKENS
            for value in series.max
            if value is not None
        ]
        assert values == [40.0]
        with pytest.raises(BadRequest, match="no metric"):
            await operator.call(subjects.METRICS_NOW, GetSamples(names=("yard_nothing",)))


async def test_starts_ends_and_queues_are_sampled(yard: Yard) -> None:
    runner, gateway, operator = await yard.bus(Role.RUNNER), await yard.bus(Role.GATEWAY), await yard.bus()
    store = BucketStore(runner, buckets.INSTANCES)
    instance = Instance(
        instance="i1",
        model="org/demo",
        node="testnode",
        engine="command",
        revision=1,
        state=InstanceState.STARTING,
        reason=Reason.REQUESTED,
        changed_at=1.0,
    )
    await gateway.js.publish(subjects.INFER(model="org=2Fdemo", lane="batch", key="anyone"), b"{}")
    async with monitor(yard):
        await store.put("i1", instance, ttl_s=60)
        await until(operator, lambda now: "yard_model_starts_total" in now)
        failed = msgspec.structs.replace(instance, state=InstanceState.FAILED, reason=Reason.OOM)
        await store.put("i1", failed)
        samples = await until(
            operator, lambda now: {"yard_model_failures_total", "yard_model_queue"} <= now.keys()
        )
    assert samples["yard_model_failures_total"].labels["reason"] == "oom"
    assert samples["yard_model_queue"].labels == {"model": "org/demo", "lane": "batch"}
    assert samples["yard_model_queue"].value == 1


async def test_the_history_is_restored_with_what_followed(yard: Yard) -> None:
    runner, operator, bus = await yard.bus(Role.RUNNER), await yard.bus(), await yard.bus(Role.MONITOR)
    old, until_at = MetricsHistory(), int(time.time()) // CHUNK_S * CHUNK_S
    labels = {"instance_id": "i1", "model": "demo", "node": "testnode"}
    for at in range(until_at - 4 * CHUNK_S, until_at):
        old.add(at, [Sample(name=TOKENS, value=30.0, labels=labels)])
    await HistoryArchive(bus, old, "testnode", 0.0).store(until_at - 4 * CHUNK_S, until_at)
    await emit(runner, ["r1"])
    await publish(runner, runner_metrics(time.time(), 99.0))
    async with monitor(yard):
        samples = await until(operator, lambda now: "yard_requests_total" in now)
        query = MetricsQuery(names=(TOKENS,), since=until_at - 4 * CHUNK_S)
        (series,) = (await operator.call(subjects.METRICS_QUERY, query)).series
    assert samples["yard_requests_total"].value == 1
    values = [value for value in series.avg if value is not None]
    assert len(values) > 100
    assert (values[0], values[-1]) == (30.0, 99.0)


@pytest.mark.parametrize(("since", "total"), [("start", 3), ("middle", 1)])
async def test_restored_counters_count_no_request_twice(yard: Yard, since: str, total: int) -> None:
    runner, bus, requests, history = (
        await yard.bus(Role.RUNNER),
        await yard.bus(Role.MONITOR),
        RequestCounters(),
        MetricsHistory(),
    )
    moments = {"start": time.time()}
    for name, request in (("middle", "r1"), ("end", "r2")):
        await emit(runner, [request])
        moments[name] = time.time()
    await emit(runner, ["r3"])
    archive = HistoryArchive(bus, history, "testnode", time.time())
    consumer = RequestConsumer(bus, requests.add)
    await archive._replay_requests(moments[since], moments["end"], consumer, requests)
    assert [sample.value for sample in requests.samples(time.time()) if sample.name == TOTAL] == [total]


async def test_sampling_resumes_after_a_restart_of_the_broker(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    async with monitor(yard):
        await emit(runner, ["before"])
        await until(operator, lambda now: "yard_requests_total" in now)
        await restart_broker(yard)
        await emit(runner, ["after"])
        samples = await until(operator, lambda now: now["yard_requests_total"].value == 2)
    assert samples["yard_broker_reconnects_total"].value >= 1


async def test_plugins_are_added_fixed_and_removed_without_a_restart(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.monitor.devices.publisher.SCAN_S", 0.05)
    operator = await yard.bus()
    folder = yard.settings.device_plugins
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    plugin = folder / "mine.py"
    async with monitor(yard), Tasks() as tasks, asyncio.timeout(TIMEOUT_S):
        adapters = await BucketCache.start(operator, buckets.ADAPTERS, tasks)
        devices = await BucketCache.start(operator, buckets.DEVICES, tasks)
        plugin.write_text("def")
        plugin.chmod(0o600)
        await adapters.until(
            lambda now: "testnode.mine" in now and "SyntaxError" in (now["testnode.mine"].problem or "")
        )
        plugin.write_text(_PLUGIN)
        await devices.until(lambda now: "testnode.npu-0" in now)
        await adapters.until(lambda now: now["testnode.mine"].devices == ("npu-0",))
        assert adapters.values["testnode.mine"].problem is None
        plugin.unlink()
        await adapters.until(lambda now: "testnode.mine" not in now)


_PLUGIN = """
from schemas.devices import Device, DeviceKind
from modelyard.plugins import DeviceAdapter

class Mine(DeviceAdapter):
    name = "mine"
    def sample(self):
        return Device(device="npu-0", kind=DeviceKind.GPU, name="NPU", memory_total_bytes=8,
                      memory_used_bytes=1, memory_free_bytes=7)
"""


async def test_only_the_monitor_updates_the_config_of_its_stream(yard: Yard) -> None:
    bus = await yard.bus(Role.MONITOR)
    config = (await bus.js.stream_info(streams.METRICS.name)).config
    old = config.evolve(max_bytes=128 * 2**20, compression=api.StoreCompression.NONE)
    await bus.js.update_stream(old)
    await ensure_all(await yard.bus(Role.GATEWAY))
    assert (await bus.js.stream_info(streams.METRICS.name)).config.max_bytes == 128 * 2**20
    await ensure_all(bus)
    now = (await bus.js.stream_info(streams.METRICS.name)).config
    assert (now.max_bytes, now.compression) == (streams.METRICS.max_bytes, api.StoreCompression.S2)


@asynccontextmanager
async def gateway(yard: Yard, *keys: str) -> AsyncIterator[Http]:
    """The metrics routes behind the guard of the gateway."""
    file = yard.settings.credentials / "api-keys"
    file.write_text("\n".join(keys))
    async with Tasks() as tasks:
        bus = await yard.bus(Role.GATEWAY)
        app = web.Application(
            middlewares=[
                handle_errors({}),
                guard(Origins(yard.settings), ApiKeys.read(yard.settings.credentials)),
            ]
        )
        app.router.add_routes(MetricsApi(bus, await BucketCache.start(bus, buckets.DEVICES, tasks)).routes())
        async with TestClient(TestServer(app)) as client:
            yield client


async def test_metrics_over_http(yard: Yard) -> None:
    operator = await yard.bus()
    async with monitor(yard), gateway(yard) as http:
        await until(operator, lambda now: "yard_device_info" in now)
        async with http.get("/metrics") as response:
            text = await response.text()
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 'yard_device_info{node="testnode",device="cpu",kind="cpu"' in text
        accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        async with http.get("/metrics", headers=accept) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            assert (await response.text()).endswith("# EOF\n")
        async with http.get("/api/metrics?names=yard_host_cores") as response:
            (sample,) = (await response.json())["samples"]
            assert sample["labels"] == {"node": "testnode"}
        async with http.get(
            "/api/metrics/history?names=yard_device_memory_used_bytes&device=cpu"
        ) as response:
            (series,) = (await response.json())["series"]
            assert [value for value in series["avg"] if value is not None]
        async with http.get("/api/metrics/history?names=yard_nothing&since=x") as response:
            assert (response.status, (await response.json())["error"]["param"]) == (400, "since")
        async with http.get("/api/devices") as response:
            assert [device["device"] for device in (await response.json())["devices"]] == ["cpu"]


async def test_metrics_need_a_key_and_a_running_monitor(yard: Yard) -> None:
    async with gateway(yard, "sk-one") as http:
        async with http.get("/metrics") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (401, "invalid_api_key")
        async with http.get("/metrics", headers={"Authorization": "Bearer sk-one"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "service_unavailable")


@asynccontextmanager
async def engine() -> AsyncIterator[tuple[int, list[str]]]:
    """An engine with metrics; yields its port and the requested paths."""
    requested: list[str] = []

    async def on_get(request: web.Request) -> web.Response:
        requested.append(request.path)
        slots = b'[{"n_ctx": 100, "n_prompt_tokens": 25}]'
        return web.Response(body=slots if request.path == "/slots" else b"llamacpp:requests_deferred 2\n")

    app = web.Application()
    app.router.add_get("/{path}", on_get)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1], requested
    finally:
        await runner.cleanup()


async def test_an_engine_is_polled_only_while_it_works(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_metrics, "ENGINE_INTERVAL_S", 0.02)
    monkeypatch.setattr(instance_metrics, "INTERVAL_S", 0.05)
    bus, operator = await yard.bus(Role.RUNNER), await yard.bus()
    published: asyncio.Queue[InstanceMetrics] = asyncio.Queue()

    async def on_metric(_tokens: dict[str, str], metrics: InstanceMetrics) -> None:
        published.put_nowait(metrics)

    await operator.subscribe(subjects.INSTANCE_METRIC, on_metric)
    instance = Instance(
        instance="i1", model="demo", node="n", engine="e", revision=1, state=InstanceState.READY,
        reason=Reason.REQUESTED, changed_at=1.0,
    )  # fmt: skip
    async with engine() as (port, requested), Tasks() as tasks, asyncio.timeout(TIMEOUT_S):
        upstream = Upstream(port, LLAMA_API)
        slots = SlotPool(
            bus, tasks, InstanceRecord(bus, tasks, instance), upstream, ModelSpec(name="demo", path="d")
        )
        tasks.spawn(InstanceMetricsPublisher(bus, slots, upstream).run(), "metrics")
        for _ in range(10):
            assert (await published.get()).engine == {}
        assert requested == [], "it never had a request"
        slots.taken += 1
        while (metrics := await published.get()).kv_used_ratio is None:
            pass
        assert (metrics.kv_used_ratio, metrics.engine) == (0.25, {"waiting": 2.0})
        for _ in range(10):
            await published.get()
        assert sorted(requested) == ["/metrics", "/slots"], "once after its work, and not again"
        await upstream.close()


async def test_metrics_are_exported_by_otlp(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    service = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    exported: asyncio.Queue[bytes] = asyncio.Queue()

    async def on_export(request: web.Request) -> web.Response:
        exported.put_nowait(await request.read())
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/metrics", on_export)
    collector = web.AppRunner(app)
    await collector.setup()
    await web.TCPSite(collector, "127.0.0.1", 0).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.addresses[0][1]}")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    runner = await yard.bus(Role.RUNNER)
    async with monitor(yard), asyncio.timeout(TIMEOUT_S):
        await runner.emit(subjects.REQUEST_FINISHED, record("r1"), model="demo", request="r1")
        metrics = {}
        while not {"yard_requests_total", "yard_device_memory_used_bytes"} <= metrics.keys():
            request = service.ExportMetricsServiceRequest.FromString(await exported.get())
            (scope,) = request.resource_metrics[0].scope_metrics
            metrics = {metric.name: metric for metric in scope.metrics}
    await collector.cleanup()
    (point,) = metrics["yard_requests_total"].sum.data_points
    assert (point.as_double, metrics["yard_requests_total"].sum.is_monotonic) == (1.0, True)
    (point,) = metrics["yard_request_duration_seconds"].histogram.data_points
    assert (point.count, sum(point.bucket_counts), len(point.explicit_bounds)) == (1, 1, 15)
    assert metrics["yard_device_memory_used_bytes"].unit == "By"
