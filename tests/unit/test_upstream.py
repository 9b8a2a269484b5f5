"""What a runner asks of an engine, whichever it is."""

import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from modelyard.plugins import EngineApi
from schemas.errors import NotServed
from schemas.models import Mode
from services.supervisor.engines.ports import accepts, free_port, is_taken
from services.supervisor.runner.upstream import Upstream


class Engine:
    """Answers as told; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, object]] = []
        self.slots: list[int] = []

    async def any(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, await request.json() if request.body_exists else None))
        match request.path:
            case "/slots":
                return web.json_response([{"is_processing": True}] * self.slots.pop(0))
            case "/ready":
                return web.Response(status=200 if len(self.asked) > 1 else 503)
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
    asking = Upstream(runner.addresses[0][1], api, "org/m")
    try:
        yield engine, asking
    finally:
        await asking.close()
        await runner.cleanup()


async def test_health_is_asked_where_the_engine_has_it() -> None:
    async with upstream(EngineApi(health_path="/ready")) as (engine, asking):
        assert not await asking.is_healthy(1.0)
        assert await asking.is_healthy(1.0)
        assert {path for path, _ in engine.asked} == {"/ready"}


@pytest.mark.parametrize("path", ["/infill", "/v1/rerank"], ids=["known not to be there", "found not to be"])
async def test_a_path_that_the_engine_lacks_is_a_sentence(path: str) -> None:
    async with (
        upstream(EngineApi(missing_paths=frozenset({"/infill"}))) as (_, asking),
        asking.post(path, b"{}") as answer,
    ):
        assert answer.status == NotServed.status
        assert await answer.read() == NotServed(f"The engine of this model does not serve {path}.").encode()


async def test_an_engine_that_knows_the_path_speaks_for_itself() -> None:
    async with upstream(EngineApi()) as (_, asking), asking.post("/v1/embeddings", b"{}") as answer:
        assert (answer.status, await answer.read()) == (404, b'{"error": {"message": "no model"}}')


@pytest.mark.parametrize("mode", [Mode.CHAT, Mode.COMPLETION])
async def test_a_probe_names_the_model(mode: Mode) -> None:
    async with upstream(EngineApi()) as (engine, asking):
        assert await asking.probe(mode) is None
        ((_, body),) = engine.asked
        assert isinstance(body, dict)
        assert body["model"] == "org/m"


async def test_a_probe_has_what_one_kind_of_engine_alone_knows() -> None:
    async with upstream(EngineApi(probe_fields={"cache_prompt": False})) as (engine, asking):
        await asking.probe(Mode.CHAT)
        ((_, body),) = engine.asked
        assert isinstance(body, dict)
        assert body["cache_prompt"] is False


async def test_a_probe_tells_what_was_wrong_and_transcriptions_have_none() -> None:
    async with upstream(EngineApi()) as (engine, asking):
        assert "/v1/embeddings answered 404" in (await asking.probe(Mode.EMBEDDING) or "")
        assert await asking.probe(Mode.TRANSCRIPTION) is None
        assert len(engine.asked) == 1


async def test_a_slot_is_free_when_the_engine_says_so() -> None:
    async with upstream(EngineApi(slots_path="/slots")) as (engine, asking):
        engine.slots = [2, 2, 1]
        assert await asking.wait_for_slots(1)
        assert engine.slots == []


async def test_an_engine_that_cannot_be_asked_is_not_waited_for() -> None:
    async with upstream(EngineApi()) as (engine, asking):
        assert await asking.wait_for_slots(0)
        assert engine.asked == []


async def test_a_free_port_is_one_that_nobody_has() -> None:
    port = free_port()
    assert not is_taken(port)
    assert not await accepts(port)
    with socket.create_server(("127.0.0.1", port)):
        assert is_taken(port)
        assert await accepts(port)
    assert 20_000 <= port < 32_000
