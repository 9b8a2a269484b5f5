"""Background tasks end when they are told to, even those that miss it the first time."""

import asyncio
import contextlib

import pytest

from modelyard.bus import tasks
from modelyard.bus.tasks import Tasks, cancel


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.05)


async def hard_of_hearing(heard: list[int]) -> None:
    """Loses its first cancel, as asyncio.wait_for does when the result comes in the same moment."""
    heard.append(0)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    heard.append(1)
    await asyncio.Event().wait()


async def test_a_task_that_misses_its_cancel_is_cancelled_again() -> None:
    heard: list[int] = []
    async with asyncio.timeout(5), Tasks() as group:
        group.spawn(hard_of_hearing(heard), "deaf")
        await asyncio.sleep(0)
    assert heard == [0, 1]


async def test_cancel_returns_when_all_have_ended() -> None:
    heard: list[int] = []
    both = asyncio.create_task(hard_of_hearing(heard)), asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel(*both), 5)
    assert all(task.cancelled() for task in both)


async def test_a_task_that_ends_in_the_moment_of_the_stop_is_waited_for_too() -> None:
    async def brief() -> None: ...

    async with Tasks() as group:
        ended = group.spawn(brief(), "brief")
        await asyncio.sleep(0)
    assert ended.done()
