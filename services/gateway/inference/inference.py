"""Every request of this gateway: into the queue, frames out, asked again after a death, given up."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from modelyard import logging
from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.tasks import Tasks
from schemas import streams, subjects
from schemas.errors import (
    BodyTooLarge,
    BrokerUnavailable,
    Cancelled,
    DeadlineExceeded,
    EngineFailed,
    QueueFull,
    YardError,
)
from schemas.frames import Check, Checked, decode_frame
from schemas.grammar import model_key, new_id
from schemas.instances import LIVE, Instance, InstanceState
from schemas.record import Record
from schemas.requests import (
    ANYONE,
    Continues,
    InferHeaders,
    Outcome,
    RequestFinished,
    RequestQueued,
    RequestStarted,
)
from services.gateway.catalog import Catalog, start_failed
from services.gateway.inference.answer import Answer, runner_died
from services.gateway.inference.ask import Ask
from services.gateway.inference.continuation import continued
from services.gateway.inference.waiting import Durations, Place, check_room, place

log = logging.get(__name__)

RUN_S = 3600.0
"""How long a request may take altogether."""
SILENCE_S = 6.0
"""A runner at work is heard of every 2 s; silent for so long, and without a record, it is dead."""
BROKER_PATIENCE_S = 10.0
"""How long requests wait for a broker that went away."""
STORE_S = 5.0
"""How long the broker may take to say that it has a request."""
LAST_FRAMES_S = 0.3
"""Frames of a runner may be read after the news of its death."""
RUNNER_RECORDS_S = 40.0
"""How long a runner may take to record a cancelled request before we do it."""
MAX_STRIKES = 2
"""A request at which so many engines died is not tried again."""
CLIENT_LEFT = 499
_CAP_REACHED = 10077


class _PubError(Record):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Stored(Record):
    seq: int = 0
    error: _PubError | None = None


_stored = msgspec.json.Decoder(_Stored)


class Inference:
    """Every request of this gateway that is not ended yet."""

    def __init__(self, bus: Bus, tasks: Tasks, catalog: Catalog) -> None:
        self.gateway = new_id()
        self._bus = bus
        self._tasks = tasks
        self._catalog = catalog
        self._answers: dict[str, Answer] = {}
        self._durations = Durations()

    async def open(self, commands: Commands) -> None:
        """Listen for frames, starts, cancels and changes of instances."""
        await self._bus.nc.subscribe(subjects.ANSWER.matching(gateway=self.gateway), cb=self._on_frame)
        await self._bus.nc.subscribe(subjects.STORED.matching(gateway=self.gateway), cb=self._on_stored)
        await self._bus.nc.subscribe(subjects.REQUEST_STARTED.wildcard, cb=self._on_started)
        await self._bus.subscribe(subjects.CANCEL, self._on_cancel)
        await commands.add(subjects.ANSWER_CHECK, self._on_check, gateway=self.gateway)
        self._catalog.instances.listen(self._on_instance)
        self._bus.on_reconnect(self._on_reconnect)
        self._tasks.spawn(self._watch(), "inference watch")

    @asynccontextmanager
    async def ask(self, ask: Ask) -> AsyncIterator[Answer]:
        """Queue a request; the answer is given up if the block is left before its end."""
        spec = self._catalog.resolve(ask.model)
        self._catalog.check(spec, ask.path)
        if len(ask.body) > self._bus.max_body_bytes:
            raise BodyTooLarge(f"The body is over the limit of {self._bus.max_body_bytes} bytes.")
        waiting = sum(1 for _ in self.waiting(spec.name))
        check_room(spec, waiting, waiting * self._durations.of(spec.name))
        answer = Answer(ask, spec, self._on_broken)
        self._answers[ask.request] = answer
        try:
            await self._queue(answer)
            yield answer
        except YardError as error:
            answer.fail(error)
            await self._settle(answer, error)
            raise
        finally:
            if not answer.ended:
                answer.fail(Cancelled("The client left."))
                await asyncio.shield(self._tasks.spawn(self._settle(answer, None), "give up"))
            self._answers.pop(ask.request, None)
            if answer.by_runner:
                self._durations.note(spec.name, time.time() - answer.queued_at)

    def waiting(self, model: str | None = None) -> Iterable[Answer]:
        """Those that are still in the queue, oldest first."""
        return (one for one in self._answers.values() if one.waits and model in (None, one.spec.name))

    def place(self, answer: Answer) -> Place:
        """Where a request stands, and how long it may take until its turn."""
        model = answer.spec.name
        slots = self._catalog.slots(answer.spec)
        return place(answer, self.waiting(model), slots, self._durations.of(model))

    def cancel(self, request: str) -> bool:
        """Give a request up for its client; False if there is none."""
        if (answer := self._answers.get(request)) is None:
            return False
        answer.fail(Cancelled("The request was cancelled."))
        return True

    async def _queue(self, answer: Answer) -> None:
        await self._publish(answer, answer.ask.body, None)
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

    async def _publish(self, answer: Answer, body: bytes, continues: Continues | None) -> None:
        """Into the work queue; the broker's word about it comes with `_on_stored`."""
        ask = answer.ask
        headers = InferHeaders(
            request=ask.request,
            reply=self.gateway,
            path=ask.path,
            stream=ask.stream,
            queued_at=answer.queued_at,
            deadline_at=answer.queued_at + RUN_S,
            lane=ask.lane,
            attempt=answer.attempt,
            content_type=ask.content_type,
            key=ask.key,
            traceparent=ask.traceparent,
            continues=continues,
        )
        self._bus.check(body)
        subject = subjects.INFER(model=model_key(answer.spec.name), lane=ask.lane, key=ask.key or ANYONE)
        stored = subjects.STORED(gateway=self.gateway, request=ask.request)
        try:
            await self._bus.nc.publish(subject, body, reply=stored, headers=headers.to_nats())
        except nats.errors.Error as error:
            raise _not_taken() from error

    async def _on_stored(self, msg: Msg) -> None:
        answer = self._answers.get(msg.subject.split(".")[3])
        if answer is None:
            return
        try:
            stored = _stored.decode(msg.data)
        except msgspec.DecodeError:
            stored = _Stored(error=_PubError(code=503))
        if stored.error is None:
            answer.seq = stored.seq
        elif stored.error.err_code == _CAP_REACHED:
            answer.fail(QueueFull(f"Too many requests wait for {answer.spec.name}.", retry_after_s=5))
        else:
            answer.fail(_not_taken())

    async def _on_started(self, msg: Msg) -> None:
        answer = self._answers.get(msg.subject.split(".")[4])
        if answer is not None:
            with contextlib.suppress(msgspec.DecodeError):
                started: RequestStarted = subjects.REQUEST_STARTED.decode(msg.data)
                answer.on_started(started.instance, started.attempt)

    async def _on_frame(self, msg: Msg) -> None:
        answer = self._answers.get(msg.subject.split(".")[3])
        if answer is None:
            return
        try:
            missing = answer.on_frame(*decode_frame(msg.data))
            if missing is not None:
                await self._bus.publish(subjects.RESEND, missing, request=answer.ask.request)
        except (ValueError, msgspec.DecodeError, YardError, nats.errors.Error) as error:
            log.warning("frame_not_understood", subject=msg.subject, error=str(error))

    async def _on_check(self, check: Check) -> Checked:
        unwanted = []
        for running in check.running:
            answer = self._answers.get(running.request)
            if answer is None or answer.ended or not answer.is_at(running.attempt, running.delivery):
                unwanted.append(running.request)
            elif not answer.has(running.frames) and (missing := answer.missing()) is not None:
                await self._bus.publish(subjects.RESEND, missing, request=running.request)
        return Checked(unwanted=tuple(unwanted))

    async def _on_cancel(self, tokens: dict[str, str], _payload: bytes) -> None:
        """Somebody cancelled by message what he had asked here."""
        self.cancel(tokens["request"])

    def _on_reconnect(self) -> None:
        """What was on its way when the broker went is lost."""
        self._tasks.spawn(self._ask_for_lost(), "ask for lost frames")

    async def _ask_for_lost(self) -> None:
        for request, answer in tuple(self._answers.items()):
            if answer.instance is not None and (missing := answer.missing()) is not None:
                with contextlib.suppress(YardError, nats.errors.Error):
                    await self._bus.publish(subjects.RESEND, missing, request=request)
            elif not answer.seq and not answer.ended:
                # Whether it was stored we cannot know; its id makes a second time harmless.
                with contextlib.suppress(YardError):
                    await self._publish(answer, answer.ask.body, None)

    def _on_instance(self, key: str, instance: Instance | None) -> None:
        # A record that merely expired proves nothing: the broker may have been away longer than its runner.
        if instance is None or instance.state in LIVE:
            return
        if any(answer.instance == key for answer in self._answers.values()):
            self._tasks.spawn(self._after_death(key), "after a death")
        if instance.state is not InstanceState.FAILED or instance.ever_ready:
            return
        if self._catalog.start_failure(instance.model) is None:
            return
        for answer in tuple(self.waiting(instance.model)):
            answer.fail(start_failed(instance))

    async def _after_death(self, instance: str) -> None:
        await asyncio.sleep(LAST_FRAMES_S)
        for answer in tuple(self._answers.values()):
            if answer.instance == instance:
                self._on_broken(answer)

    def _on_broken(self, answer: Answer) -> None:
        """Its engine or its runner died: ask somebody else, from where it was."""
        if answer.ended:
            return
        answer.strikes += 1
        if answer.strikes >= MAX_STRIKES:
            answer.fail(
                EngineFailed("The engine died twice at this request; it is not tried again."), by_runner=False
            )
            return
        body, continues = answer.ask.body, None
        if answer.begun:
            if answer.transcript is None:
                answer.fail(runner_died())
                return
            rest = continued(body, answer.ask.endpoint.style, answer.transcript)
            if answer.transcript.finished:
                answer.finish(b"data: [DONE]\n\n")
                return
            if rest is None:
                answer.fail(runner_died())
                return
            body, continues = rest, answer.transcript.continues()
        old_seq = answer.seq
        answer.try_again()
        log.info("asked_again", request=answer.ask.request, attempt=answer.attempt, continued=answer.begun)
        self._tasks.spawn(self._ask_again(answer, old_seq, body, continues), "ask again")

    async def _ask_again(
        self, answer: Answer, old_seq: int, body: bytes, continues: Continues | None
    ) -> None:
        await self._unqueue(old_seq)
        try:
            await self._publish(answer, body, continues)
        except YardError as error:
            answer.fail(error)

    async def _unqueue(self, seq: int) -> None:
        if seq:
            with contextlib.suppress(TimeoutError, nats.errors.Error, nats.js.errors.Error):
                await self._bus.js.delete_msg(streams.INFER.name, seq)

    async def _settle(self, answer: Answer, error: YardError | None) -> None:
        """After a request that did not end by itself: out of the queue, off the engine, and recorded.

        A request that a runner works on is recorded by that runner; if both do, the event id makes it one.
        """
        if answer.by_runner:
            return
        await self._unqueue(answer.seq)
        with contextlib.suppress(YardError, nats.errors.Error):
            await self._bus.publish(subjects.CANCEL, b"", request=answer.ask.request)
        record = _record(answer, error)
        runner_records = answer.instance is not None and error is None
        self._tasks.spawn(self._emit(record, RUNNER_RECORDS_S if runner_records else 0.0), "usage record")

    async def _emit(self, record: RequestFinished, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._bus.emit(
            subjects.REQUEST_FINISHED,
            record,
            event_id=f"{record.request}.finished",
            model=model_key(record.model),
            request=record.request,
        )

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
                self._watch_one(answer, now, away_since)

    def _watch_one(self, answer: Answer, now: float, away_since: float | None) -> None:
        waited_s = now - answer.queued_at
        if waited_s > RUN_S:
            answer.fail(DeadlineExceeded(f"The request took longer than {RUN_S:.0f} s."))
        elif answer.waits and waited_s > answer.spec.queue_wait_s:
            answer.fail(DeadlineExceeded(f"The request waited {waited_s:.0f} s for {answer.spec.name}."))
        elif away_since is not None:
            if now - away_since > BROKER_PATIENCE_S:
                answer.fail(BrokerUnavailable("The broker went away while the request waited."))
        elif not answer.seq and now - answer.heard_at > STORE_S:
            answer.fail(_not_taken())
        elif self._is_silent(answer, now):
            self._on_broken(answer)


def _record(answer: Answer, error: YardError | None) -> RequestFinished:
    ask = answer.ask
    transcript = answer.transcript
    if transcript is not None:
        transcript.fold()
    return RequestFinished(
        request=ask.request,
        model=answer.spec.name,
        lane=ask.lane,
        path=ask.path,
        stream=ask.stream,
        outcome=Outcome.FAILED if error else Outcome.CANCELLED,
        status=error.status if error else CLIENT_LEFT,
        queued_at=answer.queued_at,
        finished_at=time.time(),
        key=ask.key,
        instance=answer.instance,
        error=error.body().error if error else None,
        completion_tokens=transcript.tokens if transcript else 0,
    )


def _not_taken() -> BrokerUnavailable:
    return BrokerUnavailable("The broker did not take the request; try again in a moment.")
