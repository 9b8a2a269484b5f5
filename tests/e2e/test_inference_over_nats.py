"""Inference over NATS: the same JSON and answers as over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from schemas import subjects
from schemas.requests import ENDPOINTS, REQUEST_HEADER, Outcome
from tests.e2e.chat_client import HELLO, post
from tests.e2e.models import SLOW, put_slow, put_vectors
from tests.e2e.yard_process import YardProcess, running_yard

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    async with running_yard(tmp_path_factory.mktemp("yard") / "home") as yard:
        await put_vectors(yard)
        yield yard


BODIES = {
    "chat": {"model": "demo", "messages": HELLO},
    "completions": {"model": "demo", "prompt": "Hello", "max_tokens": 8},
    "responses": {"model": "demo", "input": "Hello!"},
    "messages": {"model": "demo", "messages": HELLO, "max_tokens": 100},
    "count_tokens": {"model": "demo", "messages": HELLO, "max_tokens": 100},
    "embeddings": {"model": "embed", "input": "fetch a model"},
    "rerank": {"model": "rerank", "query": "fetch", "documents": ["a", "fetch"]},
    "tokenize": {"model": "demo", "content": "Hello"},
}
VARIABLE_FIELDS = {"id", "created", "created_at", "completed_at", "timings", "usage", "output"}
"""Fields that differ between two answers to the same request."""


@pytest.mark.parametrize("name", BODIES)
async def test_answers_over_nats_equal_those_over_http(yard: YardProcess, name: str) -> None:
    path = next(endpoint.path for endpoint in ENDPOINTS if endpoint.name == name)
    body = msgspec.json.encode(BODIES[name])
    status, over_http = await post(yard.url, path, body)
    assert status == 200, over_http
    inbox = yard.bus.nc.new_inbox()
    replies = await yard.bus.nc.subscribe(inbox)
    await yard.bus.nc.publish(subjects.OPENAI(endpoint=name), body, reply=inbox)
    parts = []
    while part := (await replies.next_msg(timeout=20)).data:
        parts.append(part)
    over_nats = msgspec.json.decode(b"".join(parts))
    if isinstance(over_http, dict):
        assert set(over_nats) == set(over_http)
        for key in over_http.keys() - VARIABLE_FIELDS:
            assert over_nats[key] == over_http[key]
    else:
        assert over_nats == over_http


async def test_a_request_without_a_subscriber_at_its_inbox_is_cancelled(
    yard: YardProcess, slow_gguf: Path
) -> None:
    await put_slow(yard, slow_gguf)
    finished = await yard.bus.nc.subscribe(subjects.REQUEST_FINISHED.wildcard)
    inbox = yard.bus.nc.new_inbox()
    replies = await yard.bus.nc.subscribe(inbox)
    await yard.bus.flush_subscriptions()
    body = msgspec.json.encode({"model": SLOW, "messages": HELLO, "stream": True, "max_tokens": 5000})
    await yard.bus.nc.publish(subjects.OPENAI(endpoint="chat"), body, reply=inbox)
    await replies.next_msg(timeout=30)
    await replies.unsubscribe()
    record = subjects.REQUEST_FINISHED.decode((await finished.next_msg(timeout=10)).data)
    assert (record.model, record.outcome) == (SLOW, Outcome.CANCELLED)
    await finished.unsubscribe()


async def test_every_request_is_metered(yard: YardProcess) -> None:
    finished = await yard.bus.nc.subscribe(subjects.REQUEST_FINISHED.wildcard)
    await yard.bus.flush_subscriptions()
    for name, body in BODIES.items():
        path = next(endpoint.path for endpoint in ENDPOINTS if endpoint.name == name)
        await post(yard.url, path, msgspec.json.encode(body))
        record = subjects.REQUEST_FINISHED.decode((await finished.next_msg(timeout=10)).data)
        assert (record.path, record.outcome, record.model) == (path, Outcome.OK, body["model"])
        assert record.prompt_tokens > 0 or name in ("count_tokens", "tokenize")
        assert (record.completion_tokens > 0) == (name in ("chat", "completions", "responses", "messages"))


async def replies_to(yard: YardProcess, body: bytes, request: str) -> list[Msg]:
    """All replies to a chat with a request id chosen by the caller."""
    inbox = yard.bus.nc.new_inbox()
    replies = await yard.bus.nc.subscribe(inbox)
    headers = {REQUEST_HEADER: request}
    await yard.bus.nc.publish(subjects.OPENAI(endpoint="chat"), body, reply=inbox, headers=headers)
    messages = [await replies.next_msg(timeout=20)]
    while messages[-1].data and "Nats-Service-Error" not in (messages[-1].headers or {}):
        messages.append(await replies.next_msg(timeout=20))
    await replies.unsubscribe()
    return messages


async def test_a_request_id_is_accepted_once(yard: YardProcess) -> None:
    """A second request with the same id must not get the frames of the first."""
    body = msgspec.json.encode({"model": "demo", "messages": HELLO, "stream": True})
    together = await asyncio.gather(replies_to(yard, body, "mine"), replies_to(yard, body, "mine"))
    later = await replies_to(yard, body, "mine")
    (whole,) = [messages for messages in together if not messages[-1].data]
    assert b"[DONE]" in whole[-2].data
    for (refused,) in (*(messages for messages in together if messages is not whole), later):
        assert (refused.headers or {})["Nats-Service-Error-Code"] == "conflict"


async def test_a_body_nested_too_deeply_is_refused(yard: YardProcess) -> None:
    (refused,) = await replies_to(yard, b'{"model":"demo","x":' + b"[" * 5000 + b"]" * 5000 + b"}", "deep")
    assert (refused.headers or {})["Nats-Service-Error-Code"] == "invalid_json"
