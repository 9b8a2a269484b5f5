"""Requests to one yard: answers, events, refusals and side effects."""

import asyncio
import gzip
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from nats.aio.msg import Msg
from yarl import URL

from modelyard.client import Client
from modelyard.files.tinymodels import DEMO_SENTENCE, write_embedder
from schemas import subjects
from schemas.errors import ModelNotFound
from schemas.instances import InstanceState
from schemas.models import Mode, ModelRef, ModelSpec, ParameterPolicy
from schemas.requests import Outcome, RequestFinished
from tests.e2e.chat_client import HELLO, chat, post, streaming
from tests.e2e.yard_process import YardProcess, running_yard, settings_of, watch_instances
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = "/v1/chat/completions"


async def test_two_requests_to_a_stopped_model_start_it_once_and_both_are_answered(yard: YardProcess) -> None:
    async with watch_instances(yard.bus) as instances:
        assert instances.of("demo") == []
        events = await yard.bus.nc.subscribe(subjects.INSTANCE_CHANGED.matching(state="starting"))
        await yard.bus.flush_subscriptions()
        answers = await asyncio.gather(chat(yard.url, "demo"), chat(yard.url, "demo"))
        assert [answer["choices"][0]["message"]["content"] for _, answer in answers] == [DEMO_SENTENCE] * 2
        assert len(instances.of("demo")) == 1
        await yard.bus.flush_subscriptions()
        assert events.pending_msgs == 1


async def test_every_step_of_a_request_is_an_event(yard: YardProcess) -> None:
    events = await yard.bus.nc.subscribe("yard.event.request.>")
    await yard.bus.flush_subscriptions()
    async with streaming(yard.url, "demo", stream_options={"include_usage": True}) as stream:
        lines = await stream.read_rest()
    usage = json.loads(lines[-2])["usage"]
    request = stream.response.headers["X-Request-Id"]
    last: dict[str, Msg] = {}
    while len(last) < 3:
        msg = await events.next_msg(timeout=5)
        # Requests of the test before may still be recorded.
        if request in msg.subject:
            last[msg.subject.rsplit(".", 1)[1]] = msg
    await events.unsubscribe()
    assert set(last) == {"queued", "started", "finished"}
    record = subjects.REQUEST_FINISHED.decode(last["finished"].data)
    assert record.outcome is Outcome.OK
    assert (record.prompt_tokens, record.completion_tokens) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert record.first_token_ms is not None
    assert record.queue_ms is not None
    assert (last["finished"].headers or {})["ce-type"] == "yard.event.request.finished"


async def test_the_monitor_stores_one_usage_record_a_request(yard: YardProcess) -> None:
    async with (
        aiohttp.ClientSession() as session,
        Client.connect(settings_of(yard.home, yard.nats_url)) as client,
    ):
        async with session.post(yard.url + CHAT, json={"model": "demo", "messages": HELLO}) as response:
            request = response.headers["X-Request-Id"]

        async def records() -> list[RequestFinished]:
            recent = (await client.usage(recent=50)).recent
            return [record for record in recent if record.request == request]

        stored = await eventually(records, "the usage record is stored")
        assert [record.completion_tokens for record in stored] == [29]


@pytest.mark.parametrize(
    ("data", "status", "code", "text"),
    [
        (b'{"model":"no-such-model","messages":[]}', 404, "model_not_found", "no-such-model"),
        (b'{"model":"demo","messages":', 400, "invalid_json", "JSON"),
        (b'{"messages":[]}', 400, "invalid_json", "model"),
        (b'{"model":3}', 400, "invalid_json", "model"),
        (b"[]", 400, "invalid_json", "object"),
        (b"", 400, "invalid_json", "JSON"),
        (b'{"model":"demo","messages":7}', 400, None, ""),
        (b'{"model":"demo","messages":[],"stream_options":7}', 400, "bad_request", "object"),
        (b'{"model":"demo","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "invalid_json", "deeply"),
        (b"x" * 105_000_000, 413, "body_too_large", "limit"),
    ],
)
async def test_bad_requests_are_refused_in_the_error_shape(
    yard: YardProcess, data: bytes, status: int, code: str | None, text: str
) -> None:
    actual, body = await post(yard.url, CHAT, data)
    assert actual == status, body
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert code is None or body["error"]["code"] == code
    assert text in body["error"]["message"]
    assert isinstance(body["error"]["code"], str)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", CHAT, 405), ("DELETE", "/v1/models", 405), ("GET", "/../x", 404)],
)
async def test_unknown_paths_are_refused_in_the_error_shape(
    yard: YardProcess, method: str, path: str, status: int
) -> None:
    async with aiohttp.ClientSession() as session, session.request(method, yard.url + path) as response:
        assert response.status == status
        assert set((await response.json())["error"]) == {"message", "type", "param", "code"}


