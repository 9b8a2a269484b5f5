"""The slots of the engine, and the answers in them: started, cancelled, checked with their gateways."""

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import nats.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.base import model_key
from schemas.errors import ServiceUnavailable, YardError
from schemas.frames import AnswerCheck, AnswerCheckReply, Resend
from schemas.models import ModelSpec
from schemas.registry import ModelChanged
from schemas.requests import RequestFinished
from services.supervisor.dialects.base import TokenMeter
from services.supervisor.runner.answer_sender import AnswerSender
from services.supervisor.runner.queues import QueueName
from services.supervisor.runner.record import InstanceRecord
from services.supervisor.runner.upstream import Upstream

log = logs.get(__name__)

CHECK_S = 2.0
"""How often an answer in flight is extended at the broker and checked with its gateway."""
GATEWAY_LOST_AFTER = 3
"""Failed checks in a row after which a gateway counts as lost: it may only be reconnecting."""
RETENTION_S = 15.0
"""How long the frames of an ended answer can be resent."""
_MAX_CANCELLED = 4096


class SlotPool:
    def __init__(
        self, bus: Bus, tasks: Tasks, record: InstanceRecord, upstream: Upstream, spec: ModelSpec
    ) -> None:
        self.bus = bus
        self.record = record
        self.upstream = upstream
        self.spec = spec
        """The model; its parameter policy follows edits."""
        self.slots = spec.n_parallel
        self.running: collections.Counter[QueueName] = collections.Counter()
        """Requests in flight of each queue."""
        self.on_free: Callable[[], Awaitable[None]] | None = None
        """Called when a slot is free again."""
        self.on_finished: Callable[[TokenMeter, RequestFinished | None], None] | None = None
        """Called with the usage of an answer, and its record if it has one."""
        self.taken = 0
        """Requests since the start."""
        self._tasks = tasks
        self._model_key = model_key(spec.name)
        self._answers: dict[str, AnswerSender] = {}
        self._ended: collections.deque[tuple[float, AnswerSender]] = collections.deque()
        self._cancelled: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._missed_checks: collections.Counter[str] = collections.Counter()
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self) -> None:
        """Subscribe to cancels, resends and edits of the model, and start the checks."""
        await self.bus.subscribe(subjects.CANCEL, self._on_cancel)
        await self.bus.subscribe(subjects.RESEND, self._on_resend)
        # By event: a watch on the bucket would be one more consumer on the broker for every runner.
        await self.bus.subscribe(subjects.MODEL_CHANGED, self._on_model_changed, model=self._model_key)
        self.bus.on_reconnect(self._on_reconnect)
        self._tasks.spawn(self._check_periodically(), "check answers")
        await self._read_parameters()

    @property
    def free(self) -> int:
        return self.slots - self.busy

    @property
    def busy(self) -> int:
        return self.running.total()

    def meters(self) -> Iterator[TokenMeter]:
        return (answer.meter for answer in self._answers.values())

    async def wait_idle(self) -> None:
        """Return when every answer has ended and its record is stored."""
        await self._idle.wait()
        await self.bus.wait_for_acks()

    def take(self, queue: QueueName, msg: Msg) -> None:
        """Start the answer to a request; a slot must be free."""
        self.running[queue] += 1
        self.taken += 1
        self._open += 1
        self._idle.clear()
        self.record.set_busy(self.busy)
        self._tasks.spawn(self._serve(queue, msg), "answer")

    async def _serve(self, queue: QueueName, msg: Msg) -> None:
        answer: AnswerSender | None = None
        try:
            try:
                if (answer := self._admit(msg)) is not None:
                    await answer.run()
            except Exception:
                # The slot must serve the next request; this one is redelivered.
                log.exception("answer_failed", subject=msg.subject)
            finally:
                self._free_slot(queue, answer)
            if self.on_free is not None:
                await self.on_free()
            if answer is not None:
                await answer.close()
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    def _admit(self, msg: Msg) -> AnswerSender | None:
        """The answer to a request; None for one that is invalid, or is in flight already."""
        try:
            answer = AnswerSender(self.bus, self.record, self.upstream, self.spec, msg)
        except (KeyError, ValueError, msgspec.DecodeError):
            log.exception("request_invalid", subject=msg.subject)
            self._tasks.spawn(msg.term(), "refuse")
            return None
        if answer.request in self._answers:
            # Redelivered after the broker was away.
            log.info("request_already_in_flight", request=answer.request)
            return None
        self._answers[answer.request] = answer
        if answer.request in self._cancelled:
            answer.cancel()
        return answer

    def _free_slot(self, queue: QueueName, answer: AnswerSender | None) -> None:
        self.running[queue] -= 1
        self.record.set_busy(self.busy)
        if answer is not None:
            self._answers.pop(answer.request, None)
            self._ended.append((time.monotonic(), answer))
            if self.on_finished is not None:
                self.on_finished(answer.meter, answer.record)

    async def _on_cancel(self, tokens: dict[str, str], _payload: bytes) -> None:
        request = tokens["request"]
        if request in self._answers:
            self._answers[request].cancel()
            return
        # A cancel may arrive before its request.
        self._cancelled[request] = None
        while len(self._cancelled) > _MAX_CANCELLED:
            self._cancelled.popitem(last=False)

    async def _on_resend(self, tokens: dict[str, str], resend: Resend) -> None:
        ended = [answer for _, answer in self._ended]
        for answer in (*self._answers.values(), *ended):
            if answer.request == tokens["request"]:
                await answer.frames.resend(resend)

    async def _on_model_changed(self, _tokens: dict[str, str], changed: ModelChanged) -> None:
        self._set_parameters(changed.after)

    async def _read_parameters(self) -> None:
        try:
            spec = await BucketStore(self.bus, buckets.MODELS).get(self._model_key)
        except YardError as error:
            log.warning("model_not_read", error=error.message)
            return
        self._set_parameters(spec)

    def _set_parameters(self, edited: ModelSpec | None) -> None:
        if edited is not None:
            self.spec = msgspec.structs.replace(self.spec, parameters=edited.parameters)

    def _on_reconnect(self) -> None:
        """Messages and events in transit were lost: check the answers and the model at once."""
        self._tasks.spawn(self._check_all(), "check after reconnect")
        self._tasks.spawn(self._read_parameters(), "read model after reconnect")

    async def _check_periodically(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            while self._ended and self._ended[0][0] < time.monotonic() - RETENTION_S:
                self._ended.popleft()
            for answer in tuple(self._answers.values()):
                await answer.extend()
            await self._check_all()

    async def _check_all(self) -> None:
        """Check the answers of every gateway, with those that ended since the last check.

        An ended attempt is left out while a retry of its request is in flight: the reply about it would be
        applied to the retry.
        """
        since = time.monotonic() - 2 * CHECK_S
        recent = (answer for ended_at, answer in self._ended if ended_at > since)
        ended = [answer for answer in recent if answer.request not in self._answers]
        by_gateway: dict[str, list[AnswerSender]] = {}
        for answer in (*self._answers.values(), *ended):
            by_gateway.setdefault(answer.headers.reply, []).append(answer)
        for gateway in self._missed_checks.keys() - by_gateway.keys():
            del self._missed_checks[gateway]
        await asyncio.gather(*(self._check(*group) for group in by_gateway.items()))

    async def _check(self, gateway: str, answers: list[AnswerSender]) -> None:
        """Cancel answers that the gateway does not expect; a lost gateway expects none."""
        check = AnswerCheck(running=tuple(answer.running() for answer in answers))
        try:
            reply = await self.bus.call(subjects.ANSWER_CHECK, check, timeout_s=CHECK_S, gateway=gateway)
        except ServiceUnavailable:
            self._missed_checks[gateway] += 1
            all_retried = all(answer.headers.attempt > 1 for answer in answers)
            is_lost = all_retried or self._missed_checks[gateway] >= GATEWAY_LOST_AFTER
            reply = AnswerCheckReply(unwanted=tuple(answer.request for answer in answers) if is_lost else ())
        except (YardError, nats.errors.Error):
            return
        else:
            self._missed_checks[gateway] = 0
        for answer in answers:
            if answer.request in reply.unwanted:
                answer.cancel()
            elif answer.request in reply.superseded:
                answer.hand_over()
