"""Whatever comes together: every request ends once, is recorded once, and leaves nothing behind."""

import asyncio
import collections
import contextlib
import random
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.reads import replay
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, streams, subjects
from schemas.base import Role
from schemas.errors import EngineFailed, InternalError, YardError
from schemas.instances import Instance, InstanceState, Reason
from schemas.models import ModelSpec
from schemas.requests import Lane, Outcome, RequestFinished
from services.gateway.catalog import Catalog
from services.gateway.inference.ask import Ask
from services.gateway.inference.budgets import Admission
from services.gateway.inference.inference import Inference
from services.supervisor.runner import desk as desk_module
from services.supervisor.runner import pulls
from services.supervisor.runner.answer import Answer
from services.supervisor.runner.desk import Desk
from services.supervisor.runner.intake import Intake
from services.supervisor.runner.life import Life
from services.supervisor.runner.upstream import Upstream
from tests.support import Yard

PATH = "/v1/chat/completions"
SPEC = ModelSpec(name="demo", path="demo.gguf", n_parallel=3)
REQUESTS = 60
TOKENS = 800
"""At 2 ms each they take longer than the broker waits in that test before it delivers once more."""

ODD_ENDS = {
    # All is said but the last word.
    "silent": b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"w"}}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    # A chunk of another shape than any that we know.
    "strange": b'data: {"choices":[{"index":0,"delta":{"tool_calls":7}}]}\n\ndata: [DONE]\n\n',
}


