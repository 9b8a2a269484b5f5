"""Every request of this gateway: into the queue, frames out, asked again after a death, given up."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import msgspec
import nats.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.tasks import Tasks
from modelyard.bus.tracing import span
from schemas import subjects
from schemas.base import model_key, new_id
from schemas.errors import (
    BrokerUnavailable,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    EngineFailed,
    ModelNotFound,
    ServiceUnavailable,
    YardError,
)
from schemas.frames import AnswerCheck, AnswerCheckReply, Resend, decode_frame
from schemas.instances import LIVE, Instance, InstanceState
from schemas.models import ModelSpec
from schemas.requests import RequestStarted
from services.gateway.catalog import Catalog, start_failed
from services.gateway.inference.answer import Answer
from services.gateway.inference.ask import Ask
from services.gateway.inference.bodies import forget_body
from services.gateway.inference.budgets import Admission
from services.gateway.inference.post import RUN_S, Post, not_taken, on_stored, stored_at
from services.gateway.inference.records import record
from services.gateway.inference.second_try import AskAgain, Finish, GiveUp, second_try
from services.gateway.inference.waiting import Durations, Place, check_room, place

log = logs.get(__name__)

SILENCE_S = 6.0
"""A runner at work is heard of every 2 s; silent for so long, and without a record, it is dead."""
BROKER_TIMEOUT_S = 10.0
"""How long requests wait for a broker that went away."""
STORE_S = 5.0
"""How long the broker may take to say that it has a request."""
GOODBYE_S = 1.0
LAST_FRAMES_S = 0.3
"""Frames of a runner may be read after the news of its death."""


class Inference:
    """Every request of this gateway that is not ended yet."""

    def __init__(self, bus: Bus, tasks: Tasks, catalog: Catalog, admission: Admission) -> None:
        self.gateway = new_id()
        self._bus = bus
        self._tasks = tasks
        self._catalog = catalog
        self._admission = admission
        self._post = Post(bus, self.gateway)
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
        self._catalog.models.listen(self._on_model)
        self._bus.on_reconnect(self._on_reconnect)
        self._tasks.spawn(self._watch(), "inference watch")

    @asynccontextmanager
    async def ask(self, ask: Ask) -> AsyncIterator[Answer]:
        """Queue a request; the answer is given up if the block is left before its end."""
        if ask.request in self._answers:
            raise Conflict(f"A request {ask.request} is under way already; choose another id.")
        spec = self._catalog.resolve(ask.model)
        self._catalog.check(spec, ask.path)
        self._admission.check(ask.key, spec.name)
        waiting = sum(1 for _ in self.waiting(spec.name))
        check_room(spec, waiting, waiting * self._durations.of(spec.name))
        answer = Answer(ask, spec, self._on_broken)
        self._answers[ask.request] = answer
        try:
            with span(
                ask.path, ask.traceparent, gen_ai__request__model=spec.name, yard__lane=ask.lane
            ) as traced:
                answer.traceparent = traced.traceparent
                await self._post.send(answer, ask.body)
                await self._post.announce(answer)
                yield answer
        except YardError as error:
            answer.fail(error)
            raise
        finally:
            answer.fail(Cancelled("The client left."))
            try:
                # Whoever is cancelled here: it must leave the queue and be recorded.
                await asyncio.shield(self._tasks.spawn(self._settle(answer), "settle"))
            finally:
                self._answers.pop(ask.request, None)
            if answer.by_reference:
                self._tasks.spawn(forget_body(self._bus, ask.request), "forget body")
            if answer.by_runner:
                self._durations.note(spec.name, time.time() - answer.queued_at)

    async def close(self) -> None:
        """The gateway stops: whoever still waits is told, and has a moment to hear it."""
        for answer in self._answers.values():
            answer.fail(ServiceUnavailable("The yard is being stopped; please try again later."))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                while self._answers:
                    await asyncio.sleep(0.01)

    def waiting(self, model: str | None = None) -> Iterable[Answer]:
        """Those that are still in the queue, oldest first."""
        return (one for one in self._answers.values() if one.waits and model in (None, one.spec.name))

    def place(self, answer: Answer) -> Place:
        """Where a request stands, and how long it may take until its turn."""
        model = answer.spec.name
        slots = self._catalog.slots(answer.spec)
        reason = self._catalog.waits_for(model)
        return place(answer, self.waiting(model), slots, self._durations.of(model), reason)

    def cancel(self, request: str, *, key: str | None = None) -> bool:
        """Give a request up for its client; False if there is none, or none of this `key`."""
        answer = self._answers.get(request)
        if answer is None or key not in (None, answer.ask.key):
            return False
        answer.fail(Cancelled("The request was cancelled."))
        return True

    async def _settle(self, answer: Answer) -> None:
        """After a request that its runner did not end: out of the queue, off the engine, and recorded."""
        if answer.by_runner:
            return
        await self._post.withdraw(answer.seq)
        with contextlib.suppress(YardError, nats.errors.Error):
            await self._bus.publish(subjects.CANCEL, b"", request=answer.ask.request)
        self._tasks.spawn(record(self._bus, answer), "usage record")

    async def _on_stored(self, msg: Msg) -> None:
        answer = self._answers.get(msg.subject.split(".")[3])
        if answer is not None and not answer.ended:
            on_stored(answer, msg.data)
        elif answer is None or not answer.by_runner:
            # Its client left before the broker said where it stands.
            self._tasks.spawn(self._post.withdraw(stored_at(msg.data)), "withdraw")

    async def _on_started(self, msg: Msg) -> None:
        # Every request of every gateway passes here: only ours are read.
        if (answer := self._answers.get(msg.subject.split(".")[4])) is not None:
            with contextlib.suppress(msgspec.DecodeError):
                started: RequestStarted = subjects.REQUEST_STARTED.decode(msg.data)
                answer.on_started(started.instance, started.attempt)

    async def _on_frame(self, msg: Msg) -> None:
        if (answer := self._answers.get(msg.subject.split(".")[3])) is None:
            return
        try:
            await self._resend(answer, answer.on_frame(*decode_frame(msg.data)))
        except (ValueError, msgspec.DecodeError) as error:
            log.warning("frame_not_understood", subject=msg.subject, error=str(error))

    async def _resend(self, answer: Answer, missing: Resend | None) -> None:
        if missing is not None:
            with contextlib.suppress(YardError, nats.errors.Error):
                await self._bus.publish(subjects.RESEND, missing, request=answer.ask.request)

    async def _on_check(self, check: AnswerCheck) -> AnswerCheckReply:
        unwanted, elsewhere = [], []
        for running in check.running:
            answer = self._answers.get(running.request)
            if answer is None or answer.ended:
                unwanted.append(running.request)
            elif not answer.is_at(running.attempt, running.delivery):
                elsewhere.append(running.request)
            elif not answer.has(running.frames):
                await self._resend(answer, answer.missing())
        return AnswerCheckReply(unwanted=tuple(unwanted), superseded=tuple(elsewhere))

    async def _on_cancel(self, tokens: dict[str, str], _payload: bytes) -> None:
        """Somebody cancelled by message what he had asked here."""
        self.cancel(tokens["request"])

    def _on_reconnect(self) -> None:
        self._tasks.spawn(self._ask_for_lost(), "ask for what was lost")

    async def _ask_for_lost(self) -> None:
        """What was on its way when the broker went is lost: frames, and requests it had not stored."""
        for answer in tuple(self._answers.values()):
            if answer.instance is not None:
                await self._resend(answer, answer.missing())
            elif not answer.seq and not answer.ended:
                # Perhaps it was stored; its id makes a second time harmless.
                with contextlib.suppress(YardError):
                    await self._post.send(answer, answer.ask.body)

    def _on_model(self, key: str, spec: ModelSpec | None) -> None:
        """Who waits goes by the newest spec, and waits no longer for a model that is gone."""
        for answer in tuple(self.waiting()):
            if model_key(answer.spec.name) != key:
                continue
            if spec is not None:
                answer.spec = spec
            else:
                answer.fail(
                    ModelNotFound(f"{answer.spec.name} was deleted or renamed meanwhile.", param="model")
                )

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
        """Its engine or its runner died."""
        if answer.ended:
            return
        answer.deaths += 1
        match second_try(answer):
            case GiveUp(message=message):
                answer.fail(EngineFailed(message))
            case Finish(last=last):
                answer.finish(last)
            case AskAgain() as again:
                old_seq = answer.seq
                answer.try_again()
                self._tasks.spawn(self._ask_again(answer, old_seq, again), "ask again")

    async def _ask_again(self, answer: Answer, old_seq: int, again: AskAgain) -> None:
        request, attempt = answer.ask.request, answer.attempt
        log.info("asked_again", request=request, attempt=attempt, continued=again.continues is not None)
        await self._post.withdraw(old_seq)
        try:
            await self._post.send(answer, again.body, again.continues)
            await self._post.announce(answer)
        except YardError as error:
            answer.fail(error)

    async def _watch(self) -> None:
        """Fail what waited too long, for a slot or for the broker."""
        away_since: float | None = None
        while True:
            await asyncio.sleep(0.5)
            now = time.time()
            away_since = None if self._bus.connected else away_since or now
            for answer in tuple(self._answers.values()):
                if (error := self._overdue(answer, now, away_since)) is not None:
                    answer.fail(error)
                elif away_since is None and self._is_silent(answer, now):
                    self._on_broken(answer)

    def _overdue(self, answer: Answer, now: float, away_since: float | None) -> YardError | None:
        waited_s, name = now - answer.queued_at, answer.spec.name
        if waited_s > RUN_S:
            return DeadlineExceeded(f"The request took longer than {RUN_S:.0f} s.")
        if answer.waits and waited_s > answer.spec.queue_wait_s:
            why = self._catalog.waits_for(name)
            return DeadlineExceeded(
                f"The request waited {waited_s:.0f} s for {name}, which is its limit"
                + (f": {why}." if why else ".")
            )
        if away_since is not None:
            away = now - away_since > BROKER_TIMEOUT_S
            return BrokerUnavailable("The broker went away while the request waited.") if away else None
        return not_taken() if not answer.seq and now - answer.heard_at > STORE_S else None

    def _is_silent(self, answer: Answer, now: float) -> bool:
        """Whether an answer has begun and nothing more is to be expected of its runner."""
        known = answer.instance is None or answer.instance in self._catalog.instances.values
        return not known and now - answer.heard_at > SILENCE_S
