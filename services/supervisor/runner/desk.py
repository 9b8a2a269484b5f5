"""The answers that one runner is at, and those it has just given."""

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import nats.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from schemas import subjects
from schemas.errors import ServiceUnavailable, YardError
from schemas.frames import AnswerCheck, AnswerCheckReply, Resend
from schemas.models import ModelSpec
from schemas.requests import RequestFinished
from services.supervisor.runner.answer import Answer
from services.supervisor.runner.fair import QueueName
from services.supervisor.runner.life import Life
from services.supervisor.runner.metering import Meter
from services.supervisor.runner.upstream import Upstream

log = logs.get(__name__)

CHECK_S = 2.0
"""How often a running answer is kept ours and its gateway is asked whether anybody waits for it."""
GONE_AFTER = 3
"""Checks in a row that must find no gateway before it counts as gone: it may be reconnecting."""
KEPT_S = 15.0
"""How long the frames of an answer that has ended can be asked for again."""
_CANCELS_KEPT = 4096


class Desk:
    """Slots, and what is in them."""

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        life: Life,
        upstream: Upstream,
        spec: ModelSpec,
        engine_ended: asyncio.Event | None = None,
    ) -> None:
        self.bus = bus
        self.life = life
        self.upstream = upstream
        self.spec = spec
        self.engine_ended = engine_ended or asyncio.Event()
        """Set once its process is gone."""
        self.slots = spec.n_parallel
        self.parameters = spec.parameters
        """What is done to the fields of a request; an edit of the model changes it."""
        self.running: collections.Counter[QueueName] = collections.Counter()
        """How many requests of each queue are at work."""
        self.on_free: Callable[[], Awaitable[None]] | None = None
        """Called when a slot is free again."""
        self.on_ended: Callable[[Meter, RequestFinished | None], None] | None = None
        """Told what an answer used, and its record if it got one."""
        self.taken = 0
        """Requests taken since the start."""
        self._tasks = tasks
        self._answers: dict[str, Answer] = {}
        self._ended: collections.deque[tuple[float, Answer]] = collections.deque()
        self._cancelled: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._missing: collections.Counter[str] = collections.Counter()
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self) -> None:
        """Hear cancels and wishes for lost frames; keep what runs ours."""
        await self.bus.subscribe(subjects.CANCEL, self._on_cancel)
        await self.bus.subscribe(subjects.RESEND, self._on_resend)
        self.bus.on_reconnect(self._on_reconnect)
        self._tasks.spawn(self._keep(), "keep answers")

    @property
    def free(self) -> int:
        return self.slots - self.busy

    @property
    def busy(self) -> int:
        return self.running.total()

    def meters(self) -> Iterator[Meter]:
        """Of the answers under way."""
        return (answer.meter for answer in self._answers.values())

    async def idle(self) -> None:
        """Return when every answer has ended and is recorded."""
        await self._idle.wait()
        await self.bus.wait_for_acks()

    def take(self, queue: QueueName, msg: Msg) -> None:
        """Begin to answer a request; there must be a free slot."""
        self.running[queue] += 1
        self.taken += 1
        self._open += 1
        self._idle.clear()
        self.life.set_busy(self.busy)
        self._tasks.spawn(self._answer(queue, msg), "answer")

    async def _answer(self, queue: QueueName, msg: Msg) -> None:
        try:
            await self._serve(queue, msg)
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def _serve(self, queue: QueueName, msg: Msg) -> None:
        answer: Answer | None = None
        try:
            answer = self._begin(msg)
            if answer is not None:
                await answer.run()
        except Exception:
            # Whatever it was, this slot must serve the next one; the request is redelivered.
            log.exception("answer_failed", subject=msg.subject)
        finally:
            self.running[queue] -= 1
            self.life.set_busy(self.busy)
            if answer is not None:
                self._answers.pop(answer.request, None)
                self._ended.append((time.monotonic(), answer))
                if self.on_ended is not None:
                    self.on_ended(answer.meter, answer.record)
        if self.on_free is not None:
            await self.on_free()
        if answer is not None:
            await answer.close()

    def _begin(self, msg: Msg) -> Answer | None:
        try:
            answer = Answer(self, msg)
        except (KeyError, ValueError, msgspec.DecodeError):
            log.exception("request_not_understood", subject=msg.subject)
            self._tasks.spawn(msg.term(), "refuse")
            return None
        if answer.request in self._answers:
            # Redelivered after the broker was away, while we are still at it.
            log.info("already_at_work", request=answer.request)
            return None
        self._answers[answer.request] = answer
        if answer.request in self._cancelled:
            answer.cancel()
        return answer

    async def _on_cancel(self, tokens: dict[str, str], _payload: bytes) -> None:
        request = tokens["request"]
        if request in self._answers:
            self._answers[request].cancel()
            return
        # It may come before its request does.
        self._cancelled[request] = None
        while len(self._cancelled) > _CANCELS_KEPT:
            self._cancelled.popitem(last=False)

    async def _on_resend(self, tokens: dict[str, str], wanted: Resend) -> None:
        ended = [answer for _, answer in self._ended]
        for answer in (*self._answers.values(), *ended):
            if answer.request == tokens["request"]:
                await answer.frames.resend(wanted)

    def _on_reconnect(self) -> None:
        """What was on its way when the broker went is lost: tell the gateways at once how far we are."""
        self._tasks.spawn(self._check_all(), "check after reconnect")

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            while self._ended and self._ended[0][0] < time.monotonic() - KEPT_S:
                self._ended.popleft()
            for answer in tuple(self._answers.values()):
                await answer.keep()
            await self._check_all()

    async def _check_all(self) -> None:
        """Ask every gateway about its answers, those included that ended since we asked last.

        Not about one whose request we are at once more: what is said of the first attempt is not meant for
        the second.
        """
        since = time.monotonic() - 2 * CHECK_S
        ended = [
            answer
            for ended_at, answer in self._ended
            if ended_at > since and answer.request not in self._answers
        ]
        by_gateway: dict[str, list[Answer]] = {}
        for answer in (*self._answers.values(), *ended):
            by_gateway.setdefault(answer.headers.reply, []).append(answer)
        for gateway in self._missing.keys() - by_gateway.keys():
            del self._missing[gateway]
        await asyncio.gather(*(self._check(*group) for group in by_gateway.items()))

    async def _check(self, gateway: str, answers: list[Answer]) -> None:
        """One that is gone for good waits for nothing."""
        running = tuple(answer.running() for answer in answers)
        try:
            checked = await self.bus.call(
                subjects.ANSWER_CHECK, AnswerCheck(running=running), timeout_s=CHECK_S, gateway=gateway
            )
        except ServiceUnavailable:
            self._missing[gateway] += 1
            gone = self._missing[gateway] >= GONE_AFTER or all(one.headers.attempt > 1 for one in answers)
            checked = AnswerCheckReply(unwanted=tuple(one.request for one in answers) if gone else ())
        except (YardError, nats.errors.Error):
            return
        else:
            self._missing[gateway] = 0
        for answer in answers:
            if answer.request in checked.unwanted:
                answer.cancel()
            elif answer.request in checked.superseded:
                answer.leave_to_other()
