"""Consumers answer the broker's flow control, and cost nothing while nothing comes."""

import asyncio

import pytest
from nats.js import JetStreamContext

from modelyard import flow_control
from modelyard.bus.reads import stored_messages
from schemas import streams, subjects
from schemas.base import Role
from tests.support import Yard

COUNT, SIZE = 4000, 8000


async def test_a_long_replay_is_given_whole_because_the_broker_is_answered(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, operator = await yard.bus(Role.RUNNER), await yard.bus()
    asked = 0
    ask = JetStreamContext._JSI.schedule_flow_control_response

    def counted(consumer: JetStreamContext._JSI, reply: str) -> None:
        nonlocal asked
        asked += 1
        ask(consumer, reply)

    monkeypatch.setattr(JetStreamContext._JSI, "schedule_flow_control_response", counted)
    subject = subjects.INSTANCE_LOG(node="testnode", instance="i1")
    for number in range(COUNT):
        await bus.nc.publish(subject, f"{number:<{SIZE}}".encode())
    await bus.nc.flush()
    async with asyncio.timeout(60):
        while (await operator.js.stream_info(streams.LOGS.name)).state.messages < COUNT:
            await asyncio.sleep(0.05)
        numbers = [
            int(msg.data) async for msg in stored_messages(operator, streams.LOGS, subject, follow=False)
        ]
    assert numbers == list(range(COUNT))
    assert asked > 0, "the broker never asked: this test proves nothing"


async def test_a_consumer_at_rest_is_not_looked_at(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(flow_control.asyncio, "sleep", noted)
    operator = await yard.bus()
    subject = subjects.INSTANCE_LOG.wildcard
    sub = await operator.js.subscribe(subject, stream=streams.LOGS.name, ordered_consumer=True)
    await operator.nc.flush()
    await sub.unsubscribe()
    assert flow_control._BEHIND_S not in slept
    assert 0.25 not in slept, "nats-py's own loop runs"
