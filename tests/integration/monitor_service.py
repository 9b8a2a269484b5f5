"""The monitor in the test's process, and how it is asked and told."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from modelyard.up.child import Child
from schemas import subjects
from schemas.base import Role
from schemas.errors import BrokerUnavailable, DeadlineExceeded, ServiceUnavailable
from schemas.requests import Lane, Outcome, RequestFinished
from schemas.usage import UsageQuery, UsageReport
from services.monitor.service import main
from tests.support import Yard

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 20.0
POLL_S = 0.02


@asynccontextmanager
async def monitor(yard: Yard) -> AsyncIterator[Bus]:
    """The service in this process, from its start to a clean stop."""
    bus = await yard.bus(Role.MONITOR)
    async with Tasks() as tasks:
        await main(bus, yard.settings, tasks)
        yield bus
    await bus.close()


def monitor_process(yard: Yard) -> Child:
    """`python -m services.monitor`, as `yard up` starts it."""
    env = {**os.environ, **yard.settings.as_environment(), "YARD_NATS_URL": yard.url, "PYTHONPATH": str(ROOT)}
    return Child(
        "monitor", [sys.executable, "-m", "services.monitor"], env, yard.settings.logs / "monitor.log"
    )


def record(request: str, model: str = "demo") -> RequestFinished:
    return RequestFinished(
        request=request,
        model=model,
        lane=Lane.INTERACTIVE,
        path="/v1/chat/completions",
        stream=False,
        outcome=Outcome.OK,
        status=200,
        queued_at=1.0,
        finished_at=2.0,
        prompt_tokens=10,
        completion_tokens=2,
    )


async def emit(bus: Bus, requests: Iterable[str]) -> None:
    for request in requests:
        await bus.emit(subjects.REQUEST_FINISHED, record(request), model="demo", request=request)


async def usage(operator: Bus, until: Callable[[UsageReport], bool], recent: int = 0) -> UsageReport:
    """The first report that fulfils the condition. Nothing announces a commit, so it is asked for again."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                report = await operator.call(subjects.USAGE_QUERY, UsageQuery(recent=recent))
                if until(report):
                    return report
            except (ServiceUnavailable, DeadlineExceeded, BrokerUnavailable):
                pass
            await asyncio.sleep(POLL_S)


def at_least(count: int) -> Callable[[UsageReport], bool]:
    return lambda report: report.total.requests >= count


async def restart_broker(yard: Yard) -> None:
    assert yard.broker.pid is not None
    os.kill(yard.broker.pid, signal.SIGKILL)
    await yard.broker.wait()
    await yard.broker.start()


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Where nothing announces it, it is asked for again."""
    async with asyncio.timeout(TIMEOUT_S):
        while not await condition():
            await asyncio.sleep(POLL_S)
