"""Into the work queue and out of it again."""

import contextlib

import msgspec
import nats.errors
import nats.js.errors

from modelyard.bus.connection import Bus
from schemas import streams, subjects
from schemas.base import Record, model_key
from schemas.errors import BrokerUnavailable, Conflict, QueueFull, YardError
from schemas.requests import ANYONE, Continues, InferHeaders, RequestQueued
from services.gateway.inference.answer import Answer
from services.gateway.inference.bodies import store_body

RUN_S = 3600.0
"""How long a request may take altogether."""
_CAP_REACHED = 10077


class _Refusal(Record):
    err_code: int = 0


class _Stored(Record):
    seq: int = 0
    duplicate: bool = False
    error: _Refusal | None = None


_stored = msgspec.json.Decoder(_Stored)


class Post:
    """Sends the requests of one gateway. The broker's word about each comes to `on_stored`."""

    def __init__(self, bus: Bus, gateway: str) -> None:
        self._bus = bus
        self._gateway = gateway

    async def send(self, answer: Answer, body: bytes, continues: Continues | None = None) -> None:
        """Queue the present attempt at a request; a body too large for a message goes by reference."""
        parts = 0
        if len(body) > self._bus.max_body_bytes:
            answer.by_reference = True
            parts, body = await store_body(self._bus, answer.ask.request, body), b""
        self._bus.check(body)
        ask, model = answer.ask, model_key(answer.spec.name)
        answer.sent += 1
        try:
            await self._bus.nc.publish(
                subjects.INFER(model=model, lane=ask.lane, key=ask.key or ANYONE),
                body,
                reply=subjects.STORED(gateway=self._gateway, request=ask.request),
                headers=self._headers(answer, parts, continues).to_nats(),
            )
        except nats.errors.Error as error:
            raise not_taken() from error

    def _headers(self, answer: Answer, parts: int, continues: Continues | None) -> InferHeaders:
        ask = answer.ask
        return InferHeaders(
            request=ask.request,
            reply=self._gateway,
            path=ask.path,
            stream=ask.stream,
            queued_at=answer.queued_at,
            deadline_at=answer.queued_at + RUN_S,
            lane=ask.lane,
            attempt=answer.attempt,
            content_type=ask.content_type,
            body_parts=parts,
            key=ask.key,
            traceparent=answer.traceparent,
            continues=continues,
        )

    async def announce(self, answer: Answer) -> None:
        """Say that a request waits."""
        ask = answer.ask
        queued = RequestQueued(
            request=ask.request,
            model=answer.spec.name,
            lane=ask.lane,
            path=ask.path,
            stream=ask.stream,
            queued_at=answer.queued_at,
            key=ask.key,
        )
        await self._bus.emit_nowait(
            subjects.REQUEST_QUEUED, queued, model=model_key(answer.spec.name), request=ask.request
        )

    async def withdraw(self, seq: int) -> None:
        """Out of the queue, if it is still there."""
        if seq:
            with contextlib.suppress(TimeoutError, nats.errors.Error, nats.js.errors.Error):
                await self._bus.js.delete_msg(streams.INFER.name, seq)


def on_stored(answer: Answer, data: bytes) -> None:
    """Take the broker's word: where the request stands, or why it does not."""
    stored = _read(data)
    if stored.duplicate and answer.sent == 1:
        # Its id is that of another one, a moment ago; ours is not in the queue.
        answer.fail(Conflict(f"There was a request {answer.ask.request} before; choose another id."))
    elif stored.error is None:
        answer.seq = stored.seq
    elif stored.error.err_code == _CAP_REACHED:
        answer.fail(QueueFull(f"Too many requests wait for {answer.spec.name}.", retry_after_s=5))
    else:
        answer.fail(not_taken())


def stored_at(data: bytes) -> int:
    """Where a request stands by the broker's word; 0 if nowhere."""
    return _read(data).seq


def _read(data: bytes) -> _Stored:
    try:
        return _stored.decode(data)
    except msgspec.DecodeError:
        return _Stored(error=_Refusal())


def not_taken() -> YardError:
    """What a client is told when the broker did not take his request."""
    return BrokerUnavailable("The broker did not take the request; try again in a moment.")
