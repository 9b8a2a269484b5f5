"""HTTP to an engine: health, probes, slots, paths that it lacks."""

import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from modelyard.plugins import EngineApi
from schemas.errors import NotServed
from schemas.models import Mode
from services.supervisor.runner.engine_process import accepts, free_port, is_taken
from services.supervisor.runner.upstream import Upstream


class Engine:
    """Scripted responses by path; records the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, object]] = []
        self.slots: list[int] = []

    async def any(self, request: web.Request) -> web.Response:
        self.requests.append((request.path, await request.json() if request.body_exists else None))
        match request.path:
            case "/slots":
                return web.json_response([{"is_processing": True}] * self.slots.pop(0))
            case "/ready":
                return web.Response(status=200 if len(self.requests) > 1 else 503)
            case "/v1/rerank":
                return web.json_response({"detail": "Not Found"}, status=404)
            case "/v1/embeddings":
                return web.json_response({"error": {"message": "no model"}}, status=404)
        return web.json_response({})


@contextlib.asynccontextmanager
async def upstream(api: EngineApi) -> AsyncIterator[tuple[Engine, Upstream]]:
    engine, app = Engine(), web.Application()
    app.router.add_route("*", "/{path:.*}", engine.any)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = Upstream(runner.addresses[0][1], api, "org/m")
    try:
        yield engine, client
    finally:
        await client.close()
        await runner.cleanup()


async def test_health_is_read_at_the_path_of_the_engine() -> None:
    async with upstream(EngineApi(health_path="/ready")) as (engine, client):
        assert not await client.is_healthy(1.0)
        assert await client.is_healthy(1.0)
        assert {path for path, _ in engine.requests} == {"/ready"}


@pytest.mark.parametrize("path", ["/infill", "/v1/rerank"], ids=["declared missing", "found missing"])
async def test_a_missing_path_is_refused_in_a_sentence(path: str) -> None:
    async with (
        upstream(EngineApi(missing_paths=frozenset({"/infill"}))) as (_, client),
        client.post(path, b"{}") as answer,
    ):
        assert answer.status == NotServed.status
        assert await answer.read() == NotServed(f"The engine of this model does not serve {path}.").encode()


async def test_an_error_of_the_engine_itself_is_passed_on() -> None:
    async with upstream(EngineApi()) as (_, client), client.post("/v1/embeddings", b"{}") as answer:
        assert (answer.status, await answer.read()) == (404, b'{"error": {"message": "no model"}}')


@pytest.mark.parametrize("mode", [Mode.CHAT, Mode.COMPLETION])
async def test_a_probe_names_the_model(mode: Mode) -> None:
    async with upstream(EngineApi()) as (engine, client):
        assert await client.probe(mode) is None
        ((_, body),) = engine.requests
        assert isinstance(body, dict)
        assert body["model"] == "org/m"


async def test_a_probe_has_the_additional_fields_of_its_engine() -> None:
    async with upstream(EngineApi(probe_fields={"cache_prompt": False})) as (engine, client):
        await client.probe(Mode.CHAT)
        ((_, body),) = engine.requests
        assert isinstance(body, dict)
        assert body["cache_prompt"] is False


async def test_a_failed_probe_has_a_reason_and_transcriptions_have_no_probe() -> None:
    async with upstream(EngineApi()) as (engine, client):
        assert "/v1/embeddings answered 404" in (await client.probe(Mode.EMBEDDING) or "")
        assert await client.probe(Mode.TRANSCRIPTION) is None
        assert len(engine.requests) == 1


async def test_a_slot_is_free_once_the_engine_reports_it() -> None:
    async with upstream(EngineApi(slots_path="/slots")) as (engine, client):
        engine.slots = [2, 2, 1]
        assert await client.wait_for_slots(1)
        assert engine.slots == []


async def test_an_engine_without_a_list_of_slots_is_not_waited_for() -> None:
    async with upstream(EngineApi()) as (engine, client):
        assert await client.wait_for_slots(0)
        assert engine.requests == []


async def test_a_free_port_has_no_listener() -> None:
    port = free_port()
    assert not is_taken(port)
    assert not await accepts(port)
    with socket.create_server(("127.0.0.1", port)):
        assert is_taken(port)
        assert await accepts(port)
    assert 20_000 <= port < 32_000
