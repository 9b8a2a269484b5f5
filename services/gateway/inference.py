"""The gateway's half of the inference path: into the queue, frames out, cancelled when the client leaves."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from modelyard import logging
from modelyard.bus import Bus
from modelyard.tasks import Tasks
from schemas import streams, subjects
from schemas.errors import (
    BodyTooLarge,
    BrokerUnavailable,
    Cancelled,
    DeadlineExceeded,
    EngineFailed,
    InvalidJson,
    QueueFull,
    YardError,
)
from schemas.grammar import model_key, new_id
from schemas.instances import LIVE, Instance, InstanceState
from schemas.models import ModelSpec
from schemas.record import Record
from schemas.requests import (
    ALIVE,
    END,
    AnswerEnd,
    InferHeaders,
    Lane,
    Outcome,
    RequestFinished,
    RequestQueued,
    StillWanted,
)
from services.gateway.answers import Answer, runner_died
from services.gateway.catalog import Catalog, start_failed

log = logging.get(__name__)

DEADLINE_S = 3600.0
"""How long a request may wait and run."""
SILENCE_S = 6.0
"""A runner at work is heard of every 2 s; silent for so long, and without a record, it is dead."""
BROKER_PATIENCE_S = 10.0
"""How long requests wait for a broker that went away."""
CLIENT_LEFT = 499
_CAP_REACHED = 10077


class Asked(Record):
    """What the gateway reads of a body; the rest is the engine's."""

    model: str
    stream: bool | None = None


_asked = msgspec.json.Decoder(Asked)


class Ask(Record):
    """One request at the door."""

    path: str
    body: bytes
    key: str | None = None
    traceparent: str | None = None
    request: str = msgspec.field(default_factory=new_id)


def read_asked(body: bytes, path: str) -> Asked:
    """`model` and `stream` of a body; InvalidJson says what is wrong with it."""
    try:
        return _asked.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidJson(f"The body is not what {path} takes: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The body is not valid JSON: {error}.") from error


