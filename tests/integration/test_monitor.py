"""The monitor on a real broker: devices, usage, and what dies under it."""

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
from services.monitor.costs.book import PriceBook
from services.monitor.counting import CONSUMER, USAGE_FILE
from services.monitor.devices.watch import Watch
from services.monitor.folding import Folder
from services.monitor.thread import OwnThread
from services.monitor.usage.keeper import UsageKeeper
from services.monitor.usage.reader import UsageReader
from services.monitor.usage.store import Counted, UsageStore
from tests.integration.monitor_service import (
    POLL_S,
    TIMEOUT_S,
    at_least,
    emit,
    monitor,
    monitor_process,
    restart_broker,
    usage,
)
from tests.support import Yard

UTC = ZoneInfo("UTC")


async def test_devices_stand_in_the_bucket_and_are_kept_as_metrics(yard: Yard) -> None:
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
        kept = [metric async for metric in replay(operator, subjects.DEVICE_METRIC, follow=False)]
        assert kept[0].tokens == {"node": "testnode", "device": "cpu"}
        assert first in [metric.payload for metric in kept]


async def test_a_device_that_nobody_samples_any_more_expires(yard: Yard) -> None:
    operator = await yard.bus()
    async with monitor(yard), Tasks() as tasks:
        devices = await BucketCache.start(operator, buckets.DEVICES, tasks)
        await devices.until(lambda values: "testnode.cpu" in values)
        bucket = buckets.DEVICES
        kept = await operator.js.get_last_msg(bucket.stream, bucket.subject("testnode.cpu"))
        assert (kept.headers or {})["Nats-TTL"] == "10s"


class Scripted(DeviceAdapter):
    """An adapter that does as told."""

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


async def test_an_adapter_that_hangs_or_fails_stops_no_other(yard: Yard) -> None:
    bus, operator = await yard.bus(Role.MONITOR), await yard.bus()
    release, failures = threading.Event(), [RuntimeError("first"), RuntimeError("second")]

    def hang() -> list[Device]:
        release.wait(TIMEOUT_S)
        return [device("slow")]

    def recover() -> list[Device]:
        if failures:
            raise failures.pop()
        return [device("recovered")]

    adapters = {one.name: one for one in (Scripted("hangs", hang), Scripted("fails", recover))}
    async with Tasks() as tasks:
        instances = await BucketCache.start(bus, buckets.INSTANCES, tasks)
        devices = await BucketCache.start(operator, buckets.DEVICES, tasks)
        watch = Watch(bus, yard.settings, instances, period_s=0.05)
        tasks.spawn(watch.send(), "samples")
        watch.look(DiscoveredPlugins(adapters, ()))
        async with asyncio.timeout(TIMEOUT_S):
            await devices.until(lambda values: set(values) == {"testnode.recovered"})
            release.set()
            await devices.until(lambda values: set(values) == {"testnode.recovered", "testnode.slow"})
        watch.stop()


