"""Ollama's API beyond the plain case: loading, interrupted streams, keys and errors."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import ollama
import psutil
import pytest
import pytest_asyncio

from modelyard.files.tinymodels import DEMO_SENTENCE, write_embedder
from schemas import subjects
from schemas.instances import InstanceState
from schemas.models import Mode, ModelSpec
from schemas.requests import Outcome
from tests.e2e.chat_client import HELLO
from tests.e2e.models import SLOW, put_slow
from tests.e2e.yard_process import YardProcess, running_yard, until_idle, watch_instances

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEMO = "modelyard/demo.gguf"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    async with running_yard(tmp_path_factory.mktemp("yard") / "home") as yard:
        write_embedder(yard.models / "embed.gguf")
        await yard.put(ModelSpec(name="embed", path="embed.gguf", mode=Mode.EMBEDDING, n_ctx=512))
        await yard.put(ModelSpec(name="base", path=DEMO, mode=Mode.COMPLETION, aliases=("text",)))
        yield yard


@pytest_asyncio.fixture(loop_scope="module")
async def llama(yard: YardProcess) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=yard.url) as client:
        yield client


async def post(url: str, path: str, data: bytes, method: str = "POST") -> tuple[int, str, bytes]:
    """Status, content type and body, sent without a content type, as curl does in Ollama's examples."""
    async with aiohttp.ClientSession() as session, session.request(method, url + path, data=data) as response:
        return response.status, response.content_type, await response.read()


async def test_an_empty_prompt_loads_the_model(yard: YardProcess, llama: ollama.AsyncClient) -> None:
    async with watch_instances(yard.bus) as instances:
        assert instances.of("base") == []
        unloaded = await llama.generate(model="base", keep_alive=0)
        assert (unloaded.response, unloaded.done_reason) == ("", "unload")
        assert instances.of("base") == [], "it is not started only to be unloaded"
        loaded = await llama.generate(model="base:latest")
        assert (loaded.response, loaded.done, loaded.done_reason) == ("", True, "load")
        assert [instance.state for instance in instances.of("base")] == [InstanceState.READY]
    chatted = await llama.chat(model="demo", messages=[])
    assert (chatted.message.content, chatted.done_reason) == ("", "load")
    assert (await llama.embed(model="embed", input="")).embeddings == []
    assert (await llama.embeddings(model="embed", prompt="")).embedding == []
    running = {model.model: model for model in (await llama.ps()).models}
    assert running["text"].context_length == 8192
    assert {"text", "demo", "embed"} <= running.keys()


async def test_a_model_without_a_template_continues_the_prompt(llama: ollama.AsyncClient) -> None:
    options = {"num_predict": 8, "temperature": 0}
    texts = []
    for fields in ({"model": "text"}, {"model": "base", "raw": True}, {"model": "demo", "raw": True}):
        whole = await llama.generate(prompt="Hello", options=options, **fields)
        stream = await llama.generate(prompt="Hello", options=options, stream=True, **fields)
        texts += [whole.response, "".join([part.response async for part in stream])]
        assert (whole.eval_count, whole.done_reason) == (8, "length")
        assert (whole.eval_duration or 0) > 0
    assert len(set(texts)) == 1
    assert DEMO_SENTENCE.startswith(f"Hello{texts[0]}")


async def test_formats_tools_and_thinking_are_accepted(llama: ollama.AsyncClient) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    for shape in ("json", schema):
        for raw in (False, True):
            options = {"num_predict": 60}
            answer = await llama.generate(model="demo", prompt="x", format=shape, raw=raw, options=options)
            assert answer.done_reason == "length" or isinstance(json.loads(answer.response), dict)
            assert answer.response.startswith("{")
    turns = [
        *HELLO,
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
    ]
    turns += [{"role": "tool", "content": "2", "tool_name": "f"}]
    answer = await llama.chat(model="demo", messages=turns, tools=[TOOL], think="low")
    assert answer.message.content == DEMO_SENTENCE


async def test_a_suffix_is_refused_by_a_model_without_infill(llama: ollama.AsyncClient) -> None:
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match="not supported by this model") as caught:
            answer = await llama.generate(model="demo", prompt="a", suffix="b", stream=stream)  # type: ignore[call-overload]
            _ = [part async for part in answer]
        assert caught.value.status_code == 501


async def test_embeddings_can_be_shortened(llama: ollama.AsyncClient) -> None:
    (whole,) = (await llama.embed(model="embed", input="fetch a model")).embeddings
    (short,) = (await llama.embed(model="embed", input="fetch a model", dimensions=4)).embeddings
    assert len(short) == 4
    assert sum(value * value for value in short) == pytest.approx(1)
    assert short[0] / short[1] == pytest.approx(whole[0] / whole[1])


BAD = [
    ("/api/chat", b"{", 400, "/api/chat"),
    ("/api/chat", b"", 400, "/api/chat"),
    ("/api/chat", b'{"messages":[]}', 400, "model"),
    ("/api/chat", b'{"model":"demo","messages":7}', 400, "messages"),
    ("/api/chat", b'{"model":"demo","messages":[{"role":"user"}],"format":"yaml"}', 400, "yaml"),
    ("/api/chat", b'{"model":"demo","options":{"num_predict":"x"}}', 400, "num_predict"),
    ("/api/chat", b'{"model":"no-such-model"}', 404, "no-such-model"),
    ("/api/chat", b'{"model":"embed","messages":[{"role":"user","content":"x"}]}', 400, "/v1/embeddings"),
    ("/api/generate", b'{"model":"no-such-model","keep_alive":0}', 404, "no-such-model"),
    ("/api/generate", b'{"model":"embed","prompt":"x"}', 400, "/v1/embeddings"),
    ("/api/embed", b'{"model":"demo","input":"x"}', 400, "/v1/chat/completions"),
    ("/api/embeddings", b'{"model":"no-such-model","prompt":"x"}', 404, "no-such-model"),
    ("/api/show", b"{", 400, "/api/show"),
    ("/api/show", b"{}", 400, "model"),
    ("/api/show", b'{"name":"no-such-model"}', 404, "no-such-model"),
]


