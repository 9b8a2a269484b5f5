"""The requests of this gateway: into the queue, out of frames, retried after failures, ended in time."""

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
from schemas.placement import WaitingModel
from schemas.requests import RequestStarted
from services.gateway.catalog import Catalog, start_failed
from services.gateway.inference.answer import AnswerReceiver
from services.gateway.inference.publisher import (
    MAX_REQUEST_S,
    RequestPublisher,
    acked_sequence,
    not_taken,
    on_ack,
    publish_record,
)
from services.gateway.inference.queue import (
    AnswerDurations,
    BudgetAdmission,
    QueuePlace,
    check_queue_limit,
    queue_place,
)
from services.gateway.inference.request import InferRequest
from services.gateway.inference.retry import Finish, GiveUp, Republish, plan_retry

log = logs.get(__name__)

RUNNER_SILENCE_S = 6.0
"""A runner checks its answers every 2 s; silent for so long, and without a record, it is dead."""
BROKER_TIMEOUT_S = 10.0
"""How long requests wait for a broker that is away."""
STORE_TIMEOUT_S = 5.0
"""How long the broker may take to acknowledge a request."""
CLOSE_TIMEOUT_S = 1.0
LATE_FRAMES_S = 0.3
"""Frames of a runner may arrive after the record of its end."""
CHECK_INTERVAL_S = 0.5
RETURN_S = 1.0
"""Within this a request that was with an engine that failed is queued again."""