async def test_a_request_that_is_reported_twice_counts_once(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    async with monitor(yard):
        await emit(runner, ["r1", "r1", "r2"])
        report = await usage(operator, at_least(2), recent=10)
        assert {one.request for one in report.recent} == {"r1", "r2"}
        (model,) = report.rows
        assert (model.model, model.requests, model.prompt_tokens, model.completion_tokens) == (
            "demo",
            2,
            20,
            4,
        )


async def test_a_question_out_of_bounds_is_refused(yard: Yard) -> None:
    operator = await yard.bus()
    async with monitor(yard):
        for recent in (-1, 100_000):
            with pytest.raises(BadRequest, match="from 0 to 1000"):
                await operator.call(subjects.USAGE_QUERY, UsageQuery(recent=recent))


async def test_what_happens_while_the_monitor_is_away_is_counted_when_it_is_back(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    await emit(runner, ["before"])
    async with monitor(yard):
        await usage(operator, at_least(1))
    await emit(runner, ["between"])
    async with monitor(yard):
        report = await usage(operator, at_least(2), recent=10)
    assert {one.request for one in report.recent} == {"before", "between"}


@pytest.mark.parametrize("data", [b"nonsense", b'{"request": 3}', b'{"model": "\xff"}'])
async def test_a_record_that_cannot_be_read_is_given_up_and_holds_up_no_other(
    yard: Yard, data: bytes
) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    async with monitor(yard):
        await runner.js.publish(subjects.REQUEST_FINISHED(model="demo", request="bad"), data)
        await emit(runner, ["good"])
        report = await usage(operator, at_least(1), recent=10)
        assert {one.request for one in report.recent} == {"good"}
        async with asyncio.timeout(TIMEOUT_S):
            while (await operator.js.consumer_info(streams.EVENTS.name, CONSUMER)).num_ack_pending:
                await asyncio.sleep(POLL_S)


async def test_a_consumer_that_was_removed_is_made_anew(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    async with monitor(yard):
        await emit(runner, ["r1"])
        await usage(operator, at_least(1))
        await operator.js.delete_consumer(streams.EVENTS.name, CONSUMER)
        await emit(runner, ["r2"])
        report = await usage(operator, at_least(2))
        assert report.rows[0].requests == 2


class FullDisk(UsageStore):
    """A store that cannot write at first."""

    refusals = 1

    def add(self, records: Iterable[RequestFinished]) -> list[Counted]:
        listed = list(records)
        if listed and self.refusals:
            self.refusals -= 1
            raise sqlite3.OperationalError("database or disk is full")
        return super().add(listed)


def empty_book() -> PriceBook:
    return PriceBook({})


async def test_a_record_that_the_disk_does_not_take_comes_again(yard: Yard) -> None:
    runner, bus = await yard.bus(Role.RUNNER), await yard.bus(Role.MONITOR)
    writing, reading, path = OwnThread("usage"), OwnThread("queries"), yard.settings.home / USAGE_FILE
    store = await writing.run(FullDisk, path, UTC, empty_book)
    reader = await reading.run(UsageReader, path, UTC)
    keeper = UsageKeeper(bus, store, reader, writing, reading, "EUR")
    async with Tasks() as tasks:
        tasks.spawn(Folder(bus, CONSUMER, subjects.REQUEST_FINISHED, keeper.take).run(), "usage")
        await emit(runner, ["r1", "r2"])
        async with asyncio.timeout(TIMEOUT_S):
            while not at_least(2)(await keeper.report(UsageQuery())):
                await asyncio.sleep(POLL_S)
    keeper.close()
    assert store.refusals == 0


class Choosy(UsageStore):
    """A store that one record is too much for."""

    def add(self, records: Iterable[RequestFinished]) -> list[Counted]:
        listed = list(records)
        if any(each.request == "bad" for each in listed):
            raise OverflowError("cannot convert float infinity to integer")
        return super().add(listed)


async def test_a_record_that_cannot_be_stored_holds_up_no_other(yard: Yard) -> None:
    runner, bus = await yard.bus(Role.RUNNER), await yard.bus(Role.MONITOR)
    writing, reading, path = OwnThread("usage"), OwnThread("queries"), yard.settings.home / USAGE_FILE
    store = await writing.run(Choosy, path, UTC, empty_book)
    reader = await reading.run(UsageReader, path, UTC)
    keeper = UsageKeeper(bus, store, reader, writing, reading, "EUR")
    await emit(runner, ["r1", "bad", "r2"])
    async with Tasks() as tasks:
        tasks.spawn(Folder(bus, CONSUMER, subjects.REQUEST_FINISHED, keeper.take).run(), "usage")
        async with asyncio.timeout(TIMEOUT_S):
            while not at_least(2)(await keeper.report(UsageQuery())):
                await asyncio.sleep(POLL_S)
            while (await bus.js.consumer_info(streams.EVENTS.name, CONSUMER)).num_ack_pending:
                await asyncio.sleep(POLL_S)
    keeper.close()


async def test_a_file_that_is_no_database_is_refused_with_a_sentence(yard: Yard) -> None:
    path = yard.settings.home / USAGE_FILE
    path.write_text("this is no database" * 100)
    with pytest.raises(InternalError, match=r"usage\.sqlite cannot be opened: .*\. Moved away"):
        await UsageKeeper.open(await yard.bus(Role.MONITOR), path, UTC, empty_book, "EUR")


async def test_sampling_and_counting_go_on_after_the_broker_was_killed(yard: Yard) -> None:
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
        assert {one.request for one in report.recent} == {"before", "after"}


async def emit_until(stop: asyncio.Event, bus: Bus) -> set[str]:
    """A request every few milliseconds; all that there were."""
    requests: set[str] = set()
    while not stop.is_set():
        request = f"r{len(requests)}"
        await emit(bus, [request])
        requests.add(request)
        await asyncio.sleep(0.002)
    return requests


async def test_a_monitor_that_is_killed_while_requests_finish_loses_and_doubles_none(yard: Yard) -> None:
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


async def test_a_monitor_that_is_told_to_stop_ends_at_once_and_well(yard: Yard) -> None:
    operator = await yard.bus()
    process = monitor_process(yard)
    await process.start()
    await usage(operator, at_least(0))
    async with asyncio.timeout(5):
        await process.stop(5.0)
        assert await process.wait() == 0
    assert "service_stopped" in process.last_line()