@pytest.mark.parametrize(("path", "data", "status", "text"), BAD)
async def test_errors_are_sentences(
    yard: YardProcess, path: str, data: bytes, status: int, text: str
) -> None:
    answered, kind, body = await post(yard.url, path, data)
    assert (answered, kind) == (status, "application/json"), body
    error = json.loads(body)
    assert set(error) == {"error"}
    assert text in error["error"]


async def test_other_methods_and_paths(yard: YardProcess) -> None:
    status, _, body = await post(yard.url, "/api/chat", b"", "GET")
    assert (status, json.loads(body)) == (405, {"error": "/api/chat does not take GET, but POST."})
    for path in ("/api/info", "/api/state/models", "/api/queue", "/api/version", "/api/tags"):
        assert (await post(yard.url, path, b"", "GET"))[0] == 200
    status, _, body = await post(yard.url, "/api/state/nothing", b"", "GET")
    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")
    status, _, body = await post(yard.url, "/api/command/model/start", b'{"model":"demo"}')
    assert (status, json.loads(body)["model"]) == (200, "demo")


@contextlib.asynccontextmanager
async def long_stream(yard: YardProcess, slow_gguf: Path) -> AsyncIterator[tuple[str, aiohttp.StreamReader]]:
    """The id and content of a long stream; after the block its record must be stored."""
    await put_slow(yard, slow_gguf)
    finished = await yard.bus.nc.subscribe(subjects.REQUEST_FINISHED.wildcard)
    await yard.bus.flush_subscriptions()
    body = {"model": SLOW, "messages": HELLO, "options": {"num_predict": 6000}}
    async with aiohttp.ClientSession() as session, session.post(f"{yard.url}/api/chat", json=body) as stream:
        assert (stream.status, stream.content_type) == (200, "application/x-ndjson")
        assert json.loads(await stream.content.readline())["done"] is False
        yield (request := stream.headers["X-Request-Id"]), stream.content
    record = subjects.REQUEST_FINISHED.decode((await finished.next_msg(timeout=20)).data)
    assert (record.request, record.outcome) == (request, Outcome.CANCELLED)
    async with watch_instances(yard.bus) as instances:
        await until_idle((await instances.until(SLOW, InstanceState.READY)).port or 0, 10)


async def test_a_cancelled_stream_ends_with_an_error(yard: YardProcess, slow_gguf: Path) -> None:
    async with long_stream(yard, slow_gguf) as (request, stream):
        assert (await post(yard.url, f"/api/queue/{request}", b"", "DELETE"))[0] == 200
        lines = [json.loads(line) async for line in stream]
        assert lines[-1] == {"error": "The request was cancelled."}
        assert not [line for line in lines[:-1] if line["done"]]


async def test_a_disconnected_client_cancels_its_request(yard: YardProcess, slow_gguf: Path) -> None:
    async with long_stream(yard, slow_gguf) as (_, stream):
        assert await stream.readline()


async def test_the_last_line_reports_an_engine_that_died(yard: YardProcess, slow_gguf: Path) -> None:
    """An answer with tools cannot be continued."""
    await put_slow(yard, slow_gguf)
    finished = await yard.bus.nc.subscribe(subjects.REQUEST_FINISHED.wildcard)
    await yard.bus.flush_subscriptions()
    body = {"model": SLOW, "messages": HELLO, "tools": [TOOL], "options": {"num_predict": 6000}}
    async with aiohttp.ClientSession() as session, session.post(f"{yard.url}/api/chat", json=body) as stream:
        await stream.content.readline()
        async with watch_instances(yard.bus) as instances:
            engine = (await instances.until(SLOW, InstanceState.READY)).engine_pid
        psutil.Process(engine).kill()
        lines = [json.loads(line) async for line in stream.content]
    assert "broke off" in lines[-1]["error"]
    assert not [line for line in lines[:-1] if line["done"]]
    # Records of earlier requests may still arrive.
    record = None
    while record is None or record.request != stream.headers["X-Request-Id"]:
        record = subjects.REQUEST_FINISHED.decode((await finished.next_msg(timeout=20)).data)
    assert record.error is not None, record
    assert (record.outcome, record.error.code) == (Outcome.FAILED, "engine_failed")


async def test_a_missing_key_is_refused_in_ollamas_shape(tmp_path: Path) -> None:
    keys = tmp_path / "home" / "keys"
    keys.mkdir(parents=True, mode=0o700)
    (keys / "api-keys").write_text("sesame\n")
    async with running_yard(tmp_path / "home") as yard:
        for path in ("/api/tags", "/api/ps", "/api/version"):
            status, _, body = await post(yard.url, path, b"", "GET")
            assert (status, list(json.loads(body))) == (401, ["error"])
            assert "API key" in json.loads(body)["error"]
        async with ollama.AsyncClient(host=yard.url) as anonymous:
            with pytest.raises(ollama.ResponseError, match="API key") as caught:
                await anonymous.chat(model="demo", messages=HELLO)
            assert caught.value.status_code == 401
        headers = {"Authorization": "Bearer sesame"}
        async with ollama.AsyncClient(host=yard.url, headers=headers) as client, asyncio.timeout(30):
            assert (await client.chat(model="demo", messages=HELLO)).message.content == DEMO_SENTENCE
