"""Usage records of requests that no runner ended."""

import asyncio
import time
from http import HTTPStatus

from modelyard.bus.connection import Bus
from schemas import subjects
from schemas.base import model_key
from schemas.errors import Cancelled, YardError
from schemas.requests import Outcome, RequestFinished
from services.gateway.inference.answer import AnswerReceiver

RUNNER_RECORD_TIMEOUT_S = 5.0
"""How long a runner may take to record a cancelled request before the gateway does."""


async def publish_record(bus: Bus, answer: AnswerReceiver) -> None:
    """Publish the record of a request that ended without its runner.

    A runner records a cancelled request better; if both do, the event id deduplicates the records.
    """
    finished = unfinished_record(answer)
    if answer.instance is not None and finished.outcome is Outcome.CANCELLED:
        await asyncio.sleep(RUNNER_RECORD_TIMEOUT_S)
    await bus.emit(
        subjects.REQUEST_FINISHED,
        finished,
        event_id=f"{finished.request}.finished",
        model=model_key(finished.model),
        request=finished.request,
    )


def unfinished_record(answer: AnswerReceiver) -> RequestFinished:
    """The record of a request that failed, whose client left, or whose runner died before the last frame."""
    request, transcript, error = answer.request, answer.transcript, answer.error
    if transcript is not None:
        transcript.fold()
    return RequestFinished(
        request=request.id,
        model=answer.spec.name,
        lane=request.lane,
        path=request.path,
        stream=request.stream,
        outcome=_outcome(error),
        status=error.status if error else HTTPStatus.OK,
        queued_at=answer.queued_at,
        finished_at=time.time(),
        key=request.key,
        mode=answer.spec.mode,
        instance=answer.instance,
        error=error.body().error if error else None,
        completion_tokens=transcript.tokens if transcript else 0,
    )


def _outcome(error: YardError | None) -> Outcome:
    if error is None:
        return Outcome.OK
    return Outcome.CANCELLED if isinstance(error, Cancelled) else Outcome.FAILED
