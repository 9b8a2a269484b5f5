"""The monitor on a real broker: devices, usage, and restarts of the broker and the monitor."""

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterable
from zoneinfo import ZoneInfo

import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.reads import replay
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.plugins import DiscoveredPlugins
from modelyard.plugins import DeviceAdapter
from schemas import buckets, streams, subjects
from schemas.base import Role
from schemas.devices import Device, DeviceKind
from schemas.errors import BadRequest, InternalError
from schemas.requests import RequestFinished
from schemas.usage import UsageQuery
from services.monitor.devices.publisher import DevicePublisher
from services.monitor.price_book import PriceBook
from services.monitor.projector import UsageProjector
from services.monitor.service import CONSUMER, USAGE_FILE
from services.monitor.usage import database
from services.monitor.usage.database import UsageDatabase
from services.monitor.usage.store import UsageIncrement, UsageStore
from tests.integration.monitor_service import (
    TIMEOUT_S,
    at_least,
    emit,
    monitor,
    monitor_process,
    restart_broker,
    usage,
)
from tests.support import Yard, eventually

UTC = ZoneInfo("UTC")


async def test_devices_are_published_in_the_bucket_and_as_metrics(yard: Yard) -> None:
    operator = await yard.bus()
    async with (
        monitor(yard),
        Tasks() as tasks,
        asyncio.timeout(TIMEOUT_S),
    ):
        devices = await BucketCache.start(operator, buckets.DEVICES, tasks)
        await devices.until(lambda values: "testnode.cpu" in values)
        first = devices.values["testnode.cpu"]
        assert first.memory_total_bytes > 0
        await devices.until(lambda values: values["testnode.cpu"].sampled_at > first.sampled_at)
        second = devices.values["testnode.cpu"]
        assert second.sampled_at - first.sampled_at > 0.5
        metrics = [metric async for metric in replay(operator, subjects.DEVICE_METRIC, follow=False)]
        assert metrics[0].tokens == {"node": "testnode", "device": "cpu"}
        assert first in [metric.payload for metric in metrics]


async def test_a_device_without_samples_expires(yard: Yard) -> None:
    operator = await yard.bus()
    async with monitor(yard), Tasks() as tasks:
        devices = await BucketCache.start(operator, buckets.DEVICES, tasks)
        await devices.until(lambda values: "testnode.cpu" in values)
        bucket = buckets.DEVICES
        stored = await operator.js.get_last_msg(bucket.stream, bucket.subject("testnode.cpu"))
        assert (stored.headers or {})["Nats-TTL"] == "10s"


class Scripted(DeviceAdapter):
    """An adapter with a scripted sample."""

    def __init__(self, name: str, sample: Callable[[], list[Device]]) -> None:
        self.name = name
        self._sample = sample

    def sample(self) -> list[Device]:
        return self._sample()


def device(name: str) -> Device:
    return Device(
        device=name,
        kind=DeviceKind.GPU,
        name="card",
        memory_total_bytes=1,
        memory_used_bytes=0,
        memory_free_bytes=1,
    )


async def test_a_hung_or_failing_adapter_affects_no_other(yard: Yard) -> None:
    bus, operator = await yard.bus(Role.MONITOR), await yard.bus()
    release, failures = threading.Event(), [RuntimeError("first"), RuntimeError("second")]

    def hang() -> list[Device]:
        release.wait(TIMEOUT_S)
        return [device("slow")]

    def recover() -> list[Device]:
        if failures:
            raise failures.pop()
        return [device("recovered")]

    adapters = {adapter.name: adapter for adapter in (Scripted("hangs", hang), Scripted("fails", recover))}
    async with Tasks() as tasks:
        instances = await BucketCache.start(bus, buckets.INSTANCES, tasks)
        devices = await BucketCache.start(operator, buckets.DEVICES, tasks)
        publisher = DevicePublisher(bus, yard.settings, instances, period_s=0.05)
        tasks.spawn(publisher.publish(), "samples")
        publisher.update(DiscoveredPlugins(adapters, ()))
        async with asyncio.timeout(TIMEOUT_S):
            await devices.until(lambda values: set(values) == {"testnode.recovered"})
            release.set()
            await devices.until(lambda values: set(values) == {"testnode.recovered", "testnode.slow"})
        publisher.stop()