class Inference:
    """The requests of this gateway that have not ended."""

    def __init__(self, bus: Bus, tasks: Tasks, catalog: Catalog, budgets: BudgetAdmission) -> None:
        self.gateway = new_id()
        self._bus = bus
        self._tasks = tasks
        self._catalog = catalog
        self._budgets = budgets
        self._publisher = RequestPublisher(bus, self.gateway)
        self._answers: dict[str, AnswerReceiver] = {}
        self._durations = AnswerDurations()

    async def open(self, commands: Commands) -> None:
        """Subscribe to frames, acks, starts, cancels and changes of models and instances."""
        await self._bus.nc.subscribe(subjects.ANSWER.matching(gateway=self.gateway), cb=self._on_frame)
        await self._bus.nc.subscribe(subjects.STORED.matching(gateway=self.gateway), cb=self._on_stored)
        await self._bus.nc.subscribe(subjects.REQUEST_STARTED.wildcard, cb=self._on_started)
        await self._bus.subscribe(subjects.CANCEL, self._on_cancel)
        await commands.add(subjects.ANSWER_CHECK, self._on_check, gateway=self.gateway)
        self._catalog.instances.listen(self._on_instance)
        if self._catalog.waiting is not None:
            self._catalog.waiting.listen(self._on_waiting)
        self._catalog.models.listen(self._on_model)
        self._bus.on_reconnect(self._on_reconnect)
        self._tasks.spawn(self._check_deadlines(), "inference deadlines")

    @asynccontextmanager
    async def submit(self, request: InferRequest) -> AsyncIterator[AnswerReceiver]:
        """Queue a request; it is cancelled if the block is left before the end of its answer."""
        answer = self._admit(request)
        self._answers[request.id] = answer
        try:
            model = answer.spec.name
            with span(
                request.path, request.traceparent, gen_ai__request__model=model, yard__lane=request.lane
            ) as traced:
                answer.traceparent = traced.traceparent
                await self._publisher.publish(answer, request.body)
                yield answer
        except YardError as error:
            answer.fail(error)
            raise
        finally:
            answer.fail(Cancelled("The client left."))
            await self._release(answer)

    def _admit(self, request: InferRequest) -> AnswerReceiver:
        if request.id in self._answers:
            raise Conflict(f"A request {request.id} is under way already; choose another id.")
        spec = self._catalog.resolve(request.model)
        self._catalog.check(spec, request.path)
        self._budgets.check(request.key, spec.name)
        queued = sum(1 for _ in self.queued(spec.name))
        check_queue_limit(spec, queued, queued * self._durations.of(spec.name))
        return AnswerReceiver(request, spec, self._on_engine_failure)

    async def _release(self, answer: AnswerReceiver) -> None:
        request = answer.request.id
        try:
            # Whatever is cancelled here: the request must leave the queue and be recorded.
            await asyncio.shield(self._tasks.spawn(self._clean_up(answer), "clean up"))
        finally:
            self._answers.pop(request, None)
        if answer.body_stored:
            self._tasks.spawn(self._publisher.delete_body(request), "delete body")
        if answer.ended_by_runner:
            self._durations.add(answer.spec.name, time.time() - answer.queued_at)

    async def _clean_up(self, answer: AnswerReceiver) -> None:
        """Take a request that its runner did not end out of the queue and off the engine, and record it."""
        if answer.ended_by_runner:
            return
        await self._publisher.withdraw(answer.sequence)
        with contextlib.suppress(YardError, nats.errors.Error):
            await self._bus.publish(subjects.CANCEL, b"", request=answer.request.id)
        self._tasks.spawn(publish_record(self._bus, answer), "usage record")

    async def close(self) -> None:
        """Fail what has not ended, and give it a moment to reach the clients."""
        for answer in self._answers.values():
            answer.fail(ServiceUnavailable("The yard is being stopped; please try again later."))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while self._answers:
                    await asyncio.sleep(0.01)

    def queued(self, model: str | None = None) -> Iterable[AnswerReceiver]:
        """The requests that no runner has taken yet, oldest first."""
        return (
            answer for answer in self._answers.values() if answer.queued and model in (None, answer.spec.name)
        )

    def place(self, answer: AnswerReceiver) -> QueuePlace:
        model = answer.spec.name
        slots = self._catalog.slots(answer.spec)
        reason = self._catalog.waiting_reason(model)
        return queue_place(answer, self.queued(model), slots, self._durations.of(model), reason)

    def cancel(self, request: str, *, key: str | None = None) -> bool:
        """Cancel a request; False if there is none, or none of this `key`."""
        answer = self._answers.get(request)
        if answer is None or key not in (None, answer.request.key):
            return False
        answer.fail(Cancelled("The request was cancelled."))
        return True

    async def _on_stored(self, msg: Msg) -> None:
        answer = self._answers.get(subjects.STORED.token(msg.subject, "request"))
        if answer is not None and not answer.ended:
            on_ack(answer, msg.data)
        elif answer is None or not answer.ended_by_runner:
            # Its client left before the broker acknowledged it.
            self._tasks.spawn(self._publisher.withdraw(acked_sequence(msg.data)), "withdraw")

    async def _on_started(self, msg: Msg) -> None:
        # The requests of all gateways pass here: only those of this one are decoded.
        answer = self._answers.get(subjects.REQUEST_STARTED.token(msg.subject, "request"))
        if answer is not None:
            with contextlib.suppress(msgspec.DecodeError):
                started: RequestStarted = subjects.REQUEST_STARTED.decode(msg.data)
                answer.on_started(started.instance, started.attempt)

    async def _on_frame(self, msg: Msg) -> None:
        answer = self._answers.get(subjects.ANSWER.token(msg.subject, "request"))
        if answer is None:
            return
        try:
            await self._request_resend(answer, answer.on_frame(*decode_frame(msg.data)))
        except (ValueError, msgspec.DecodeError) as error:
            log.warning("frame_invalid", subject=msg.subject, error=str(error))

    async def _request_resend(self, answer: AnswerReceiver, missing: Resend | None) -> None:
        if missing is not None:
            with contextlib.suppress(YardError, nats.errors.Error):
                await self._bus.publish(subjects.RESEND, missing, request=answer.request.id)

    async def _on_check(self, check: AnswerCheck) -> AnswerCheckReply:
        unwanted, superseded = [], []
        for running in check.running:
            answer = self._answers.get(running.request)
            if answer is None or answer.ended:
                unwanted.append(running.request)
            elif not answer.is_current(running.attempt, running.delivery):
                superseded.append(running.request)
            elif not answer.has_received(running.frames):
                await self._request_resend(answer, answer.resend_request())
        return AnswerCheckReply(unwanted=tuple(unwanted), superseded=tuple(superseded))

    async def _on_cancel(self, tokens: dict[str, str], _payload: bytes) -> None:
        self.cancel(tokens["request"])

    def _on_reconnect(self) -> None:
        self._tasks.spawn(self._recover_lost(), "recover after reconnect")

    async def _recover_lost(self) -> None:
        """Recover what was in flight when the broker went: frames, and requests it had not stored."""
        for answer in tuple(self._answers.values()):
            if answer.instance is not None:
                await self._request_resend(answer, answer.resend_request())
            elif not answer.sequence and not answer.ended:
                with contextlib.suppress(YardError):
                    await self._publisher.publish_again(answer, answer.request.body)

    def _on_model(self, key: str, spec: ModelSpec | None) -> None:
        """Queued requests follow the newest spec, and fail once their model is deleted."""
        for answer in tuple(self.queued()):
            if model_key(answer.spec.name) != key:
                continue
            if spec is not None:
                answer.spec = spec
            else:
                deleted = f"{answer.spec.name} was deleted or renamed while the request waited."
                answer.fail(ModelNotFound(deleted, param="model"))

    def _on_instance(self, key: str, instance: Instance | None) -> None:
        # A record that merely expired proves nothing: the broker may have been away longer than its runner.
        if instance is None:
            return
        if instance.circuit_open:
            self._tasks.spawn(self._fail_after_circuit_opened(instance), "fail queued requests")
        if instance.state in LIVE:
            return
        if any(answer.instance == key for answer in self._answers.values()):
            self._tasks.spawn(self._retry_after_end(key), "retry after an end")
        if instance.state is not InstanceState.FAILED or instance.ever_ready:
            return
        if self._catalog.start_failure(instance.model) is not None:
            self._fail_queued(instance)

    def _on_waiting(self, _key: str, waiting: WaitingModel | None) -> None:
        """Queued requests of a model that cannot run here fail at once."""
        for answer in tuple(self.queued(waiting.model)) if waiting is not None else ():
            if (refusal := self._catalog.refusal(answer.spec.name)) is not None:
                answer.fail(refusal)

    def _fail_queued(self, instance: Instance) -> None:
        for answer in tuple(self.queued(instance.model)):
            answer.fail(start_failed(instance))

    async def _fail_after_circuit_opened(self, instance: Instance) -> None:
        for pause_s in (0.0, RETURN_S):
            await asyncio.sleep(pause_s)
            if self._catalog.start_failure(instance.model) == instance:
                self._fail_queued(instance)

    async def _retry_after_end(self, instance: str) -> None:
        await asyncio.sleep(LATE_FRAMES_S)
        for answer in tuple(self._answers.values()):
            if answer.instance == instance:
                self._on_engine_failure(answer)

    def _on_engine_failure(self, answer: AnswerReceiver) -> None:
        """The engine or the runner of an answer failed: retry, or end it."""
        if answer.ended:
            return
        answer.failed_attempts += 1
        match plan_retry(
            answer.request, answer.transcript, begun=answer.begun, failed_attempts=answer.failed_attempts
        ):
            case GiveUp(message=message):
                answer.fail(EngineFailed(message))
            case Finish(last=last):
                answer.finish(last)
            case Republish() as retry:
                failed_sequence = answer.sequence
                answer.begin_retry()
                self._tasks.spawn(self._republish(answer, failed_sequence, retry), "retry")

    async def _republish(self, answer: AnswerReceiver, failed_sequence: int, retry: Republish) -> None:
        continued = retry.continuation is not None
        log.info("request_retried", request=answer.request.id, attempt=answer.attempt, continued=continued)
        await self._publisher.withdraw(failed_sequence)
        try:
            await self._publisher.publish(answer, retry.body, retry.continuation)
        except YardError as error:
            answer.fail(error)

    async def _check_deadlines(self) -> None:
        """Fail requests that waited too long for a slot or for the broker; retry those of silent runners."""
        away_since: float | None = None
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            now = time.time()
            away_since = None if self._bus.connected else away_since or now
            for answer in tuple(self._answers.values()):
                if (error := self._overdue(answer, now, away_since)) is not None:
                    answer.fail(error)
                elif away_since is None and self._runner_is_silent(answer, now):
                    self._on_engine_failure(answer)

    def _overdue(self, answer: AnswerReceiver, now: float, away_since: float | None) -> YardError | None:
        waited_s, name = now - answer.queued_at, answer.spec.name
        if waited_s > MAX_REQUEST_S:
            return DeadlineExceeded(f"The request took longer than {MAX_REQUEST_S:.0f} s.")
        if answer.queued and waited_s > answer.spec.queue_wait_s:
            reason = self._catalog.waiting_reason(name)
            why = f": {reason}" if reason else ""
            return DeadlineExceeded(
                f"The request waited {waited_s:.0f} s for {name}, which is its limit{why}."
            )
        if away_since is not None:
            too_long = now - away_since > BROKER_TIMEOUT_S
            return BrokerUnavailable("The broker went away while the request waited.") if too_long else None
        return not_taken() if not answer.sequence and now - answer.last_seen_at > STORE_TIMEOUT_S else None

    def _runner_is_silent(self, answer: AnswerReceiver, now: float) -> bool:
        known = answer.instance is None or answer.instance in self._catalog.instances.values
        return not known and now - answer.last_seen_at > RUNNER_SILENCE_S