class Inference:
    """Every request of this gateway that is not ended yet."""

    def __init__(self, bus: Bus, tasks: Tasks, catalog: Catalog) -> None:
        self.gateway = new_id()
        self._bus = bus
        self._tasks = tasks
        self._catalog = catalog
        self._answers: dict[str, Answer] = {}

    async def open(self) -> None:
        """Listen for frames, cancels and changes of instances."""
        await self._bus.nc.subscribe(subjects.ANSWER.matching(gateway=self.gateway), cb=self._on_frame)
        await self._bus.subscribe(subjects.CANCEL, self._on_cancel)
        self._catalog.instances.listen(self._on_instance)
        self._tasks.spawn(self._watch(), "inference watch")

    @asynccontextmanager
    async def ask(self, ask: Ask) -> AsyncIterator[tuple[Answer, Asked]]:
        """Queue a request; the answer is given up if the block is left before its end."""
        asked = read_asked(ask.body, ask.path)
        spec = self._catalog.resolve(asked.model)
        self._catalog.check(spec, ask.path)
        if len(ask.body) > self._bus.max_body_bytes:
            raise BodyTooLarge(f"The body is over the limit of {self._bus.max_body_bytes} bytes.")
        stream = bool(asked.stream)
        answer = Answer(ask.request, spec, time.time())
        self._answers[ask.request] = answer
        try:
            await self._queue(ask, answer, stream=stream)
            yield answer, asked
        except YardError as error:
            answer.fail(error)
            await self._settle(ask, answer, error, stream=stream)
            raise
        finally:
            if not answer.ended:
                answer.fail(EngineFailed("The client left."))
                await asyncio.shield(
                    self._tasks.spawn(self._settle(ask, answer, None, stream=stream), "give up")
                )
            self._answers.pop(ask.request, None)

    async def _queue(self, ask: Ask, answer: Answer, *, stream: bool) -> None:
        headers = InferHeaders(
            request=ask.request,
            reply=self.gateway,
            path=ask.path,
            stream=stream,
            queued_at=answer.queued_at,
            deadline_at=answer.queued_at + DEADLINE_S,
            key=ask.key,
            traceparent=ask.traceparent,
        )
        self._bus.check(ask.body)
        subject = subjects.INFER(model=model_key(answer.spec.name), lane=Lane.INTERACTIVE)
        try:
            ack = await self._bus.js.publish(subject, ask.body, headers=headers.to_nats())
        except nats.js.errors.ServiceUnavailableError as error:
            raise _not_stored(answer.spec, error) from error
        except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            raise BrokerUnavailable("The broker did not take the request; try again in a moment.") from error
        answer.seq = ack.seq
        queued = RequestQueued(
            request=ask.request,
            model=answer.spec.name,
            lane=Lane.INTERACTIVE,
            path=ask.path,
            stream=stream,
            queued_at=answer.queued_at,
            key=ask.key,
        )
        await self._bus.emit_nowait(subjects.REQUEST_QUEUED, queued, request=ask.request)

    async def _settle(self, ask: Ask, answer: Answer, error: YardError | None, *, stream: bool) -> None:
        """After a request that did not end by itself: out of the queue, off the engine, and recorded.

        A request that a runner works on is recorded by that runner; if both do, the event id makes it one.
        """
        if answer.by_runner or not answer.seq:
            return
        with contextlib.suppress(TimeoutError, nats.errors.Error, nats.js.errors.Error):
            await self._bus.js.delete_msg(streams.INFER.name, answer.seq)
        with contextlib.suppress(YardError, nats.errors.Error):
            await self._bus.publish(subjects.CANCEL, b"", request=ask.request)
        if answer.instance is not None and error is None:
            return
        record = RequestFinished(
            request=ask.request,
            model=answer.spec.name,
            lane=Lane.INTERACTIVE,
            path=ask.path,
            stream=stream,
            outcome=Outcome.FAILED if error else Outcome.CANCELLED,
            status=error.status if error else CLIENT_LEFT,
            queued_at=answer.queued_at,
            finished_at=time.time(),
            key=ask.key,
            instance=answer.instance,
            error=error.body().error if error else None,
        )
        event = self._bus.emit(
            subjects.REQUEST_FINISHED, record, event_id=f"{ask.request}.finished", request=ask.request
        )
        self._tasks.spawn(event, "usage record")

    async def _on_frame(self, msg: Msg) -> None:
        tokens = subjects.ANSWER.parse(msg.subject)
        answer, part = self._answers.get(tokens["request"]), tokens["part"]
        try:
            if part == ALIVE:
                await self._on_alive(msg, answer, tokens["attempt"])
                return
            if answer is not None:
                answer.on_frame(tokens["attempt"], part, msg.data)
            if part == END and msg.reply:
                await self._bus.nc.publish(msg.reply, b"{}")
        except (ValueError, YardError, nats.errors.Error) as error:
            log.warning("frame_not_understood", subject=msg.subject, error=str(error))

    async def _on_alive(self, msg: Msg, answer: Answer | None, attempt: str) -> None:
        sent = msgspec.json.decode(msg.data, type=AnswerEnd)
        wanted = answer is not None and answer.sees(attempt, sent.frames)
        await self._bus.nc.publish(msg.reply, msgspec.json.encode(StillWanted(wanted=wanted)))

    async def _on_cancel(self, tokens: dict[str, str], _payload: bytes) -> None:
        """Somebody cancelled by message what he had asked here."""
        if (answer := self._answers.get(tokens["request"])) is not None:
            answer.fail(Cancelled("The request was cancelled."))

    def _on_instance(self, key: str, instance: Instance | None) -> None:
        # A record that merely expired proves nothing: the broker may have been away longer than its runner.
        if instance is None or instance.state in LIVE:
            return
        for answer in tuple(self._answers.values()):
            if answer.instance == key:
                answer.fail(runner_died())
        if instance.state is not InstanceState.FAILED or instance.ever_ready:
            return
        if self._catalog.start_failure(instance.model) is None:
            return
        for answer in tuple(self._answers.values()):
            if answer.spec.name == instance.model and answer.instance is None:
                answer.fail(start_failed(instance))

    def _is_silent(self, answer: Answer, now: float) -> bool:
        """Whether an answer has begun and nothing more is to be expected of its runner."""
        known = answer.instance is None or answer.instance in self._catalog.instances.values
        return not known and now - answer.heard_at > SILENCE_S

    async def _watch(self) -> None:
        """Fail what waited too long, for a slot or for the broker."""
        away_since: float | None = None
        while True:
            await asyncio.sleep(0.5)
            now = time.time()
            away_since = None if self._bus.connected else away_since or now
            for answer in tuple(self._answers.values()):
                if now > answer.queued_at + DEADLINE_S:
                    answer.fail(DeadlineExceeded(f"The request took longer than {DEADLINE_S:.0f} s."))
                elif self._is_silent(answer, now) and away_since is None:
                    answer.fail(runner_died())
                elif away_since is not None and now - away_since > BROKER_PATIENCE_S:
                    answer.fail(BrokerUnavailable("The broker went away while the request waited."))


def _not_stored(spec: ModelSpec, error: nats.js.errors.ServiceUnavailableError) -> YardError:
    if error.err_code == _CAP_REACHED:
        return QueueFull(f"Too many requests wait for {spec.name}; try again later.", retry_after_s=5)
    return BrokerUnavailable("The broker did not take the request; try again in a moment.")
