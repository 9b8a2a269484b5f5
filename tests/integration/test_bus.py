"""The typed bus on a real broker."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import nats.errors
import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.reads import replay
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.base import Role
from schemas.errors import (
    BodyTooLarge,
    BrokerUnavailable,
    Conflict,
    InvalidJson,
    ModelNotFound,
    ServiceUnavailable,
)
from schemas.instances import Instance, InstanceState, Reason
from schemas.models import ModelRef, ModelSpec, ModelStarting
from tests.support import Yard, held_still


def instance(state: InstanceState = InstanceState.READY) -> Instance:
    return Instance(
        instance="i1",
        model="demo",
        node="n",
        engine="e",
        revision=1,
        state=state,
        reason=Reason.REQUESTED,
        changed_at=1.0,
    )


async def start_model(ref: ModelRef) -> ModelStarting:
    if ref.model != "demo":
        raise ModelNotFound(f"There is no model {ref.model}.", param="model")
    return ModelStarting(model=ref.model, instance="i1", state="starting")


async def test_a_command_replies_and_its_errors_are_raised_at_the_caller(yard: Yard) -> None:
    supervisor, operator = await yard.bus(Role.SUPERVISOR), await yard.bus()
    with pytest.raises(ServiceUnavailable):
        await operator.call(subjects.MODEL_START, ModelRef(model="demo"))
    async with Tasks() as tasks:
        commands = await Commands.start(supervisor, tasks, "test")
        await commands.add(subjects.MODEL_START, start_model)
        assert (await operator.call(subjects.MODEL_START, ModelRef(model="demo"))).instance == "i1"
        with pytest.raises(ModelNotFound, match="no model other") as caught:
            await operator.call(subjects.MODEL_START, ModelRef(model="other"))
        assert caught.value.param == "model"
        raw = await operator.nc.request(subjects.MODEL_START(), b'{"model": 3}', timeout=1)
        with pytest.raises(InvalidJson, match="Expected `str`, got `int`"):
            from modelyard.bus.connection import raise_error

            raise_error(raw)


async def test_a_command_is_subscribed_when_add_returns(yard: Yard) -> None:
    """The broker is held still: nobody may say that it listens before the broker could know."""
    supervisor = await yard.bus(Role.SUPERVISOR)

    async def on_queued(_tokens: dict[str, str], _: object) -> None: ...

    assert yard.broker.pid is not None
    async with Tasks() as tasks:
        commands = await Commands.start(supervisor, tasks, "test")
        await supervisor.nc.flush()
        async with held_still(yard.broker.pid):
            listening = [
                asyncio.ensure_future(commands.add(subjects.MODEL_START, start_model)),
                asyncio.ensure_future(supervisor.subscribe(subjects.REQUEST_QUEUED, on_queued)),
            ]
            done, _ = await asyncio.wait(listening, timeout=0.2)
        assert not done
        await asyncio.gather(*listening)


async def test_services_can_be_discovered(yard: Yard) -> None:
    supervisor, operator = await yard.bus(Role.SUPERVISOR), await yard.bus()
    async with Tasks() as tasks:
        commands = await Commands.start(supervisor, tasks, "test")
        await commands.add(subjects.MODEL_START, start_model)
        info = await operator.nc.request("$SRV.INFO.supervisor", b"", timeout=1)
        assert b"yard.command.model.start" in info.data


async def test_a_service_is_discoverable_only_after_announce(yard: Yard) -> None:
    """`yard up` said that all was ready while the first commands still found nobody."""
    supervisor, operator = await yard.bus(Role.SUPERVISOR), await yard.bus()
    async with Tasks() as tasks:
        commands = Commands.open(supervisor, tasks, "test")
        await commands.add(subjects.MODEL_START, start_model)
        assert (await operator.call(subjects.MODEL_START, ModelRef(model="demo"))).instance == "i1"
        with pytest.raises(nats.errors.NoRespondersError):
            await operator.nc.request("$SRV.PING.supervisor", b"", timeout=1)
        await commands.announce()
        await operator.nc.request("$SRV.PING.supervisor", b"", timeout=1)


@contextlib.asynccontextmanager
async def overheard(url: str) -> AsyncIterator[tuple[str, bytearray]]:
    """A way to the broker, and what clients say on it."""
    said, target = bytearray(), urlsplit(url)

    async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection(target.hostname, target.port)

        async def pass_on(to: asyncio.StreamWriter, heard: asyncio.StreamReader, keep: bytearray) -> None:
            while data := await heard.read(65536):
                keep += data
                to.write(data)
            to.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(pass_on(questions, reader, said))
            group.create_task(pass_on(writer, answers, bytearray()))

    server = await asyncio.start_server(on_client, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", said


async def test_flush_subscriptions_returns_when_the_subscription_is_active(yard: Yard) -> None:
    """nats-py writes its PING at once and a SUB a moment later: the first PONG says nothing of it."""
    async with overheard(yard.url) as (url, said):
        bus = await Bus.connect(yard.settings, Role.OPERATOR, url=url)
        for count in range(1, 6):
            await bus.subscribe(subjects.SERVICE_LOG, never)
            assert bytes(said).count(b"SUB yard.log.") == count
            assert said.rfind(b"PING") > said.rfind(b"SUB yard.log.")
        await bus.nc.close()


async def never(_tokens: dict[str, str], _batch: object) -> None:
    raise AssertionError("nobody logs here")


async def test_a_bucket_cache_follows_puts_deletes_and_expiry(yard: Yard) -> None:
    runner, gateway = await yard.bus(Role.RUNNER), await yard.bus(Role.GATEWAY)
    store = BucketStore(runner, buckets.INSTANCES)
    await store.put("before", instance())
    async with Tasks() as tasks:
        mirror = await BucketCache.start(gateway, buckets.INSTANCES, tasks)
        assert mirror.values["before"].model == "demo"
        await store.put("i1", instance(), ttl_s=1)
        await mirror.until(lambda values: "i1" in values)
        await store.delete("before")
        await mirror.until(lambda values: "before" not in values)
        async with asyncio.timeout(5):
            await mirror.until(lambda values: "i1" not in values)
        # A key may come back after it expired.
        await store.put("i1", instance(), ttl_s=5)
        await mirror.until(lambda values: "i1" in values)


async def test_compare_and_set_refuses_a_stale_revision(yard: Yard) -> None:
    store = BucketStore(await yard.bus(Role.SUPERVISOR), buckets.MODELS)
    spec = ModelSpec(name="demo", path="demo.gguf")
    first = await store.put("demo", spec, last=0)
    await store.put("demo", spec, last=first)
    with pytest.raises(Conflict):
        await store.put("demo", spec, last=first)


async def test_a_bucket_cache_is_rebuilt_after_the_broker_was_killed(yard: Yard) -> None:
    supervisor, gateway = await yard.bus(Role.SUPERVISOR), await yard.bus(Role.GATEWAY)
    store = BucketStore(supervisor, buckets.MODELS)
    await store.put("a", ModelSpec(name="a", path="a.gguf"))
    async with Tasks() as tasks:
        mirror = await BucketCache.start(gateway, buckets.MODELS, tasks)
        assert yard.broker.pid is not None
        back = asyncio.Event()
        supervisor.on_reconnect(back.set)
        os.kill(yard.broker.pid, signal.SIGKILL)
        await yard.broker.wait()
        await yard.broker.start()
        await back.wait()
        async with asyncio.timeout(10):
            while True:
                try:
                    await store.put("b", ModelSpec(name="b", path="b.gguf"))
                    break
                except BrokerUnavailable:
                    await asyncio.sleep(0.05)
            await mirror.until(lambda values: set(values) == {"a", "b"})


async def test_events_can_be_replayed_and_followed(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    for state in (InstanceState.LOADING, InstanceState.READY):
        await runner.emit(subjects.INSTANCE_CHANGED, instance(state), instance="i1", state=state)
    old = [event.tokens["state"] async for event in replay(operator, subjects.INSTANCE_CHANGED, follow=False)]
    assert old == ["loading", "ready"]
    following = replay(operator, subjects.INSTANCE_CHANGED)
    seen = [(await anext(following)).payload.state for _ in range(2)]
    await runner.emit(
        subjects.INSTANCE_CHANGED, instance(InstanceState.DRAINING), instance="i1", state="draining"
    )
    seen.append((await anext(following)).payload.state)
    assert seen == [InstanceState.LOADING, InstanceState.READY, InstanceState.DRAINING]
    since = (await anext(replay(operator, subjects.INSTANCE_CHANGED))).stored_at
    later = [
        event async for event in replay(operator, subjects.INSTANCE_CHANGED, since=since + 60, follow=False)
    ]
    assert later == []
    await following.aclose()


async def test_events_carry_cloudevents_headers(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    sub = await operator.nc.subscribe("yard.event.>")
    await operator.nc.flush()
    await runner.emit(subjects.INSTANCE_CHANGED, instance(), instance="i1", state="ready")
    headers = (await sub.next_msg(timeout=2)).headers or {}
    assert headers["ce-type"] == "yard.event.instance.ready"
    assert headers["ce-id"] == headers["Nats-Msg-Id"]
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-source"] == "/modelyard/testnode/runner"


async def test_a_role_is_denied_what_the_contract_does_not_grant(yard: Yard) -> None:
    gateway, runner = await yard.bus(Role.GATEWAY), await yard.bus(Role.RUNNER)
    operator = await yard.bus()
    sub = await operator.nc.subscribe("yard.event.>")
    await operator.nc.flush()
    await gateway.nc.publish("yard.event.instance.i1.ready", b"{}")
    await runner.nc.publish("yard.command.model.put", b"{}")
    await runner.nc.publish("$KV.models.demo", b"{}")
    await gateway.nc.flush()
    await runner.nc.flush()
    await runner.emit(subjects.INSTANCE_CHANGED, instance(), instance="i1", state="ready")
    assert (await sub.next_msg(timeout=2)).data != b"{}", "the gateway's forgery did not pass"
    assert sub.pending_msgs == 0
    models = await (await yard.bus()).js.stream_info(buckets.MODELS.stream)
    assert models.state.messages == 0


async def test_a_message_over_the_limit_is_refused_and_the_connection_survives(yard: Yard) -> None:
    operator = await yard.bus()
    with pytest.raises(BodyTooLarge):
        await operator.publish(subjects.CANCEL, b"x" * (operator.nc.max_payload + 1), request="r1")
    await operator.publish(subjects.CANCEL, b"", request="r1")
    await operator.nc.flush()
    assert operator.connected


async def test_publish_with_retry_survives_a_stalled_broker(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelyard.bus.outbox.RETRY_AFTER_S", 0.2)
    bus = await yard.bus(Role.SUPERVISOR)
    assert yard.broker.pid is not None
    async with held_still(yard.broker.pid):
        for number in range(3):
            await bus.publish_with_retry(
                subjects.INSTANCE_CHANGED, instance(), event_id=f"e{number}", instance="i1", state="ready"
            )
        # Long enough for each to be sent more than once.
        await asyncio.sleep(0.5)
    await asyncio.wait_for(bus.wait_for_acks(), 5)
    info = await (await yard.bus()).js.stream_info("EVENTS")
    assert info.state.messages == 3


async def test_batched_events_share_one_write(yard: Yard) -> None:
    bus, operator = await yard.bus(Role.SUPERVISOR), await yard.bus()
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(tokens: dict[str, str], _instance: Instance) -> None:
        await heard.put(tokens["state"])

    await operator.subscribe(subjects.INSTANCE_CHANGED, hear)
    for state in ("starting", "loading", "ready"):
        bus.publish_batched(subjects.INSTANCE_CHANGED, instance(), instance="i1", state=state)
    assert [await asyncio.wait_for(heard.get(), 5) for _ in range(3)] == ["starting", "loading", "ready"]
