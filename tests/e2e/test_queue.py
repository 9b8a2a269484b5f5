"""Waiting in the queue: told where one stands, bounded, cancelled, and fair."""

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
from tests.e2e.chatting import HELLO, Stream, chat, streaming
from tests.e2e.conftest import SLOW, put_slow
from tests.e2e.yard_process import YardProcess, running_yard, watching

pytestmark = pytest.mark.asyncio(loop_scope="module")
TIMEOUT_S = 30


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    async with running_yard(tmp_path_factory.mktemp("yard") / "home") as yard:
        yield yard


@contextlib.asynccontextmanager
async def busy(yard: YardProcess, gguf: Path, **spec: Any) -> AsyncIterator[Stream]:
    """The only slot of the slow model is taken for as long as the block lasts."""
    await put_slow(yard, gguf, n_parallel=1)
    async with streaming(yard.url, SLOW, max_tokens=20000) as stream:
        await stream.read_tokens(1)
        # Limits are for who waits from now on, not for the start of the model.
        await put_slow(yard, gguf, n_parallel=1, **spec)
        yield stream


async def queue(yard: YardProcess) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"{yard.url}/api/queue") as response:
        waiting: list[dict[str, Any]] = (await response.json())["waiting"]
        return waiting


async def until_waiting(yard: YardProcess, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(TIMEOUT_S):
        while len(waiting := await queue(yard)) != count:
            await asyncio.sleep(0.02)
    return waiting


async def test_who_waits_is_told_where_and_goes_when_he_likes(yard: YardProcess, slow_gguf: Path) -> None:
    finished = await yard.bus.nc.subscribe(subjects.REQUEST_FINISHED.wildcard)
    await yard.bus.nc.flush()
    async with busy(yard, slow_gguf):
        first = asyncio.create_task(chat(yard.url, SLOW, max_tokens=2))
        await until_waiting(yard, 1)
        async with streaming(yard.url, SLOW, max_tokens=2) as stream:
            assert (await stream.read_comment()).startswith("waiting, position 2, about ")
            assert stream.response.headers["X-Queue-Position"] == "2"
            waiting = await until_waiting(yard, 2)
            assert [one["place"]["position"] for one in waiting] == [1, 2]
            async with watching(yard.bus) as instances, asyncio.timeout(TIMEOUT_S):
                while [(i.busy, i.waiting) for i in instances.of(SLOW)] != [(1, 2)]:
                    await asyncio.sleep(0.05)
            assert waiting[1]["request"] == stream.response.headers["X-Request-Id"]
            async with aiohttp.ClientSession() as session:
                gone = f"{yard.url}/api/queue/{waiting[1]['request']}"
                assert (await session.delete(gone)).status == 200
                await stream.read_rest()
                assert (stream.error or {})["code"] == "cancelled"
                assert (await session.delete(gone)).status == 404
        await until_waiting(yard, 1)
        info = await yard.bus.js.stream_info("INFER")
        assert info.state.messages == 2, "one at work, one waiting"
    assert (await first)[0] == 200
    outcomes = [
        subjects.REQUEST_FINISHED.decode((await finished.next_msg(timeout=50)).data).outcome for _ in range(3)
    ]
    assert sorted(outcomes) == [Outcome.CANCELLED, Outcome.CANCELLED, Outcome.OK]


async def test_a_full_queue_and_a_long_wait_are_refused_by_number(yard: YardProcess, slow_gguf: Path) -> None:
    async with busy(yard, slow_gguf, queue_max=1, queue_wait_s=2.0):
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
        assert (await yard.bus.js.stream_info("INFER")).state.messages == 1


async def test_a_client_that_leaves_the_queue_leaves_nothing_behind(
    yard: YardProcess, slow_gguf: Path
) -> None:
    async with busy(yard, slow_gguf):
        for stream in (True, False):
            asked = asyncio.create_task(chat(yard.url, SLOW, max_tokens=2, stream=stream))
            await until_waiting(yard, 1)
            asked.cancel()
            await until_waiting(yard, 0)
            async with asyncio.timeout(TIMEOUT_S):
                while (await yard.bus.js.stream_info("INFER")).state.messages != 1:
                    await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    home = tmp_path_factory.mktemp("keyed") / "home"
    keys = home / "keys"
    keys.mkdir(parents=True, mode=0o700)
    (keys / "api-keys").write_text("sesame-many-many\nsesame-one-one\n")
    async with running_yard(home) as yard:
        yield yard


async def test_one_key_with_many_requests_does_not_hold_up_another(
    keyed: YardProcess, slow_gguf: Path
) -> None:
    await put_slow(keyed, slow_gguf, n_parallel=1)
    started = await keyed.bus.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    queued = await keyed.bus.nc.subscribe(subjects.REQUEST_QUEUED.wildcard)
    await keyed.bus.nc.flush()
    async with aiohttp.ClientSession() as session:

        async def ask(key: str, tokens: int) -> str:
            body = {"model": SLOW, "messages": HELLO, "max_tokens": tokens}
            headers = {"Authorization": f"Bearer {key}"}
            async with session.post(
                f"{keyed.url}/v1/chat/completions", json=body, headers=headers
            ) as response:
                assert response.status == 200, await response.text()
                return response.headers["X-Request-Id"]

        many = [asyncio.create_task(ask("sesame-many-many", 30)) for _ in range(12)]
        for _ in many:
            await queued.next_msg(timeout=TIMEOUT_S)
        await started.next_msg(timeout=TIMEOUT_S)
        one = asyncio.create_task(ask("sesame-one-one", 2))
        mine = await asyncio.wait_for(one, TIMEOUT_S)
        before = 1
        while True:
            msg = await started.next_msg(timeout=TIMEOUT_S)
            before += 1
            if subjects.REQUEST_STARTED.decode(msg.data).request == mine:
                break
        assert before <= 4, "two at work or asked for already, and then it was its turn"
        assert sum(not task.done() for task in many) >= 7
        await asyncio.gather(*many)


async def test_with_keys_each_cancels_its_own(keyed: YardProcess, slow_gguf: Path) -> None:
    await put_slow(keyed, slow_gguf, n_parallel=1)
    mine, others = ({"Authorization": f"Bearer {key}"} for key in ("sesame-many-many", "sesame-one-one"))
    body = {"model": SLOW, "messages": HELLO, "max_tokens": 20000}
    async with aiohttp.ClientSession(keyed.url) as session:
        asked = [
            asyncio.create_task(session.post("/v1/chat/completions", json=body, headers=mine))
            for _ in range(2)
        ]
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                async with session.get("/api/queue", headers=others) as response:
                    if len(waiting := (await response.json())["waiting"]) == 1:
                        break
                await asyncio.sleep(0.02)
        path = f"/api/queue/{waiting[0]['request']}"
        for headers, status in ((others, 404), (mine, 200)):
            async with session.delete(path, headers=headers) as response:
                assert response.status == status
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT_S)
        assert [task.result().status for task in done] == [499]
        for task in asked:
            task.cancel()
