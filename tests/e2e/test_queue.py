"""The queue: positions, limits, cancellation and fairness."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from schemas import subjects
from schemas.requests import Outcome
from tests.e2e.chat_client import HELLO, Stream, chat, streaming
from tests.e2e.models import SLOW, put_slow
from tests.e2e.yard_process import YardProcess, running_yard, watch_instances
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
TIMEOUT_S = 30


@contextlib.asynccontextmanager
async def busy_slot(yard: YardProcess, gguf: Path, **spec: Any) -> AsyncIterator[Stream]:
    """The only slot of the slow model is busy inside the block."""
    await put_slow(yard, gguf, n_parallel=1)
    async with streaming(yard.url, SLOW, max_tokens=20000) as stream:
        await stream.read_tokens(1)
        # The limits apply to later requests, not to the start of the model.
        await put_slow(yard, gguf, n_parallel=1, **spec)
        yield stream


async def queue(yard: YardProcess) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"{yard.url}/api/queue") as response:
        waiting: list[dict[str, Any]] = (await response.json())["waiting"]
        return waiting


async def until_waiting(yard: YardProcess, count: int) -> list[dict[str, Any]]:
    async def waiting() -> tuple[list[dict[str, Any]], ...]:
        requests = await queue(yard)
        return (requests,) if len(requests) == count else ()

    return (await eventually(waiting, f"{count} requests wait", timeout_s=TIMEOUT_S))[0]


async def queued_messages(yard: YardProcess) -> int:
    return (await yard.bus.js.stream_info("INFER")).state.messages


async def test_waiting_requests_have_a_position_and_can_be_cancelled(
    yard: YardProcess, slow_gguf: Path
) -> None:
    finished = await yard.bus.nc.subscribe(subjects.REQUEST_FINISHED.wildcard)
    await yard.bus.flush_subscriptions()
    async with busy_slot(yard, slow_gguf):
        first = asyncio.create_task(chat(yard.url, SLOW, max_tokens=2))
        await until_waiting(yard, 1)
        async with streaming(yard.url, SLOW, max_tokens=2) as stream:
            assert (await stream.read_comment()).startswith("waiting, position 2, about ")
            assert stream.response.headers["X-Queue-Position"] == "2"
            waiting = await until_waiting(yard, 2)
            assert [request["place"]["position"] for request in waiting] == [1, 2]
            async with watch_instances(yard.bus) as instances, asyncio.timeout(TIMEOUT_S):
                await instances.cache.until(
                    lambda _: [(i.busy, i.waiting) for i in instances.of(SLOW)] == [(1, 2)]
                )
            assert waiting[1]["request"] == stream.response.headers["X-Request-Id"]
            async with aiohttp.ClientSession() as session:
                path = f"{yard.url}/api/queue/{waiting[1]['request']}"
                assert (await session.delete(path)).status == 200
                await stream.read_rest()
                assert (stream.error or {})["code"] == "cancelled"
                assert (await session.delete(path)).status == 404
        await until_waiting(yard, 1)
        assert await queued_messages(yard) == 2, "one running, one waiting"
    assert (await first)[0] == 200
    outcomes = [
        subjects.REQUEST_FINISHED.decode((await finished.next_msg(timeout=50)).data).outcome for _ in range(3)
    ]
    assert sorted(outcomes) == [Outcome.CANCELLED, Outcome.CANCELLED, Outcome.OK]


async def test_a_full_queue_is_429_and_a_long_wait_504(yard: YardProcess, slow_gguf: Path) -> None:
    async with busy_slot(yard, slow_gguf, queue_max=1, queue_wait_s=2.0):
        late = asyncio.create_task(chat(yard.url, SLOW, max_tokens=2))
        await until_waiting(yard, 1)
        async with aiohttp.ClientSession() as session:
            body = {"model": SLOW, "messages": HELLO, "stream": True}
            async with session.post(f"{yard.url}/v1/chat/completions", json=body) as refused:
                assert refused.status == 429
                assert int(refused.headers["Retry-After"]) >= 1
                assert (await refused.json())["error"]["code"] == "queue_full"
        status, answer = await asyncio.wait_for(late, TIMEOUT_S)
        assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
        assert await queued_messages(yard) == 1


async def test_a_disconnected_client_is_removed_from_the_queue(yard: YardProcess, slow_gguf: Path) -> None:
    async with busy_slot(yard, slow_gguf):
        for stream in (True, False):
            request = asyncio.create_task(chat(yard.url, SLOW, max_tokens=2, stream=stream))
            await until_waiting(yard, 1)
            request.cancel()
            await until_waiting(yard, 0)

            async def is_removed() -> bool:
                return await queued_messages(yard) == 1

            await eventually(is_removed, "the message is removed", timeout_s=TIMEOUT_S)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    home = tmp_path_factory.mktemp("keyed") / "home"
    keys = home / "keys"
    keys.mkdir(parents=True, mode=0o700)
    (keys / "api-keys").write_text("sesame-many-many\nsesame-one-one\n")
    async with running_yard(home) as yard:
        yield yard


async def test_a_key_with_many_requests_does_not_delay_another_key(
    keyed: YardProcess, slow_gguf: Path
) -> None:
    await put_slow(keyed, slow_gguf, n_parallel=1)
    started = await keyed.bus.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    queued = await keyed.bus.nc.subscribe(subjects.REQUEST_QUEUED.wildcard)
    await keyed.bus.flush_subscriptions()
    async with aiohttp.ClientSession() as session:

        async def request(key: str, tokens: int) -> str:
            body = {"model": SLOW, "messages": HELLO, "max_tokens": tokens}
            headers = {"Authorization": f"Bearer {key}"}
            async with session.post(
                f"{keyed.url}/v1/chat/completions", json=body, headers=headers
            ) as response:
                assert response.status == 200, await response.text()
                return response.headers["X-Request-Id"]

        many = [asyncio.create_task(request("sesame-many-many", 30)) for _ in range(12)]
        for _ in many:
            await queued.next_msg(timeout=TIMEOUT_S)
        await started.next_msg(timeout=TIMEOUT_S)
        one = asyncio.create_task(request("sesame-one-one", 2))
        mine = await asyncio.wait_for(one, TIMEOUT_S)
        before = 1
        while True:
            msg = await started.next_msg(timeout=TIMEOUT_S)
            before += 1
            if subjects.REQUEST_STARTED.decode(msg.data).request == mine:
                break
        assert before <= 4, "two were running or pulled already, then the other key had its turn"
        assert sum(not task.done() for task in many) >= 7
        await asyncio.gather(*many)


async def test_a_key_can_cancel_only_its_own_requests(keyed: YardProcess, slow_gguf: Path) -> None:
    await put_slow(keyed, slow_gguf, n_parallel=1)
    mine, others = ({"Authorization": f"Bearer {key}"} for key in ("sesame-many-many", "sesame-one-one"))
    body = {"model": SLOW, "messages": HELLO, "max_tokens": 20000}
    async with aiohttp.ClientSession(keyed.url) as session:
        requests = [
            asyncio.create_task(session.post("/v1/chat/completions", json=body, headers=mine))
            for _ in range(2)
        ]

        async def only_one_waits() -> list[dict[str, Any]] | None:
            async with session.get("/api/queue", headers=others) as response:
                waiting: list[dict[str, Any]] = (await response.json())["waiting"]
                return waiting if len(waiting) == 1 else None

        waiting = await eventually(only_one_waits, "one request waits", timeout_s=TIMEOUT_S)
        assert waiting is not None
        path = f"/api/queue/{waiting[0]['request']}"
        for headers, status in ((others, 404), (mine, 200)):
            async with session.delete(path, headers=headers) as response:
                assert response.status == status
        done, _ = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT_S)
        assert [task.result().status for task in done] == [499]
        for task in requests:
            task.cancel()
