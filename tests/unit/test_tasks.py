"""Background tasks end when they are cancelled, even if they lose the first cancel."""

import asyncio
import contextlib

import pytest

from modelyard.bus import tasks
from modelyard.bus.tasks import Tasks, cancel, first_of


@pytest.fixture(autouse=True)
def short_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.05)


async def losing_its_first_cancel(steps: list[int]) -> None:
    """Loses its first cancel, as asyncio.wait_for does when the result comes in the same moment."""
    steps.append(0)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    steps.append(1)
    await asyncio.Event().wait()


async def test_a_task_that_loses_its_cancel_is_cancelled_again() -> None:
    steps: list[int] = []
    async with asyncio.timeout(5), Tasks() as group:
        group.spawn(losing_its_first_cancel(steps), "loses cancel")
        await asyncio.sleep(0)
    assert steps == [0, 1]


async def test_first_of_reports_the_winner_and_cancels_the_others() -> None:
    cancelled = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    assert await first_of(endless(), asyncio.sleep(0)) == (False, True)
    assert cancelled.is_set()


async def test_first_of_raises_the_error_of_the_winner() -> None:
    async def failing() -> None:
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        await first_of(failing(), asyncio.Event().wait())


async def test_first_of_leaves_the_tasks_of_its_caller_running_and_ends_in_time() -> None:
    own = asyncio.create_task(asyncio.Event().wait())
    assert await first_of(own, asyncio.Event().wait(), timeout_s=0.01) == (False, False)
    assert not own.done()
    await cancel(own)


async def test_cancel_returns_when_all_have_ended() -> None:
    steps: list[int] = []
    both = asyncio.create_task(losing_its_first_cancel(steps)), asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel(*both), 5)
    assert all(task.cancelled() for task in both)


async def test_a_task_that_ends_during_the_stop_is_awaited() -> None:
    async def brief() -> None: ...

    async with Tasks() as group:
        ended = group.spawn(brief(), "brief")
        await asyncio.sleep(0)
    assert ended.done()
