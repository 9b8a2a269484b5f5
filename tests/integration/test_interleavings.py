"""Requests, cancels, crashes and redeliveries in any order: each request ends once, with one usage record."""

import asyncio
import collections
import random
from functools import partial

import msgspec
import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.reads import replay
from schemas import streams, subjects
from schemas.errors import EngineFailed, InternalError, YardError
from schemas.requests import Lane, Outcome, RequestFinished
from services.gateway.inference.inference import Inference
from services.gateway.inference.request import InferRequest
from services.supervisor.runner import queues, slot_pool
from services.supervisor.runner.answer_sender import AnswerSender
from tests.integration.inference_path import PATH, SPEC, engine, inference_path
from tests.support import Yard, eventually

REQUESTS = 60
TOKENS = 800
"""At 2 ms each they take longer than the ack timeout in that test."""


async def client(inference: Inference, chance: random.Random) -> Outcome:
    """One client: with a long timeout or a short one, or one whose request crashes the engine."""
    stream, crashes = chance.random() < 0.5, chance.random() < 0.15
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": chance.randint(1, 15)}
    body |= {"stream": stream, **({"user": "crash"} if crashes else {})}
    request = InferRequest(
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
        async with asyncio.timeout(timeout_s), inference.submit(request) as answer:
            await answer.head()
            async for _ in answer.body():
                pass
    except TimeoutError:
        assert timeout_s < 30, "a long timeout expired"
        return Outcome.CANCELLED
    except EngineFailed:
        assert crashes, "only the crashing request fails"
        return Outcome.FAILED
    except YardError as error:
        raise AssertionError(error.message) from error
    return Outcome.OK


async def stored_records(bus: Bus, count: int) -> list[RequestFinished] | None:
    """The stored records; a live subscription may deliver one twice, with the same id."""
    stored = replay(bus, subjects.REQUEST_FINISHED, follow=False)
    records = [event.payload async for event in stored]
    return records if len(records) >= count else None


@pytest.mark.parametrize("seed", range(4))
async def test_every_request_ends_once_and_leaves_nothing_in_the_queue(yard: Yard, seed: int) -> None:
    operator, chance = await yard.bus(), random.Random(seed)
    async with (
        engine() as (first, port),
        engine() as (second, other_port),
        inference_path(yard, port, other_port) as (inference, pools),
    ):
        clients = [client(inference, random.Random(chance.random())) for _ in range(REQUESTS)]
        outcomes = await asyncio.wait_for(asyncio.gather(*clients), 60)
        for running, pool in zip((first, second), pools, strict=True):
            await asyncio.wait_for(pool.wait_idle(), 20)
            assert 0 < running.max_busy <= SPEC.n_parallel, "both consume the queue"
            assert (running.busy, pool.busy, pool.free) == (0, 0, SPEC.n_parallel)
        assert not list(inference.queued())
        await queue_empty(operator)
        stored = await eventually(partial(stored_records, operator, REQUESTS), "all records", timeout_s=20)
    assert len({record.request for record in stored}) == len(stored) == REQUESTS
    count = collections.Counter(record.outcome for record in stored)
    # A timeout may expire in the moment in which the answer is whole: then both outcomes are right.
    assert count[Outcome.OK] >= outcomes.count(Outcome.OK)
    assert count[Outcome.FAILED] >= outcomes.count(Outcome.FAILED)
    assert count[Outcome.CANCELLED] <= outcomes.count(Outcome.CANCELLED)


async def test_a_redelivered_request_is_handed_over_to_the_first_runner(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner could not extend the ack timeout for a while, and another gets the request too."""

    async def does_not_extend(_self: AnswerSender) -> None:
        return

    monkeypatch.setattr(AnswerSender, "extend", does_not_extend)
    monkeypatch.setattr(queues, "ACK_WAIT_S", 1.0)
    operator = await yard.bus()
    started = await operator.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    await operator.nc.flush()
    body = {"model": "demo", "stream": True, "max_tokens": TOKENS, "messages": []}
    request = InferRequest(path=PATH, body=msgspec.json.encode(body), model="demo", stream=True)
    async with (
        engine() as (first, port),
        engine() as (second, other_port),
        inference_path(yard, port, other_port) as (inference, pools),
    ):
        async with inference.submit(request) as answer:
            await started.next_msg(timeout=20)
            busy = await eventually(lambda: [pool for pool in pools if pool.busy], "a busy runner")
            # A free slot could get the second delivery, which would be dropped as a duplicate.
            busy[0].slots = busy[0].busy
            await started.next_msg(timeout=20)
            text = await answer.read_all()
        for pool in pools:
            await asyncio.wait_for(pool.wait_idle(), 20)
        assert (first.busy, second.busy) == (0, 0)
        stored = await eventually(partial(stored_records, operator, 1), "a record", timeout_s=20)
        assert [(event.outcome, event.completion_tokens) for event in stored] == [(Outcome.OK, TOKENS)]
        assert text.count(b'"content":"w"') == TOKENS
        assert not (await operator.js.stream_info(streams.INFER.name)).state.messages


def malformed_request(end: str, *, stream: bool) -> InferRequest:
    body = {"model": "demo", "stream": stream, "max_tokens": 3, "messages": [], "user": end}
    return InferRequest(path=PATH, body=msgspec.json.encode(body), model="demo", stream=stream)


async def only_record(bus: Bus) -> RequestFinished:
    (record,) = await eventually(partial(stored_records, bus, 1), "a record", timeout_s=20)
    return record


async def queue_empty(bus: Bus) -> None:
    async def is_empty() -> bool:
        return not (await bus.js.stream_info(streams.INFER.name)).state.messages

    await eventually(is_empty, "an empty queue", timeout_s=20)


async def test_an_answer_without_its_end_marker_is_completed_and_recorded(yard: Yard) -> None:
    """The gateway ended it without the runner and without an error, so no record was written."""
    operator = await yard.bus()
    async with engine() as (_, port), inference_path(yard, port) as (inference, _):
        async with inference.submit(malformed_request("unended", stream=True)) as answer:
            text = await answer.read_all()
        assert text.endswith(b"data: [DONE]\n\n")
        record = await only_record(operator)
    assert (record.outcome, record.status, record.completion_tokens) == (Outcome.OK, 200, 1)


async def test_an_unreadable_answer_is_an_error(yard: Yard) -> None:
    operator = await yard.bus()
    async with engine() as (_, port), inference_path(yard, port) as (inference, pools):
        with pytest.raises(InternalError):
            async with (
                asyncio.timeout(5),
                inference.submit(malformed_request("strange", stream=False)) as answer,
            ):
                await answer.head()
        record = await only_record(operator)
        await asyncio.wait_for(pools[0].wait_idle(), 5)
    assert (record.outcome, record.status) == (Outcome.FAILED, 500)


async def test_a_failure_is_recorded_though_the_client_disconnected(yard: Yard) -> None:
    """The gateway was writing to a client that did not read, and the failure came before the disconnect."""
    operator = await yard.bus()
    async with inference_path(yard) as (inference, _):
        with pytest.raises(asyncio.CancelledError):
            async with inference.submit(malformed_request("unended", stream=True)) as answer:
                answer.fail(EngineFailed("The engine died twice."))
                raise asyncio.CancelledError
        record = await only_record(operator)
        await queue_empty(operator)
    assert (record.outcome, record.error and record.error.message) == (
        Outcome.FAILED,
        "The engine died twice.",
    )


async def test_a_retry_on_the_same_runner_is_not_cancelled_for_the_first_attempt(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner checked both, read that the first is superseded, and handed over the retry, too: it was
    redelivered seconds later.
    """
    monkeypatch.setattr(slot_pool, "CHECK_S", 0.2)
    operator = await yard.bus()
    started = await operator.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    await operator.nc.flush()
    body = {"model": "demo", "max_tokens": 400, "user": "crash once", "messages": []}
    request = InferRequest(path=PATH, body=msgspec.json.encode(body), model="demo", stream=False)
    async with engine() as (_, port), inference_path(yard, port) as (inference, _pools):
        async with asyncio.timeout(20), inference.submit(request) as answer:
            assert (await answer.head()).status == 200
            async for _ in answer.body():
                pass
        for attempt in (1, 2):
            event = subjects.REQUEST_STARTED.decode((await started.next_msg(timeout=5)).data)
            assert (event.request, event.attempt) == (request.id, attempt)
        await operator.nc.flush()
        assert started.pending_msgs == 0, "the retry was started once"