async def test_a_body_with_the_wrong_encoding_is_refused(yard: YardProcess) -> None:
    status, body = await post(yard.url, CHAT, b"not gzip", **{"Content-Encoding": "gzip"})
    assert (status, body["error"]["code"]) == (400, "bad_request")
    packed = gzip.compress(json.dumps({"model": "demo", "messages": HELLO}).encode())
    status, body = await post(yard.url, CHAT, packed, **{"Content-Encoding": "gzip"})
    assert (status, body["choices"][0]["message"]["content"]) == (200, DEMO_SENTENCE)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../tokenize",
        "/v1/%2e%2e/tokenize",
        "/v1/x/..%2f../tokenize",
        "/v1//tokenize",
        "/v1/x%3fy",
        "/v1/x/",
    ],
)
async def test_paths_cannot_escape_the_served_prefix(yard: YardProcess, path: str) -> None:
    """An engine has paths that no client may use, and the mode of a model limits those of `/v1/`."""
    url = URL(yard.url + path, encoded=True)
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={"model": "demo", "content": "Hello"}) as response,
    ):
        body = await response.json()
        assert (response.status, body["error"]["code"]) == (404, "not_found")
        assert "here" in body["error"]["message"], "the gateway refuses, not the engine"


async def test_a_page_of_an_allowed_origin_may_read_answers(yard: YardProcess) -> None:
    """A browser sends a preflight request, and requires CORS headers for a page of another port."""
    page = "http://localhost:3000"
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-a",
    }
    async with aiohttp.ClientSession() as session:
        async with session.options(yard.url + CHAT, headers={"Origin": page, **preflight}) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == page
            assert response.headers["Access-Control-Allow-Methods"] == "POST"
            assert response.headers["Access-Control-Allow-Headers"] == "authorization,x-a"
        for stream, status in ((True, 200), ("bad", 400)):
            body = {"model": "demo", "messages": HELLO, "stream": stream}
            async with session.post(yard.url + CHAT, json=body, headers={"Origin": page}) as response:
                assert response.status == status
                assert response.headers["Access-Control-Allow-Origin"] == page
                assert "Origin" in response.headers["Vary"]
        foreign = {"Origin": "https://evil.example", **preflight}
        async with session.options(yard.url + CHAT, headers=foreign) as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers
        async with session.get(f"{yard.url}/v1/models") as response:
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_foreign_hosts_and_origins_are_refused(yard: YardProcess) -> None:
    """A page of another site, or a name rebound to this address, must not reach the yard."""
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        status, body = await post(yard.url, "/api/command/model/start", b'{"model":"demo"}', **headers)
        assert (status, body["error"]["code"]) == (403, "forbidden")
    own = {"Origin": yard.url}
    status, body = await post(yard.url, "/api/command/model/start", b'{"model":"demo"}', **own)
    assert (status, body["model"]) == (200, "demo")


async def test_a_model_of_another_mode_is_refused(yard: YardProcess) -> None:
    write_embedder(yard.models / "embedder.gguf")
    await yard.put(ModelSpec(name="embedder", path="embedder.gguf", mode=Mode.EMBEDDING))
    status, body = await chat(yard.url, "embedder")
    assert (status, body["error"]["code"]) == (400, "wrong_mode")


