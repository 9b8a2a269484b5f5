"""Ordered consumers: whole, in order, with the broker's flow control answered, and idle at rest."""

import asyncio
import os
import signal
from contextlib import aclosing
from typing import Any

import pytest
from nats.js import api

from modelyard.bus import consumer as consumer_module
from modelyard.bus.connection import Bus
from modelyard.bus.consumer import ConsumerLost, ordered_consumer
from modelyard.bus.reads import stored_messages
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, streams, subjects
from schemas.base import Role
from schemas.models import ModelSpec
from tests.support import Yard, eventually

COUNT, SIZE = 4000, 8000
SUBJECT = subjects.INSTANCE_LOG(node="testnode", instance="i1")
ALL = api.ConsumerConfig(deliver_policy=api.DeliverPolicy.ALL)


async def publish(bus: Bus, *numbers: int, size: int = 1) -> None:
    for number in numbers:
        await bus.nc.publish(SUBJECT, f"{number:<{size}}".encode())
    await bus.nc.flush()


async def test_a_long_replay_is_whole_because_flow_control_is_answered(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, operator = await yard.bus(Role.RUNNER), await yard.bus()
    answers = list[str]()
    publish_to_broker = operator.nc.publish

    async def recorded(subject: str, payload: bytes = b"", reply: str = "", **more: Any) -> None:
        answers.append(subject)
        await publish_to_broker(subject, payload, reply, **more)

    monkeypatch.setattr(operator.nc, "publish", recorded)
    await publish(bus, *range(COUNT), size=SIZE)
    async with asyncio.timeout(60):
        while (await operator.js.stream_info(streams.LOGS.name)).state.messages < COUNT:
            await asyncio.sleep(0.05)
        answers.clear()
        numbers = [
            int(msg.data) async for msg in stored_messages(operator, streams.LOGS, SUBJECT, follow=False)
        ]
    assert numbers == list(range(COUNT))
    assert [name for name in answers if name.startswith("$JS.FC.")], "no flow control: this proves nothing"


async def test_a_consumer_at_rest_polls_nothing(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def recorded(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    operator = await yard.bus()
    async with ordered_consumer(operator, streams.LOGS.name, SUBJECT, ALL) as consumer:
        monkeypatch.setattr(asyncio, "sleep", recorded)
        waiting = asyncio.create_task(consumer.next())
        await operator.nc.flush()
        assert not waiting.done()
        waiting.cancel()
    assert slept == [], "nothing sleeps and wakes up again"


async def test_a_missed_message_and_a_missed_heartbeat_are_a_lost_consumer(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, operator = await yard.bus(Role.RUNNER), await yard.bus()
    await publish(bus, 0, 1)
    await eventually(lambda: stored(operator, 2), "both messages are stored")
    async with ordered_consumer(operator, streams.LOGS.name, SUBJECT, ALL) as consumer:
        assert consumer.pending == 2
        await eventually(lambda: consumer._received.qsize() == 2, "both messages are received")
        consumer._received.get_nowait()
        with pytest.raises(ConsumerLost, match="missed"):
            await consumer.next()
    monkeypatch.setattr(consumer_module, "SILENCE_S", 0.1)
    async with ordered_consumer(operator, streams.LOGS.name, subjects.SERVICE_LOG.wildcard, ALL) as consumer:
        with pytest.raises(ConsumerLost, match="heartbeat"):
            await consumer.next()


async def stored(bus: Bus, count: int) -> bool:
    return (await bus.js.stream_info(streams.LOGS.name)).state.messages == count


async def test_a_followed_stream_continues_after_the_broker_was_killed(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consumer dies with the broker; another one begins behind the last message."""
    monkeypatch.setattr(consumer_module, "SILENCE_S", 1.0)
    monkeypatch.setattr(consumer_module, "HEARTBEAT_S", 0.5)
    bus, operator = await yard.bus(Role.RUNNER), await yard.bus()
    await publish(bus, 0, 1)
    async with aclosing(stored_messages(operator, streams.LOGS, SUBJECT)) as messages:
        numbers = [int((await anext(messages)).data) for _ in range(2)]
        assert yard.broker.pid is not None
        back = asyncio.Event()
        bus.on_reconnect(back.set)
        os.kill(yard.broker.pid, signal.SIGKILL)
        await yard.broker.wait()
        await yard.broker.start()
        async with asyncio.timeout(20):
            await back.wait()
            await publish(bus, 2)
            numbers.append(int((await anext(messages)).data))
    assert numbers == [0, 1, 2]


async def test_a_cache_is_rebuilt_when_its_consumer_is_lost(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys deleted while the consumer was lost are removed, and those put then are present."""
    monkeypatch.setattr(consumer_module, "SILENCE_S", 1.0)
    monkeypatch.setattr(consumer_module, "HEARTBEAT_S", 0.5)
    supervisor, gateway = await yard.bus(Role.SUPERVISOR), await yard.bus(Role.GATEWAY)
    names, add_consumer = list[str](), gateway.js.add_consumer

    async def recorded(stream: str, config: api.ConsumerConfig) -> api.ConsumerInfo:
        info = await add_consumer(stream, config)
        names.append(info.name)
        return info

    monkeypatch.setattr(gateway.js, "add_consumer", recorded)
    store = BucketStore(supervisor, buckets.MODELS)
    for name in ("a", "b"):
        await store.put(name, ModelSpec(name=name, path="m.gguf"))
    async with Tasks() as tasks:
        cache = await BucketCache.start(gateway, buckets.MODELS, tasks)
        changes: list[tuple[str, bool]] = []
        cache.listen(lambda key, value: changes.append((key, value is not None)))
        await gateway.js.delete_consumer(buckets.MODELS.stream, names[0])
        await store.delete("a")
        await store.put("c", ModelSpec(name="c", path="m.gguf"))
        async with asyncio.timeout(20):
            await cache.until(lambda values: set(values) == {"b", "c"})
        assert len(names) > 1, "the first consumer is gone"
        assert sorted(changes) == [("a", False), ("c", True)], "b did not change"
