"""Requests into the work queue and out of it, with large bodies; usage records of unfinished requests."""

import asyncio
import contextlib
import time
from http import HTTPStatus

import msgspec
import nats.errors

from modelyard.bus.connection import Bus
from modelyard.bus.parts import purge, store_parts
from schemas import streams, subjects
from schemas.base import Record, model_key
from schemas.errors import BodyTooLarge, BrokerUnavailable, Cancelled, Conflict, QueueFull, YardError
from schemas.requests import ANYONE, Continuation, InferHeaders, Outcome, RequestFinished, RequestQueued
from services.gateway.inference.answer import AnswerReceiver

MAX_REQUEST_S = 3600.0
"""How long a request may take altogether."""
MAX_BODY_BYTES = 100 * 1024 * 1024
"""How large a body may be, pictures included."""
_MAX_MESSAGES_REACHED = 10077
RUNNER_RECORD_TIMEOUT_S = 5.0
"""How long a runner may take to record a cancelled request before the gateway does."""


class _AckError(Record):
    err_code: int = 0


class _Ack(Record):
    seq: int = 0
    duplicate: bool = False
    error: _AckError | None = None


_ack = msgspec.json.Decoder(_Ack)


class RequestPublisher:
    """Publishes the requests of one gateway. The ack of each comes on `subjects.STORED`."""

    def __init__(self, bus: Bus, gateway: str) -> None:
        self._bus = bus
        self._gateway = gateway

    async def publish(
        self, answer: AnswerReceiver, body: bytes, continuation: Continuation | None = None
    ) -> None:
        await self.publish_again(answer, body, continuation)
        request = answer.request
        queued = RequestQueued(
            request=request.id,
            model=answer.spec.name,
            lane=request.lane,
            path=request.path,
            stream=request.stream,
            queued_at=answer.queued_at,
            key=request.key,
        )
        await self._bus.emit_nowait(
            subjects.REQUEST_QUEUED, queued, model=model_key(answer.spec.name), request=request.id
        )

    async def publish_again(
        self, answer: AnswerReceiver, body: bytes, continuation: Continuation | None = None
    ) -> None:
        """As `publish`, without the event: for a request that the broker perhaps has; its id deduplicates."""
        parts = 0
        if len(body) > self._bus.max_body_bytes:
            answer.body_stored = True
            parts, body = await self._store_body(answer.request.id, body), b""
        self._bus.check(body)
        request, model = answer.request, model_key(answer.spec.name)
        answer.publish_count += 1
        try:
            await self._bus.nc.publish(
                subjects.INFER(model=model, lane=request.lane, key=request.key or ANYONE),
                body,
                reply=subjects.STORED(gateway=self._gateway, request=request.id),
                headers=self._headers(answer, parts, continuation).to_nats(),
            )
        except nats.errors.Error as error:
            raise not_taken() from error

    def _headers(self, answer: AnswerReceiver, parts: int, continuation: Continuation | None) -> InferHeaders:
        request = answer.request
        return InferHeaders(
            request=request.id,
            reply=self._gateway,
            path=request.path,
            stream=request.stream,
            queued_at=answer.queued_at,
            deadline_at=answer.queued_at + MAX_REQUEST_S,
            lane=request.lane,
            attempt=answer.attempt,
            content_type=request.content_type,
            body_parts=parts,
            key=request.key,
            traceparent=answer.traceparent,
            continuation=continuation,
        )

    async def _store_body(self, request: str, body: bytes) -> int:
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"The body has {len(body)} bytes; at most {MAX_BODY_BYTES} are taken.")
        try:
            return await store_parts(self._bus, subjects.BODY, body, request=request)
        except (TimeoutError, nats.errors.Error) as error:
            raise BrokerUnavailable("The broker did not take the body; try again in a moment.") from error

    async def withdraw(self, sequence: int) -> None:
        """Remove a request from the queue, if it is still there."""
        if sequence:
            with contextlib.suppress(TimeoutError, nats.errors.Error):
                await self._bus.js.delete_msg(streams.INFER.name, sequence)

    async def delete_body(self, request: str) -> None:
        """Delete the stored body of a request that has ended."""
        await purge(self._bus, streams.BODIES, subjects.BODY.matching(request=request))


def on_ack(answer: AnswerReceiver, data: bytes) -> None:
    """Take the broker's ack: the sequence of the request, or why it is not queued."""
    ack = _read_ack(data)
    if ack.duplicate and answer.publish_count == 1:
        # Another request has had this id a moment ago; ours is not queued.
        answer.fail(Conflict(f"There was a request {answer.request.id} before; choose another id."))
    elif ack.error is None:
        answer.sequence = ack.seq
    elif ack.error.err_code == _MAX_MESSAGES_REACHED:
        answer.fail(QueueFull(f"Too many requests wait for {answer.spec.name}.", retry_after_s=5))
    else:
        answer.fail(not_taken())


def acked_sequence(data: bytes) -> int:
    """The sequence in the broker's ack; 0 if the request is not queued."""
    return _read_ack(data).seq


def _read_ack(data: bytes) -> _Ack:
    try:
        return _ack.decode(data)
    except msgspec.DecodeError:
        return _Ack(error=_AckError())


def not_taken() -> YardError:
    return BrokerUnavailable("The broker did not take the request; try again in a moment.")


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
