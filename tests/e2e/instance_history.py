"""Recorded changes of instances, and the check of a continuous stream."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable

import nats.errors

from modelyard.bus.connection import Bus
from schemas import subjects
from schemas.instances import Instance, InstanceState


class InstanceHistory:
    """Every change of every instance, in order of arrival."""

    def __init__(self) -> None:
        self.changes: list[Instance] = []
        self._changed = asyncio.Event()

    def add(self, change: Instance) -> None:
        self.changes.append(change)
        self._changed.set()

    def of(self, model: str, *states: InstanceState) -> list[Instance]:
        return [
            change
            for change in self.changes
            if change.model == model and (not states or change.state in states)
        ]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def reached(
        self, model: str, state: InstanceState, *, count: int = 1, timeout_s: float = 20.0
    ) -> Instance:
        """The `count`th change of an instance of `model` to `state`."""
        await self.until(lambda: len(self.of(model, state)) >= count, timeout_s)
        return self.of(model, state)[count - 1]


@contextlib.asynccontextmanager
async def record_instances(bus: Bus) -> AsyncIterator[InstanceHistory]:
    """The changes from now on."""
    history = InstanceHistory()

    async def on_change(_tokens: dict[str, str], change: Instance) -> None:
        history.add(change)

    sub = await bus.subscribe(subjects.INSTANCE_CHANGED, on_change)
    try:
        yield history
    finally:
        with contextlib.suppress(nats.errors.Error):
            await sub.unsubscribe()


def assert_continuous(lines: list[str], *, tokens: int) -> None:
    """The stream has one id, one role, one finish reason, one usage and one end."""
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
