"""Batches with the real client: complete, in order, each line once, also after kills."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
import pytest_asyncio
from openai.types import Batch

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from modelyard.files.tinymodels import DEMO_SENTENCE
from schemas import buckets
from schemas.base import Role
from schemas.batches import BatchState
from tests.e2e.chat_client import HELLO, post
from tests.e2e.models import SLOW, put_slow
from tests.e2e.yard_process import YardProcess, settings_of
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = "/v1/chat/completions"
ENDED = {"completed", "failed", "cancelled", "expired"}


@pytest_asyncio.fixture(loop_scope="module")
async def client(yard: YardProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{yard.url}/v1", api_key="none", max_retries=20) as client:
        yield client


def lines(count: int, model: str, **params: Any) -> list[dict[str, Any]]:
    body = {"model": model, "messages": HELLO, **params}
    return [
        {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}
        for number in range(count)
    ]


async def create_batch(client: openai.AsyncOpenAI, requests: list[dict[str, Any]]) -> Batch:
    data = "\n".join(json.dumps(request) for request in requests).encode()
    file = await client.files.create(file=("requests.jsonl", data), purpose="batch")
    assert file.bytes == len(data)
    return await client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"who": "test"}
    )


async def until_ended(client: openai.AsyncOpenAI, batch: Batch, *, answered: int | None = None) -> Batch:
    """The batch once it has ended, or has `answered` lines."""

    async def current() -> Batch | None:
        now = await client.batches.retrieve(batch.id)
        assert now.request_counts is not None
        count = now.request_counts.completed + now.request_counts.failed
        return now if now.status in ENDED or (answered is not None and count >= answered) else None

    return await eventually(current, "the batch ends", timeout_s=90, every_s=0.1)


async def results(client: openai.AsyncOpenAI, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    content = await client.files.content(file)
    return [json.loads(line) for line in content.text.splitlines()]


async def test_a_batch_is_answered_line_by_line(client: openai.AsyncOpenAI) -> None:
    requests = lines(20, "demo")
    requests[3]["body"] = {"model": "no-such-model", "messages": HELLO}
    requests[7]["body"] = {"model": "demo", "messages": 7}
    batch = await until_ended(client, await create_batch(client, requests))
    assert batch.status == "completed"
    assert batch.metadata == {"who": "test"}
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 20, "completed": 18, "failed": 2}
    good, bad = await results(client, batch.output_file_id), await results(client, batch.error_file_id)
    assert [line["custom_id"] for line in good] == [
        f"line-{number}" for number in range(20) if number not in (3, 7)
    ]
    texts = {line["response"]["body"]["choices"][0]["message"]["content"] for line in good}
    assert texts == {DEMO_SENTENCE}
    assert [(line["custom_id"], line["response"]["status_code"]) for line in bad] == [
        ("line-3", 404),
        ("line-7", 400),
    ]
    assert batch.id in [listed.id async for listed in client.batches.list()]


async def test_an_invalid_batch_file_fails_with_its_lines(client: openai.AsyncOpenAI) -> None:
    requests = lines(2, "demo")
    requests[1]["custom_id"] = "line-0"
    batch = await until_ended(client, await create_batch(client, requests))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert [(error.code, error.line) for error in batch.errors.data or ()] == [("duplicate_custom_id", 2)]


async def test_a_killed_gateway_loses_and_duplicates_no_line_of_a_batch(
    yard: YardProcess, client: openai.AsyncOpenAI, slow_gguf: Path
) -> None:
    await put_slow(yard, slow_gguf)
    created = await create_batch(client, lines(24, SLOW, max_tokens=30))
    await until_ended(client, created, answered=4)
    yard.service("gateway").kill()
    batch = await until_ended(client, created)
    assert batch.status == "completed"
    good = await results(client, batch.output_file_id)
    assert [line["custom_id"] for line in good] == [f"line-{number}" for number in range(24)]


async def test_a_cancelled_batch_retains_its_answers(
    yard: YardProcess, client: openai.AsyncOpenAI, slow_gguf: Path
) -> None:
    await put_slow(yard, slow_gguf)
    created = await create_batch(client, lines(200, SLOW, max_tokens=30))
    await until_ended(client, created, answered=2)
    assert (await client.batches.cancel(created.id)).status == "cancelling"
    batch = await until_ended(client, created)
    assert batch.status == "cancelled"
    assert 2 <= len(await results(client, batch.output_file_id)) < 200

    async def is_queue_empty() -> bool:
        return not (await yard.bus.js.stream_info("INFER")).state.messages

    await eventually(is_queue_empty, "the queue is empty", timeout_s=20, every_s=0.05)


async def test_files_are_stored_listed_and_deleted(client: openai.AsyncOpenAI) -> None:
    data = b"x" * 3_000_000
    file = await client.files.create(file=("large.bin", data), purpose="user_data")
    assert (await client.files.retrieve(file.id)).filename == "large.bin"
    assert (await client.files.content(file.id)).content == data
    assert [listed.id async for listed in client.files.list(purpose="user_data")] == [file.id]
    with pytest.raises(openai.BadRequestError, match="user_data"):
        await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)


async def test_a_file_cannot_be_deleted_while_a_batch_needs_it(
    yard: YardProcess, client: openai.AsyncOpenAI
) -> None:
    """Without its file a batch that another gateway takes over would restart for ever."""
    batch = await create_batch(client, lines(2, "demo"))
    with pytest.raises(openai.ConflictError, match="needs"):
        await client.with_options(max_retries=0).files.delete(batch.input_file_id)
    assert (await until_ended(client, batch)).status == "completed"
    assert (await client.files.delete(batch.input_file_id)).deleted


async def test_a_batch_with_a_deleted_file_fails(yard: YardProcess, client: openai.AsyncOpenAI) -> None:
    first = await create_batch(client, lines(1, "demo"))
    await until_ended(client, first)
    await client.files.delete(first.input_file_id)
    bus = await Bus.connect(settings_of(yard.home, yard.nats_url), Role.GATEWAY, url=yard.nats_url)
    store = BucketStore(bus, buckets.BATCHES)
    ended = await store.get(first.id)
    assert ended is not None
    gone = msgspec.structs.replace(ended, batch="batch_gone", state=BatchState.VALIDATING)
    await store.put("batch_gone", gone)
    await bus.nc.close()
    ended_batch = await until_ended(client, await client.batches.retrieve("batch_gone"))
    assert ended_batch.errors is not None
    assert ended_batch.errors.data is not None
    assert (ended_batch.status, ended_batch.errors.data[0].code) == ("failed", "not_found")


async def test_invalid_ids_and_forms_are_refused(yard: YardProcess, client: openai.AsyncOpenAI) -> None:
    for name in ("a b", "*", ">", "file.x"):
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve(name)
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(name)
    for kind in ("multipart/form-data; boundary=x", "multipart/form-data", "application/json"):
        status, body = await post(yard.url, "/v1/files", b"--x\r\nno", **{"Content-Type": kind})
        assert (status, body["error"]["code"]) == (400, "bad_request")


async def test_files_are_listed_in_either_order(client: openai.AsyncOpenAI) -> None:
    for number in range(2):
        await client.files.create(file=(f"{number}.jsonl", b"{}"), purpose="batch")
    down = [file.id async for file in client.files.list(limit=10_000)]
    up = [file.id async for file in client.files.list(order="asc", limit=1)]
    assert up == down[::-1]