class Engine:
    """Streams as many tokens as asked for; breaks off when a request says so; counts what it is at."""

    def __init__(self) -> None:
        self.busy = 0
        self.most = 0
        self.asked = False

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            if (odd := body.get("user")) in ODD_ENDS:
                return await self._end_oddly(request, odd)
            return await self._stream(request, body["max_tokens"], dies=self._dies(body.get("user")))
        finally:
            self.busy -= 1

    def _dies(self, user: str | None) -> bool:
        first, self.asked = not self.asked, True
        return user == "dies" or (first and user == "dies once")

    async def _stream(self, request: web.Request, tokens: int, *, dies: bool) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "text/event-stream"
        await response.prepare(request)
        for number in range(tokens):
            if dies and number == tokens // 2:
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write(b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"w"}}]}\n\n')
            await asyncio.sleep(0.002)
        usage = b'{"prompt_tokens":1,"completion_tokens":%d}' % tokens
        await response.write(b'data: {"id":"c","choices":[],"usage":' + usage + b"}\n\ndata: [DONE]\n\n")
        return response

    async def _end_oddly(self, request: web.Request, odd: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(ODD_ENDS[odd])
        if odd == "silent":
            assert request.transport is not None
            request.transport.abort()
        return response

    async def slots(self, _request: web.Request) -> web.Response:
        return web.json_response([{"is_processing": True}] * self.busy)


@contextlib.asynccontextmanager
async def engine() -> AsyncIterator[tuple[Engine, int]]:
    running, app = Engine(), web.Application()
    app.router.add_post(PATH, running.chat)
    app.router.add_get("/slots", running.slots)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield running, runner.addresses[0][1]
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def path(yard: Yard, *ports: int) -> AsyncIterator[tuple[Inference, list[Desk]]]:
    """The gateway's half and a runner's half for each engine of the inference path, on a real broker."""
    gateway = await yard.bus(Role.GATEWAY)
    await BucketStore(await yard.bus(Role.SUPERVISOR), buckets.MODELS).put("demo", SPEC)
    async with Tasks() as tasks:
        desks = [await desk(await yard.bus(Role.RUNNER), tasks, port) for port in ports]
        catalog = Catalog(
            await BucketCache.start(gateway, buckets.MODELS, tasks),
            await BucketCache.start(gateway, buckets.INSTANCES, tasks),
        )
        spending = await BucketCache.start(gateway, buckets.SPENDING, tasks)
        inference = Inference(gateway, tasks, catalog, Admission(spending))
        await inference.open(await Commands.start(gateway, tasks, "test"))
        try:
            yield inference, desks
        finally:
            for one in desks:
                await one.upstream.close()


async def desk(bus: Bus, tasks: Tasks, port: int) -> Desk:
    """A runner without its process."""
    life = Life(bus, tasks, record(f"i{port}"))
    for state in (InstanceState.LOADING, InstanceState.PROBING, InstanceState.READY):
        await life.step(state)
    opened = Desk(bus, tasks, life, Upstream(port), SPEC)
    await opened.open()
    await Intake(bus, tasks, SPEC.name, opened).open()
    return opened


def record(instance: str) -> Instance:
    return Instance(
        instance=instance,
        model="demo",
        node="testnode",
        engine="test",
        revision=1,
        state=InstanceState.STARTING,
        reason=Reason.REQUESTED,
        changed_at=time.time(),
    )


async def one(inference: Inference, chance: random.Random) -> Outcome:
    """One client: patient, impatient, or one whose request takes the engine down."""
    stream, dies = chance.random() < 0.5, chance.random() < 0.15
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": chance.randint(1, 15)}
    body |= {"stream": stream, **({"user": "dies"} if dies else {})}
    ask = Ask(
        path=PATH,
        body=msgspec.json.encode({"model": "demo", **body}),
        model="demo",
        stream=stream,
        key=chance.choice((None, "a", "b")),
        lane=chance.choice((Lane.INTERACTIVE, Lane.INTERACTIVE, Lane.BATCH)),
    )
    timeout_s = chance.choice((30.0, 30.0, chance.random() * 0.2))
    await asyncio.sleep(chance.random() * 0.3)
    try:
        async with asyncio.timeout(timeout_s), inference.ask(ask) as answer:
            await answer.head()
            async for _ in answer.body():
                pass
    except TimeoutError:
        assert timeout_s < 30, "a patient client waits for nothing"
        return Outcome.CANCELLED
    except EngineFailed:
        assert dies, "somebody else's death is not mine"
        return Outcome.FAILED
    except YardError as error:
        raise AssertionError(error.message) from error
    return Outcome.OK


async def records(bus: Bus) -> list[RequestFinished]:
    """As the broker keeps them: who listens live may hear a record twice, with the same id."""
    kept = replay(bus, subjects.REQUEST_FINISHED, follow=False)
    return [event.payload async for event in kept]


@pytest.mark.parametrize("seed", range(4))
async def test_every_request_ends_once_and_nothing_is_left(yard: Yard, seed: int) -> None:
    operator, chance = await yard.bus(), random.Random(seed)
    async with (
        engine() as (first, port),
        engine() as (second, other_port),
        path(yard, port, other_port) as (inference, desks),
    ):
        clients = [one(inference, random.Random(chance.random())) for _ in range(REQUESTS)]
        outcomes = await asyncio.wait_for(asyncio.gather(*clients), 60)
        for running, at in zip((first, second), desks, strict=True):
            await asyncio.wait_for(at.idle(), 20)
            assert 0 < running.most <= SPEC.n_parallel, "both share the queue"
            assert (running.busy, at.busy, at.free) == (0, 0, SPEC.n_parallel)
        assert not list(inference.waiting())
        async with asyncio.timeout(20):
            while (await operator.js.stream_info(streams.INFER.name)).state.messages:
                await asyncio.sleep(0.02)
            while len(seen := await records(operator)) < REQUESTS:
                await asyncio.sleep(0.1)
    assert len({record.request for record in seen}) == len(seen) == REQUESTS
    count = collections.Counter(record.outcome for record in seen)
    # A client may lose patience in the moment in which its answer is whole: then both are right.
    assert count[Outcome.OK] >= outcomes.count(Outcome.OK)
    assert count[Outcome.FAILED] >= outcomes.count(Outcome.FAILED)
    assert count[Outcome.CANCELLED] <= outcomes.count(Outcome.CANCELLED)


async def test_a_second_delivery_of_a_request_at_work_leaves_it_to_the_first(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that could not say for a while that it is at work: another gets the request too."""

    async def says_nothing(_self: Answer) -> None:
        return

    monkeypatch.setattr(Answer, "keep", says_nothing)
    monkeypatch.setattr(pulls, "ACK_WAIT_S", 1.0)
    operator = await yard.bus()
    twice = await operator.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    await operator.nc.flush()
    body = {"model": "demo", "stream": True, "max_tokens": TOKENS, "messages": []}
    ask = Ask(path=PATH, body=msgspec.json.encode(body), model="demo", stream=True)
    async with (
        engine() as (first, port),
        engine() as (second, other_port),
        path(yard, port, other_port) as (inference, desks),
    ):
        async with inference.ask(ask) as answer:
            await twice.next_msg(timeout=20)
            async with asyncio.timeout(20):
                while not (at_work := [at for at in desks if at.busy]):
                    await asyncio.sleep(0.01)
            # It could get the second delivery too, and would know it.
            at_work[0].slots = at_work[0].busy
            await twice.next_msg(timeout=20)
            text = b"".join([piece async for piece in answer.body()])
        for at in desks:
            await asyncio.wait_for(at.idle(), 20)
        assert (first.busy, second.busy) == (0, 0)
        async with asyncio.timeout(20):
            while not (seen := await records(operator)):
                await asyncio.sleep(0.05)
        assert [(one.outcome, one.completion_tokens) for one in seen] == [(Outcome.OK, TOKENS)]
        assert text.count(b'"content":"w"') == TOKENS
        assert not (await operator.js.stream_info(streams.INFER.name)).state.messages


def odd_ask(odd: str, *, stream: bool) -> Ask:
    body = {"model": "demo", "stream": stream, "max_tokens": 3, "messages": [], "user": odd}
    return Ask(path=PATH, body=msgspec.json.encode(body), model="demo", stream=stream)


async def only_record(bus: Bus) -> RequestFinished:
    async with asyncio.timeout(20):
        while not (seen := await records(bus)):
            await asyncio.sleep(0.05)
    (record,) = seen
    return record


async def test_an_answer_whose_last_word_was_lost_is_whole_and_recorded(yard: Yard) -> None:
    """It ended without its runner and without an error, and so nobody wrote its record."""
    operator = await yard.bus()
    async with engine() as (_, port), path(yard, port) as (inference, _):
        async with inference.ask(odd_ask("silent", stream=True)) as answer:
            text = b"".join([piece async for piece in answer.body()])
        assert text.endswith(b"data: [DONE]\n\n")
        record = await only_record(operator)
    assert (record.outcome, record.status, record.completion_tokens) == (Outcome.OK, 200, 1)


async def test_what_a_runner_cannot_read_is_an_error_and_no_endless_wait(yard: Yard) -> None:
    operator = await yard.bus()
    async with engine() as (_, port), path(yard, port) as (inference, desks):
        with pytest.raises(InternalError):
            async with asyncio.timeout(5), inference.ask(odd_ask("strange", stream=False)) as answer:
                await answer.head()
        record = await only_record(operator)
        await asyncio.wait_for(desks[0].idle(), 5)
    assert (record.outcome, record.status) == (Outcome.FAILED, 500)


async def test_who_leaves_when_his_request_has_just_failed_is_recorded_all_the_same(yard: Yard) -> None:
    """He was writing to somebody who did not read: the failure came first, and he never heard of it."""
    operator = await yard.bus()
    async with path(yard) as (inference, _):
        with pytest.raises(asyncio.CancelledError):
            async with inference.ask(odd_ask("silent", stream=True)) as answer:
                answer.fail(EngineFailed("The engine died twice."))
                raise asyncio.CancelledError
        record = await only_record(operator)
        async with asyncio.timeout(5):
            while (await operator.js.stream_info(streams.INFER.name)).state.messages:
                await asyncio.sleep(0.02)
    assert (record.outcome, record.error and record.error.message) == (
        Outcome.FAILED,
        "The engine died twice.",
    )


async def test_a_second_attempt_on_the_same_runner_is_not_given_up_for_the_first(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner asked about both, heard that the first is elsewhere, and left the second, too: that came
    back seconds later, when the broker delivered it again.
    """
    monkeypatch.setattr(desk_module, "CHECK_S", 0.2)
    operator = await yard.bus()
    started = await operator.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    await operator.nc.flush()
    body = {"model": "demo", "max_tokens": 400, "user": "dies once", "messages": []}
    ask = Ask(path=PATH, body=msgspec.json.encode(body), model="demo", stream=False)
    async with engine() as (_, port), path(yard, port) as (inference, _desks):
        async with asyncio.timeout(20), inference.ask(ask) as answer:
            assert (await answer.head()).status == 200
            async for _ in answer.body():
                pass
        for attempt in (1, 2):
            event = subjects.REQUEST_STARTED.decode((await started.next_msg(timeout=5)).data)
            assert (event.request, event.attempt) == (ask.request, attempt)
        await operator.nc.flush()
        assert started.pending_msgs == 0, "the second was begun once"
