"""Models served by the smallest engine, the story of their instances as it is told, and unbroken streams."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats.errors

from modelyard.bus.connection import Bus
from schemas import subjects
from schemas.instances import Instance, InstanceState
from schemas.models import ModelSpec
from tests import life_engine


def lively(name: str, *behaviour: str, **more: Any) -> ModelSpec:
    """A model whose engine does as told; see `tests/life_engine.py`."""
    program = (sys.executable, "-S", "-E", "-u", life_engine.__file__, "{port}", *behaviour)
    return ModelSpec(name=name, path="no/file", engine="command", args=program, **more)


class Story:
    """Every change of every instance, in order."""

    def __init__(self) -> None:
        self.steps: list[Instance] = []
        self._more = asyncio.Event()

    def add(self, step: Instance) -> None:
        self.steps.append(step)
        self._more.set()

    def of(self, model: str, *states: InstanceState) -> list[Instance]:
        return [step for step in self.steps if step.model == model and (not states or step.state in states)]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._more.clear()
                await self._more.wait()

    async def step(
        self, model: str, state: InstanceState, *, count: int = 1, timeout_s: float = 20.0
    ) -> Instance:
        """The `count`th time that an instance of `model` got into `state`."""
        await self.until(lambda: len(self.of(model, state)) >= count, timeout_s)
        return self.of(model, state)[count - 1]


@contextlib.asynccontextmanager
async def told(bus: Bus) -> AsyncIterator[Story]:
    """The story from now on."""
    story = Story()

    async def listen(_tokens: dict[str, str], step: Instance) -> None:
        story.add(step)

    sub = await bus.subscribe(subjects.INSTANCE_CHANGED, listen)
    await bus.nc.flush()
    try:
        yield story
    finally:
        with contextlib.suppress(nats.errors.Error):
            await sub.unsubscribe()


def assert_goes_on(lines: list[str], *, tokens: int) -> None:
    """One stream, as if nothing had happened: one id, one role, one finish, one usage, one end."""
    assert lines[-1] == "[DONE]"
    assert lines.count("[DONE]") == 1
    chunks = [json.loads(line) for line in lines[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert len(usages) == 1
    assert usages[0]["completion_tokens"] == tokens
    assert usages[0]["total_tokens"] == usages[0]["prompt_tokens"] + tokens
