"""Usage records of requests that no runner ended."""

import asyncio
import time

from modelyard.bus import Bus
from schemas import subjects
from schemas.errors import Cancelled, YardError
from schemas.grammar import model_key
from schemas.requests import Outcome, RequestFinished
from services.gateway.inference.answer import Answer

RUNNER_RECORDS_S = 5.0
"""How long a runner may take to record a cancelled request before we do it."""
CLIENT_LEFT = 499


async def record(bus: Bus, answer: Answer, error: YardError | None) -> None:
    """Record a request that ended without its runner.

    A runner that was at it when its client left records it better; if both do, the event's id makes it one.
    """
    finished = unfinished(answer, error)
    if answer.instance is not None and error is None:
        await asyncio.sleep(RUNNER_RECORDS_S)
    await bus.emit(
        subjects.REQUEST_FINISHED,
        finished,
        event_id=f"{finished.request}.finished",
        model=model_key(finished.model),
        request=finished.request,
    )


def unfinished(answer: Answer, error: YardError | None) -> RequestFinished:
    """The record of a request that failed with `error`, or whose client left."""
    ask, transcript = answer.ask, answer.transcript
    if transcript is not None:
        transcript.fold()
    return RequestFinished(
        request=ask.request,
        model=answer.spec.name,
        lane=ask.lane,
        path=ask.path,
        stream=ask.stream,
        outcome=Outcome.CANCELLED if error is None or isinstance(error, Cancelled) else Outcome.FAILED,
        status=error.status if error else CLIENT_LEFT,
        queued_at=answer.queued_at,
        finished_at=time.time(),
        key=ask.key,
        mode=answer.spec.mode,
        instance=answer.instance,
        error=error.body().error if error else None,
        completion_tokens=transcript.tokens if transcript else 0,
    )