async def test_an_embedding_model_passes_its_own_probe(yard: YardProcess) -> None:
    write_embedder(yard.models / "embedder2.gguf")
    await yard.put(ModelSpec(name="embedder2", path="embedder2.gguf", mode=Mode.EMBEDDING, n_ctx=512))
    await yard.bus.call(subjects.MODEL_START, ModelRef(model="embedder2"))
    async with watch_instances(yard.bus) as instances:
        ready = await instances.until("embedder2", InstanceState.READY)
    assert (ready.error, ready.failures) == (None, 0)
    await yard.bus.call(subjects.MODEL_STOP, ModelRef(model="embedder2"))


async def test_a_corrupt_model_fails_with_one_sentence_and_backs_off(yard: YardProcess) -> None:
    for name, content in (("page", b"<html>not a model</html>" * 50), ("truncated", truncated(yard))):
        (yard.models / f"{name}.gguf").write_bytes(content)
        await yard.put(ModelSpec(name=name, path=f"{name}.gguf"))
        status, body = await chat(yard.url, name)
        assert (status, body["error"]["code"]) == (503, "model_start_failed")
        assert f"{name} could not be started" in body["error"]["message"]
        async with watch_instances(yard.bus) as instances:
            failed = await instances.until(name, InstanceState.FAILED)
        assert failed.error in body["error"]["message"]
        assert failed.retry_at is not None
        assert (await chat(yard.url, name))[0] == 503, "refused at once during the pause"
        info = await yard.bus.js.stream_info("INFER", subjects_filter=">")
        assert not info.state.subjects, "the queue is empty"


def truncated(yard: YardProcess) -> bytes:
    whole = (yard.models / "modelyard" / "demo.gguf").read_bytes()
    return whole[: len(whole) // 2]


async def test_a_missing_file_is_reported(yard: YardProcess) -> None:
    await yard.put(ModelSpec(name="missing", path="nowhere/missing.gguf"))
    status, body = await chat(yard.url, "missing")
    assert (status, body["error"]["code"]) == (503, "model_start_failed")
    assert "is not in the store" in body["error"]["message"]


async def test_paths_outside_the_store_are_refused(yard: YardProcess) -> None:
    for path in ("../outside.gguf", "/etc/passwd", "a/../../b.gguf"):
        status, body = await post(
            yard.url, "/api/command/model/put", json.dumps({"name": "outside", "path": path}).encode()
        )
        assert status == 400, (path, body)


async def test_chat_over_nats_returns_the_same_text(yard: YardProcess) -> None:
    async with Client.connect(settings_of(yard.home, yard.nats_url)) as client:
        text = "".join([piece async for piece in client.chat("demo", HELLO)])
        assert text == DEMO_SENTENCE
        with pytest.raises(ModelNotFound):
            _ = [piece async for piece in client.chat("no-such-model", HELLO)]


async def test_health_models_and_state(yard: YardProcess) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{yard.url}/health") as response:
            assert await response.json() == {"status": "ok"}
        async with session.get(f"{yard.url}/v1/models/demo") as response:
            model = await response.json()
            assert (model["id"], model["object"], model["state"]) == ("demo", "model", "ready")
        async with session.get(f"{yard.url}/api/state/instances") as response:
            assert any(value["model"] == "demo" for value in (await response.json()).values())


async def test_the_page_is_served_and_its_feed_starts_with_a_snapshot(yard: YardProcess) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{yard.url}/") as response:
            assert "Content-Security-Policy" in response.headers
            assert "<title>" in await response.text()
        async with session.get(f"{yard.url}/app.js") as response:
            assert "javascript" in response.content_type
        async with session.ws_connect(f"{yard.url}/ws", protocols=["yard.v1"]) as socket:
            snapshot = await socket.receive_json(timeout=5)
            assert snapshot["type"] == "snapshot"
            assert "demo" in snapshot["data"]["models"]
            assert "testnode" in snapshot["data"]["nodes"]
            delta = await socket.receive_json(timeout=5)
            assert delta["type"] == "delta"
            instance = next(key for key, i in snapshot["data"]["instances"].items() if i["model"] == "demo")
            await socket.send_json({"type": "logs", "instance": instance})
            async with asyncio.timeout(5):
                lines: list[str] = []
                while not any("listening" in line for line in lines):
                    message = await socket.receive_json()
                    lines += [line["text"] for line in message["data"].get("lines", ())]


async def test_secrets_are_in_no_log_and_no_command_line(yard: YardProcess) -> None:
    assert (await chat(yard.url, "demo", max_tokens=2))[0] == 200
    seeds = [path.read_text().strip() for path in (yard.home / "keys").glob("*.nk")]
    assert len(seeds) == 6
    texts = [path.read_text(errors="replace") for path in (yard.home / "logs").glob("*")]
    texts += [" ".join(process.cmdline()) for process in yard.processes().values()]
    assert not [seed for seed in seeds for text in texts if seed in text]
    assert all((path.stat().st_mode & 0o077) == 0 for path in (yard.home / "keys").glob("*.nk"))
    async with watch_instances(yard.bus) as instances:
        engine = psutil.Process((await instances.until("demo", InstanceState.READY)).engine_pid)
    assert not [name for name in engine.environ() if name.startswith(("YARD_", "HF_"))]
    assert os.environ.get("PATH") == engine.environ()["PATH"]


async def test_an_unreachable_broker_is_503(tmp_path: Path) -> None:
    """The broker is suspended, not killed, so that it is not restarted."""
    async with running_yard(tmp_path / "home") as yard:
        # nats-py leaves every connection open that a suspended broker accepts but does not answer.
        await yard.bus.close()
        broker = next(p for p in yard.processes().values() if p.name() == "nats-server")
        broker.suspend()
        try:
            async with asyncio.timeout(30):
                status, body = await chat(yard.url, "demo")
                assert (status, body["error"]["code"]) == (503, "broker_unavailable")
        finally:
            broker.resume()

        async def is_answered() -> bool:
            return (await chat(yard.url, "demo"))[0] == 200

        await eventually(is_answered, "demo answers", timeout_s=30, every_s=0.05)


async def test_a_body_of_many_megabytes_arrives_whole_and_is_purged(yard: YardProcess) -> None:
    """Larger than a message of the broker: it is sent in pieces."""
    picture = "A" * 20_000_000
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], "user": picture}
    status, answer = await post(yard.url, CHAT, json.dumps(body).encode())
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == DEMO_SENTENCE

    async def is_purged() -> bool:
        return not (await yard.bus.js.stream_info("BODIES")).state.messages

    await eventually(is_purged, "the body is purged")