async def test_a_request_reported_twice_counts_once(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    async with monitor(yard):
        await emit(runner, ["r1", "r1", "r2"])
        report = await usage(operator, at_least(2), recent=10)
        assert {request.request for request in report.recent} == {"r1", "r2"}
        (model,) = report.rows
        assert (model.model, model.requests, model.prompt_tokens, model.completion_tokens) == (
            "demo",
            2,
            20,
            4,
        )


async def test_a_query_out_of_bounds_is_refused(yard: Yard) -> None:
    operator = await yard.bus()
    async with monitor(yard):
        for recent in (-1, 100_000):
            with pytest.raises(BadRequest, match="from 0 to 1000"):
                await operator.call(subjects.USAGE_QUERY, UsageQuery(recent=recent))


async def test_requests_during_a_downtime_are_counted_afterwards(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    await emit(runner, ["before"])
    async with monitor(yard):
        await usage(operator, at_least(1))
    await emit(runner, ["between"])
    async with monitor(yard):
        report = await usage(operator, at_least(2), recent=10)
    assert {request.request for request in report.recent} == {"before", "between"}


@pytest.mark.parametrize("data", [b"nonsense", b'{"request": 3}', b'{"model": "\xff"}'])
async def test_an_invalid_record_is_dropped_and_blocks_no_other(yard: Yard, data: bytes) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    async with monitor(yard):
        await runner.js.publish(subjects.REQUEST_FINISHED(model="demo", request="bad"), data)
        await emit(runner, ["good"])
        report = await usage(operator, at_least(1), recent=10)
        assert {request.request for request in report.recent} == {"good"}
        await all_acknowledged(operator)


async def test_a_deleted_consumer_is_created_again(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    async with monitor(yard):
        await emit(runner, ["r1"])
        await usage(operator, at_least(1))
        await operator.js.delete_consumer(streams.EVENTS.name, CONSUMER)
        await emit(runner, ["r2"])
        report = await usage(operator, at_least(2))
        assert report.rows[0].requests == 2


class FullStore(UsageStore):
    """A store whose first write fails."""

    failures = 1

    def add(self, records: Iterable[RequestFinished]) -> list[UsageIncrement]:
        listed = list(records)
        if listed and self.failures:
            self.failures -= 1
            raise sqlite3.OperationalError("database or disk is full")
        return super().add(listed)


def free() -> PriceBook:
    return PriceBook({})


async def open_database(yard: Yard, bus: Bus, store: type[UsageStore]) -> UsageDatabase:
    """A database whose store is of this class."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "UsageStore", store)
        return await UsageDatabase.open(bus, yard.settings.home / USAGE_FILE, UTC, free, "EUR")


async def counted(usage: UsageDatabase, count: int) -> None:
    async def is_counted() -> bool:
        return at_least(count)(await usage.report(UsageQuery()))

    await eventually(is_counted, f"{count} counted requests", timeout_s=TIMEOUT_S)


async def all_acknowledged(bus: Bus) -> None:
    async def is_acknowledged() -> bool:
        info = await bus.js.consumer_info(streams.EVENTS.name, CONSUMER)
        return not info.num_ack_pending

    await eventually(is_acknowledged, "no message waits for an ack", timeout_s=TIMEOUT_S)


async def test_a_record_is_redelivered_after_a_failed_write(yard: Yard) -> None:
    runner, bus = await yard.bus(Role.RUNNER), await yard.bus(Role.MONITOR)
    usage_db = await open_database(yard, bus, FullStore)
    async with Tasks() as tasks:
        projector = UsageProjector(bus, CONSUMER, subjects.REQUEST_FINISHED, usage_db.store)
        tasks.spawn(projector.run(), "usage")
        await emit(runner, ["r1", "r2"])
        await counted(usage_db, 2)
    assert await usage_db.write(lambda store: store.failures) == 0  # type: ignore[attr-defined]
    usage_db.close()


class FailingStore(UsageStore):
    """A store that fails with one record."""

    def add(self, records: Iterable[RequestFinished]) -> list[UsageIncrement]:
        listed = list(records)
        if any(record.request == "bad" for record in listed):
            raise OverflowError("cannot convert float infinity to integer")
        return super().add(listed)


async def test_a_record_that_cannot_be_stored_blocks_no_other(yard: Yard) -> None:
    runner, bus = await yard.bus(Role.RUNNER), await yard.bus(Role.MONITOR)
    usage_db = await open_database(yard, bus, FailingStore)
    await emit(runner, ["r1", "bad", "r2"])
    async with Tasks() as tasks:
        projector = UsageProjector(bus, CONSUMER, subjects.REQUEST_FINISHED, usage_db.store)
        tasks.spawn(projector.run(), "usage")
        await counted(usage_db, 2)
        await all_acknowledged(bus)
    usage_db.close()


async def test_a_damaged_file_is_refused_with_a_sentence(yard: Yard) -> None:
    path = yard.settings.home / USAGE_FILE
    path.write_text("not a database" * 100)
    with pytest.raises(InternalError, match=r"usage\.sqlite cannot be opened: .*\. Move the file away"):
        await UsageDatabase.open(await yard.bus(Role.MONITOR), path, UTC, free, "EUR")


async def test_sampling_and_projection_resume_after_a_restart_of_the_broker(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    async with (
        monitor(yard),
        Tasks() as tasks,
        asyncio.timeout(2 * TIMEOUT_S),
    ):
        devices = await BucketCache.start(operator, buckets.DEVICES, tasks)
        await devices.until(lambda values: "testnode.cpu" in values)
        await emit(runner, ["before"])
        await restart_broker(yard)
        last = devices.values["testnode.cpu"].sampled_at
        await emit(runner, ["after"])
        await devices.until(lambda values: values["testnode.cpu"].sampled_at > last + 2)
        report = await usage(operator, at_least(2), recent=10)
        assert {request.request for request in report.recent} == {"before", "after"}


async def emit_until(stop: asyncio.Event, bus: Bus) -> set[str]:
    """Emit a request every few milliseconds; returns all of them."""
    requests: set[str] = set()
    while not stop.is_set():
        request = f"r{len(requests)}"
        await emit(bus, [request])
        requests.add(request)
        await asyncio.sleep(0.002)
    return requests


async def test_a_killed_monitor_neither_loses_nor_duplicates_requests(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    process = monitor_process(yard)
    await process.start()
    stop = asyncio.Event()
    emitting = asyncio.create_task(emit_until(stop, runner))
    counted = 0
    for _ in range(2):
        report = await usage(operator, at_least(counted + 50))
        counted = report.rows[0].requests
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        await process.start()
    await usage(operator, at_least(counted + 50))
    stop.set()
    emitted = await emitting
    await usage(operator, at_least(len(emitted)))
    await process.stop(5.0)
    db = sqlite3.connect(yard.settings.home / USAGE_FILE)
    assert sorted(name for (name,) in db.execute("SELECT request FROM requests")) == sorted(emitted)
    for table in ("quarters", "days"):
        assert db.execute(f"SELECT SUM(prompt_tokens) FROM {table}").fetchone() == (10 * len(emitted),)
    db.close()


async def test_the_monitor_stops_cleanly_on_sigterm(yard: Yard) -> None:
    operator = await yard.bus()
    process = monitor_process(yard)
    await process.start()
    await usage(operator, at_least(0))
    async with asyncio.timeout(5):
        await process.stop(5.0)
        assert await process.wait() == 0
    assert "service_stopped" in process.last_line()
