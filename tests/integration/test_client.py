"""The client for scripts, against stand-ins for the services on a real broker."""

import asyncio
import os
import signal
import time
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import pytest

from modelyard.bus.records import BucketStore
from modelyard.client import Client
from modelyard.host.settings import Settings
from schemas import buckets
from schemas.base import Role
from schemas.devices import Device, DeviceKind
from schemas.downloads import Download, DownloadState
from schemas.errors import (
    BadRequest,
    BrokerUnavailable,
    DeadlineExceeded,
    EngineFailed,
    ModelNotFound,
    NotFound,
    QueueFull,
    ServiceUnavailable,
    StartFailed,
)
from schemas.instances import InstanceState
from schemas.models import ModelSpec
from tests.standins import Services, instance, print_lines
from tests.support import Yard


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_without_arguments_the_environment_selects_the_yard(
    yard: Yard, standins: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YARD_HOME", str(yard.settings.home))
    monkeypatch.setenv("YARD_NATS_URL", yard.url)
    async with Client.connect() as client:
        assert "demo" in await client.models()


async def test_an_unreachable_broker_is_raised_in_time(settings: Settings, yard: Yard) -> None:
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1 does not answer"):
        async with Client.connect(yard.settings, "nats://127.0.0.1:1", timeout_s=0.5):
            pass


async def test_state_is_read_by_key_without_deleted_values(yard: Yard, client: Client) -> None:
    supervisor, monitor = await yard.bus(Role.SUPERVISOR), await yard.bus(Role.MONITOR)
    assert await client.models() == {}
    models, instances = BucketStore(supervisor, buckets.MODELS), BucketStore(supervisor, buckets.INSTANCES)
    for name in ("a", "b"):
        await models.put(name, ModelSpec(name=name, path=f"{name}.gguf"))
    await models.put("a", ModelSpec(name="a", path="new.gguf"))
    await models.delete("b")
    assert {key: spec.path for key, spec in (await client.models()).items()} == {"a": "new.gguf"}
    await instances.put("i1", instance("i1", "a", InstanceState.READY))
    device = Device(
        node="n",
        device="cpu",
        kind=DeviceKind.CPU,
        name="CPU",
        memory_total_bytes=3,
        memory_used_bytes=1,
        memory_free_bytes=2,
        sampled_at=1.0,
    )
    await BucketStore(monitor, buckets.DEVICES).put("n.cpu", device)
    assert (await client.instances())["i1"].model == "a"
    assert await client.devices() == {"n.cpu": device}
    assert await client.downloads() == {}
    assert await client.nodes() == {}


async def test_a_bucket_of_many_values_is_read_whole(yard: Yard, client: Client) -> None:
    downloader = await yard.bus(Role.DOWNLOADER)
    for number in range(2500):
        download = Download(
            download=f"d{number}",
            reference="r",
            model="m",
            state=DownloadState.FAILED,
            created_at=1,
            changed_at=1,
        )
        await downloader.nc.publish(
            buckets.DOWNLOADS.subject(download.download), buckets.DOWNLOADS.encode(download)
        )
    await BucketStore(downloader, buckets.DOWNLOADS).put("last", download)
    assert len(await client.downloads()) == 2501


async def test_commands_without_a_service_name_it(client: Client) -> None:
    with pytest.raises(ServiceUnavailable, match="supervisor"):
        await client.start("demo")
    with pytest.raises(ServiceUnavailable, match="downloader"):
        await anext(client.pull("org/demo"))
    with pytest.raises(ServiceUnavailable, match="gateway"):
        await anext(client.chat("demo", user("hi")))


async def test_a_model_is_started_and_waited_for(client: Client, standins: Services) -> None:
    starting = await client.start("d")
    assert (starting.model, starting.state) == ("demo", "starting")
    ready = await client.wait_ready("d", 5.0, instance=starting.instance)
    assert ready.state is InstanceState.READY
    assert await client.wait_ready("demo", 5.0) == ready, "it is ready already"
    assert (await client.stop("demo")).instances == ("de1",)


async def test_a_failed_start_is_raised_with_the_error_of_the_engine(
    client: Client, standins: Services
) -> None:
    starting = await client.start("broken")
    with pytest.raises(StartFailed, match="out of memory"):
        await client.wait_ready("broken", 5.0, instance=starting.instance)
    with pytest.raises(StartFailed, match="out of memory"):
        await client.wait_ready("broken", 5.0)


async def test_an_earlier_failure_does_not_fail_this_start(client: Client, standins: Services) -> None:
    supervisor = standins.supervisor
    await supervisor.put(instance("old", "demo", InstanceState.FAILED, at=99.0, error="old"))
    waiting = asyncio.ensure_future(client.wait_ready("demo", 5.0, instance="de1"))
    await client.start("demo")
    assert (await waiting).instance == "de1"


async def test_waiting_ends_when_the_model_is_stopped_or_takes_too_long(
    client: Client, standins: Services
) -> None:
    supervisor = standins.supervisor
    with pytest.raises(DeadlineExceeded, match="demo was not ready after"):
        await client.wait_ready("demo", 0.2)
    with pytest.raises(ModelNotFound):
        await client.wait_ready("other", 5.0)
    await supervisor.put(instance("i1", "demo", InstanceState.LOADING))
    steps = client.starting("demo", "i1")
    assert (await anext(steps)).state is InstanceState.LOADING
    await supervisor.instances.delete("i1")
    with pytest.raises(StartFailed, match="stopped before it was ready"):
        await anext(steps)


async def test_a_pull_yields_every_update_until_the_end(client: Client, standins: Services) -> None:
    async with asyncio.timeout(10):
        updates = [update async for update in client.pull("org/demo", "mine")]
    assert updates[0].state is DownloadState.QUEUED
    assert updates[-1].state is DownloadState.FINISHED
    assert updates[-1].bytes_done == updates[-1].bytes_total
    assert {update.model for update in updates} == {"mine"}
    assert all(before != after for before, after in pairwise(updates))


async def test_a_pull_reads_the_bucket_when_updates_are_lost(client: Client, standins: Services) -> None:
    async with asyncio.timeout(10):
        updates = [update.state async for update in client.pull("org/quiet")]
    assert updates == [DownloadState.QUEUED, DownloadState.FINISHED]


async def test_a_pull_survives_a_restart_of_the_broker(
    yard: Yard, client: Client, standins: Services
) -> None:
    async with asyncio.timeout(30), aclosing(client.pull("org/long")) as updates:
        # Progress is not an event: no other update comes before the download is cancelled.
        while not (await anext(updates)).speed_bytes_s:
            pass
        back = asyncio.Event()
        standins.downloader.bus.on_reconnect(back.set)
        assert yard.broker.pid is not None
        os.kill(yard.broker.pid, signal.SIGKILL)
        await yard.broker.wait()
        await yard.broker.start()
        await back.wait()
        standins.downloader.cancelled.set()
        assert [update.state async for update in updates][-1] is DownloadState.CANCELLED


async def test_a_download_can_be_cancelled_while_it_is_followed(client: Client, standins: Services) -> None:
    async with asyncio.timeout(10), aclosing(client.pull("org/long")) as updates:
        first = await anext(updates)
        await client.cancel_download(first.download)
        assert [update.state async for update in updates][-1] is DownloadState.CANCELLED
    with pytest.raises(NotFound):
        await client.cancel_download("other")
    with pytest.raises(BadRequest, match="not on the hub"):
        await anext(client.pull("org/wrong"))


async def test_a_usage_query_has_the_given_fields(client: Client, standins: Services) -> None:
    report = await client.usage(since=5.0, model="demo", recent=3)
    assert report.rows[0].requests == 12
    query = standins.monitor.queries[0]
    assert (query.since, query.model, query.recent) == (5.0, "demo", 3)


async def test_stored_events_are_followed_by_new_ones(client: Client, standins: Services) -> None:
    await standins.supervisor.put(instance("i1", "demo", InstanceState.READY))
    async with asyncio.timeout(10):
        [old] = [event async for event in client.events(follow=False)]
        assert old.subject == "yard.event.instance.i1.ready"
        assert old.headers["ce-type"] == "yard.event.instance.ready"
        assert old.data["model"] == "demo"
        async with aclosing(client.events()) as events:
            assert await anext(events) == old
            async for _ in client.pull("org/demo"):
                pass
            following = {(await anext(events)).subject for _ in range(2)}
            assert following == {
                "yard.event.audit.download-start.done",
                "yard.event.download.demo.transferring",
            }


async def test_logs_are_those_of_the_newest_instance(yard: Yard, client: Client, standins: Services) -> None:
    put = standins.supervisor.put
    await put(instance("old", "demo", InstanceState.FAILED, at=1.0))
    await put(instance("new", "demo", InstanceState.READY, at=2.0))
    await print_lines(yard, "old", "demo", "first life")
    await print_lines(yard, "new", "demo", "second", "life")

    async def lines(name: str) -> list[str]:
        return [line.text async for line in client.logs(name)]

    assert await lines("demo") == await lines("first") == await lines("new") == ["second", "life"]
    assert await lines("old") == ["first life"]
    await standins.supervisor.instances.delete("old")
    await standins.supervisor.instances.delete("new")
    assert await lines("old") == ["first life"], "the lines of an ended instance stay stored"
    assert await lines("demo") == ["second", "life"]
    with pytest.raises(NotFound, match="broken has not run"):
        await lines("broken")
    with pytest.raises(NotFound, match=r"no model or instance a\.b"):
        await lines("a.b")


async def test_logs_can_be_followed(yard: Yard, client: Client, standins: Services) -> None:
    await standins.supervisor.put(instance("i1", "demo", InstanceState.READY))
    async with asyncio.timeout(10), aclosing(client.logs("demo", follow=True)) as lines:
        await print_lines(yard, "i1", "demo", "one")
        assert (await anext(lines)).text == "one"
        await print_lines(yard, "i1", "demo", "two")
        assert (await anext(lines)).text == "two"


async def test_logs_of_a_model_since_a_time_are_those_of_all_its_instances(
    yard: Yard, client: Client, standins: Services
) -> None:
    put = standins.supervisor.put
    await put(instance("old", "demo", InstanceState.FAILED, at=1.0))
    await put(instance("new", "demo", InstanceState.READY, at=2.0))
    await put(instance("other", "broken", InstanceState.READY, at=2.0))
    began = time.time()
    await print_lines(yard, "old", "demo", "Out of memory", "bye")
    await print_lines(yard, "other", "broken", "out of memory, too")
    await print_lines(yard, "new", "demo", "it loads")

    async def lines(name: str, **which: Any) -> list[str]:
        return [line.text async for line in client.logs(name, **which)]

    assert await lines("demo", since=began - 60) == ["Out of memory", "bye", "it loads"]
    assert await lines("first", since=began - 60, grep="out OF mem") == ["Out of memory"]
    assert await lines("old", since=began - 60) == ["Out of memory", "bye"]
    assert await lines("new", grep="nothing like it") == []
    assert await lines("demo", since=time.time() + 60) == []


async def test_chat_yields_the_text_in_pieces(client: Client, standins: Services) -> None:
    pieces = [text async for text in client.chat("demo", user("you \u00e4\u00f6\u00fc"), temperature=0.5)]
    assert pieces == ["Hello, ", "you \u00e4\u00f6\u00fc", "!"]
    [body] = standins.gateway.bodies
    assert body == {
        "model": "demo",
        "messages": user("you \u00e4\u00f6\u00fc"),
        "stream": True,
        "temperature": 0.5,
    }
    assert standins.gateway.cancelled.empty(), "an answer that was read to its end is not cancelled"


async def test_a_refusal_of_the_gateway_is_raised(client: Client, standins: Services) -> None:
    with pytest.raises(QueueFull):
        await anext(client.chat("demo", user("full")))
    with pytest.raises(ModelNotFound):
        await anext(client.chat("other", user("hi")))
    with pytest.raises(BadRequest, match="always streams"):
        client.chat("demo", user("hi"), stream=False)


async def test_an_interrupted_answer_ends_with_its_error(client: Client, standins: Services) -> None:
    pieces = []
    with pytest.raises(EngineFailed, match="broke off"):
        async for text in client.chat("demo", user("break")):
            pieces.append(text)
    assert pieces == ["Hello, ", "break", "!"]


async def test_an_incomplete_answer_is_an_error(client: Client, standins: Services) -> None:
    # What an engine refuses comes as the JSON it would send over HTTP, not as a stream.
    with pytest.raises(BadRequest, match="Too long"):
        await anext(client.chat("demo", user("nonsense")))
    with pytest.raises(EngineFailed, match="ended before it was complete"):
        [text async for text in client.chat("demo", user("cut"))]


async def test_closing_an_answer_cancels_the_request(client: Client, standins: Services) -> None:
    async with aclosing(client.chat("demo", user("endless"))) as pieces:
        assert await anext(pieces) == "Hello, "
    async with asyncio.timeout(5):
        assert await standins.gateway.cancelled.get() == standins.gateway.requests[0]


async def test_an_answer_without_pieces_times_out_and_is_cancelled(
    client: Client, standins: Services
) -> None:
    with pytest.raises(DeadlineExceeded, match="Nothing more of the answer came"):
        [text async for text in client.chat("demo", user("endless"), timeout_s=0.2)]
    async with asyncio.timeout(5):
        assert await standins.gateway.cancelled.get() == standins.gateway.requests[0]


async def test_a_lost_connection_in_an_answer_is_an_error(
    yard: Yard, client: Client, standins: Services
) -> None:
    async with asyncio.timeout(20), aclosing(client.chat("demo", user("endless"))) as pieces:
        for _ in range(3):
            await anext(pieces)
        assert yard.broker.pid is not None
        os.kill(yard.broker.pid, signal.SIGKILL)
        await yard.broker.wait()
        await yard.broker.start()
        with pytest.raises(BrokerUnavailable, match="in the middle of the answer"):
            await anext(pieces)


async def test_a_broker_without_a_yard_has_an_error_of_its_own(settings: Settings) -> None:
    from modelyard.up.child import claim_port, start_broker

    port = claim_port("127.0.0.1", 0, "YARD_NATS_PORT")
    broker = await start_broker(settings, port)
    try:
        async with Client.connect(settings, f"nats://127.0.0.1:{port}") as client:
            with pytest.raises(ServiceUnavailable, match="no yard was ever started"):
                await client.models()
            with pytest.raises(ServiceUnavailable, match="No yard was ever started"):
                await anext(client.events())
    finally:
        await broker.stop(2.0)


def test_the_package_exports_the_client() -> None:
    import modelyard

    assert modelyard.Client is Client
    assert not hasattr(modelyard, "Server")