async def test_an_edited_parameter_policy_applies_to_the_next_request(yard: YardProcess) -> None:
    async def tokens(**fields: Any) -> int:
        status, answer = await chat(yard.url, "policy", **fields)
        assert status == 200, answer
        return int(answer["usage"]["completion_tokens"])

    def spec(**policy: Any) -> ModelSpec:
        return ModelSpec(name="policy", path="modelyard/demo.gguf", parameters=ParameterPolicy(**policy))

    await yard.put(spec(defaults={"max_tokens": 3}))
    async with watch_instances(yard.bus) as instances:
        assert (await tokens(), await tokens(max_tokens=5)) == (3, 5)
        (before,) = instances.of("policy")
        await yard.put(spec(forced={"max_tokens": 2}, dropped=("seed",)))

        statuses = set()

        async def is_applied() -> bool:
            status, answer = await chat(yard.url, "policy", max_tokens=5, seed=1)
            statuses.add(status)
            return bool(answer["usage"]["completion_tokens"] == 2)

        await eventually(is_applied, "the new policy applies", timeout_s=20, every_s=0.05)
        assert statuses == {200}
        assert [instance.instance for instance in instances.of("policy")] == [before.instance], (
            "without a restart"
        )
    await yard.bus.call(subjects.MODEL_STOP, ModelRef(model="policy"))


async def test_an_invalid_log_search_is_refused(yard: YardProcess) -> None:
    async with aiohttp.ClientSession() as session:
        for wrong in ("level=loud", "order=random", "limit=0", "limit=x", "cursor=x", "node=a.b", "since=x"):
            async with session.get(f"{yard.url}/api/logs?{wrong}") as answer:
                assert answer.status == 400, wrong
                assert (await answer.json())["error"]["code"] == "bad_request"
