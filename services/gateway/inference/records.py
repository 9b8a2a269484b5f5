"""Usage records of requests that no runner ended."""

import asyncio
import time
from http import HTTPStatus

from modelyard.bus.connection import Bus
from schemas import subjects
from schemas.base import model_key
from schemas.errors import Cancelled, YardError
from schemas.requests import Outcome, RequestFinished
from services.gateway.inference.answer import Answer

RUNNER_RECORDS_S = 5.0
"""How long a runner may take to record a cancelled request before we do it."""


async def record(bus: Bus, answer: Answer) -> None:
    """Record a request that ended without its runner.

    A runner that was at it when its client left records it better; if both do, the event's id makes it one.
    """
    finished = unfinished(answer)
    if answer.instance is not None and finished.outcome is Outcome.CANCELLED:
        await asyncio.sleep(RUNNER_RECORDS_S)
    await bus.emit(
        subjects.REQUEST_FINISHED,
        finished,
        event_id=f"{finished.request}.finished",
        model=model_key(finished.model),
        request=finished.request,
    )


def unfinished(answer: Answer) -> RequestFinished:
    """The record of a request that failed, whose client left, or whose runner died at the last word."""
    ask, transcript, error = answer.ask, answer.transcript, answer.error
    if transcript is not None:
        transcript.fold()
    return RequestFinished(
        request=ask.request,
        model=answer.spec.name,
        lane=ask.lane,
        path=ask.path,
        stream=ask.stream,
        outcome=_outcome(error),
        status=error.status if error else HTTPStatus.OK,
        queued_at=answer.queued_at,
        finished_at=time.time(),
        key=ask.key,
        mode=answer.spec.mode,
        instance=answer.instance,
        error=error.body().error if error else None,
        completion_tokens=transcript.tokens if transcript else 0,
    )


def _outcome(error: YardError | None) -> Outcome:
    if error is None:
        return Outcome.OK
    return Outcome.CANCELLED if isinstance(error, Cancelled) else Outcome.FAILED
