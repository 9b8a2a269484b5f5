"""The monitor in the process of the test or in one of its own, with events for it and queries of it."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from modelyard.up.child import Child, execute
from schemas import subjects
from schemas.base import Role
from schemas.errors import BrokerUnavailable, DeadlineExceeded, ServiceUnavailable
from schemas.requests import Lane, Outcome, RequestFinished
from schemas.usage import UsageQuery, UsageReport
from services.monitor.service import main
from tests.support import Yard, eventually

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 20.0


@asynccontextmanager
async def monitor(yard: Yard) -> AsyncIterator[Bus]:
    """The service in this process, stopped at the end."""
    bus = await yard.bus(Role.MONITOR)
    async with Tasks() as tasks:
        await main(bus, yard.settings, tasks)
        yield bus
    await bus.close()


def monitor_process(yard: Yard) -> Child:
    """`python -m services.monitor`, as `yard up` starts it."""
    env = {**os.environ, **yard.settings.as_environment(), "YARD_NATS_URL": yard.url, "PYTHONPATH": str(ROOT)}
    log, argv = yard.settings.logs / "monitor.log", [sys.executable, "-m", "services.monitor"]
    return Child("monitor", log, partial(execute, argv, env, log))


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


async def usage(operator: Bus, condition: Callable[[UsageReport], bool], recent: int = 0) -> UsageReport:
    """The first report that fulfils the condition; no event announces a commit."""

    async def report() -> UsageReport | None:
        try:
            answer = await operator.call(subjects.USAGE_QUERY, UsageQuery(recent=recent))
        except (ServiceUnavailable, DeadlineExceeded, BrokerUnavailable):
            return None
        return answer if condition(answer) else None

    found = await eventually(report, "a usage report that fulfils the condition", timeout_s=TIMEOUT_S)
    assert found is not None
    return found


def at_least(count: int) -> Callable[[UsageReport], bool]:
    return lambda report: report.total.requests >= count


async def restart_broker(yard: Yard) -> None:
    assert yard.broker.pid is not None
    os.kill(yard.broker.pid, signal.SIGKILL)
    await yard.broker.wait()
    await yard.broker.start()
