"""One request from its pull to its acknowledgement: every way it can go, one usage record."""

import asyncio
import contextlib
import time

import nats.errors
from nats.aio.msg import Msg

from modelyard import logging
from schemas import subjects
from schemas.errors import DeadlineExceeded, EngineFailed, ErrorDetail, YardError
from schemas.requests import InferHeaders, Lane, Outcome, RequestFinished, RequestStarted
from services.supervisor.runner.frames import Frames
from services.supervisor.runner.relay import EngineGone, Relay, Relayed
from services.supervisor.runner.workplace import Workplace

log = logging.get(__name__)

KEEP_ALIVE_S = 2.0
MAX_ATTEMPTS = 2
"""A request that took its engine down twice is not tried a third time."""
GONE_AFTER = 3
"""Checks in a row that must find no gateway before it counts as gone: it may be reconnecting."""
CLIENT_LEFT = 499


class Answer:
    """Serves one message of the queue."""

    def __init__(self, workplace: Workplace, msg: Msg) -> None:
        self._workplace = workplace
        self._msg = msg
        self._instance = workplace.life.instance
        self._headers = InferHeaders.from_nats(msg.headers or {})
        self._attempt = msg.metadata.num_delivered or 1
        self._started_at = time.time()
        self._frames = Frames(workplace.bus, self._headers.reply, self._headers.request, self._attempt)
        self._relay = Relay(workplace.upstream, self._frames, self._instance.instance)
        self._cancelled = workplace.cancels.open(self._headers.request)
        self._over = False

    async def run(self) -> None:
        """Answer, refuse or give up; the message is acknowledged or given back."""
        work = asyncio.create_task(self._work())
        watch = [asyncio.create_task(self._keep()), asyncio.create_task(self._cancelled.wait())]
        try:
            await asyncio.wait({work, watch[1]}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            else:
                await self._give_up(work)
        finally:
            self._over = True
            for task in (work, *watch):
                task.cancel()
            self._workplace.cancels.close(self._headers.request)

    async def _work(self) -> None:
        if (refusal := self._refusal()) is not None:
            await self._finish(Outcome.FAILED, refusal.status, refusal.body().error, cut=True)
            return
        await self._workplace.bus.emit_nowait(
            subjects.REQUEST_STARTED, self._started(), request=self._headers.request
        )
        try:
            relayed = await self._relay.run(self._headers.path, self._msg.data, stream=self._headers.stream)
        except EngineGone as error:
            await self._engine_gone(error)
        else:
            await self._relayed(relayed)

    def _refusal(self) -> YardError | None:
        if self._attempt > MAX_ATTEMPTS:
            return EngineFailed("This request took its engine down twice; it is not tried again.")
        if self._started_at > self._headers.deadline_at:
            return DeadlineExceeded("The request waited longer than it was allowed to.")
        return None

    async def _relayed(self, relayed: Relayed) -> None:
        outcome = Outcome.FAILED if relayed.error else Outcome.OK
        await self._finish(outcome, relayed.status, relayed.error)

    async def _engine_gone(self, error: EngineGone) -> None:
        """Nothing sent yet: somebody else may answer. Otherwise the client is told, in so many words."""
        log.warning("engine_broke_off", request=self._headers.request, error=str(error))
        if self._frames.started_at is None and self._attempt < MAX_ATTEMPTS:
            await self._msg.nak(delay=1.0)
            return
        failed = EngineFailed("The engine broke off while it answered; please try again.")
        await self._finish(Outcome.FAILED, failed.status, failed.body().error, cut=True)

    async def _give_up(self, work: asyncio.Task[None]) -> None:
        """Close the engine's connection, and hold the slot until the engine has let go too."""
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        if not await self._workplace.upstream.settle(self._workplace.busy - 1):
            log.warning("engine_still_busy", request=self._headers.request)
        await self._finish(Outcome.CANCELLED, CLIENT_LEFT, None, announce=False)

    async def _finish(
        self,
        outcome: Outcome,
        status: int,
        error: ErrorDetail | None,
        *,
        cut: bool = False,
        announce: bool = True,
    ) -> None:
        """Last frame and usage record side by side, then the acknowledgement.

        `cut`: the answer is not whole and `error` says why. `announce`: somebody waits for the last frame.
        """
        record = self._record(outcome, status, error)
        request = self._headers.request
        emitted = self._workplace.bus.emit(
            subjects.REQUEST_FINISHED, record, event_id=f"{request}.finished", request=request
        )
        if announce:
            await asyncio.gather(self._frames.end(error if cut else None), emitted)
        else:
            await emitted
        with contextlib.suppress(nats.errors.Error):
            await self._msg.ack()

    async def _keep(self) -> None:
        """Keep the message ours and the gateway in sight while we work."""
        missing = 0
        if self._attempt == 1:
            # Most answers are done by then and need no question; a second attempt asks at once.
            await asyncio.sleep(KEEP_ALIVE_S / 2)
        # The flag too: a cancel can be lost in a request whose answer comes in the same moment.
        while not self._over:
            wanted = await self._frames.still_wanted()
            missing = missing + 1 if wanted is False else 0
            if missing >= (1 if self._attempt > 1 else GONE_AFTER):
                self._cancelled.set()
            await asyncio.sleep(KEEP_ALIVE_S)
            with contextlib.suppress(nats.errors.Error):
                await self._msg.in_progress()

    def _started(self) -> RequestStarted:
        return RequestStarted(
            request=self._headers.request,
            model=self._instance.model,
            instance=self._instance.instance,
            node=self._instance.node,
            attempt=self._attempt,
            queue_ms=self._queue_ms(),
        )

    def _queue_ms(self) -> float:
        return round((self._started_at - self._headers.queued_at) * 1000, 3)

    def _record(self, outcome: Outcome, status: int, error: ErrorDetail | None) -> RequestFinished:
        meter, first = self._relay.meter, self._frames.started_at
        return RequestFinished(
            request=self._headers.request,
            model=self._instance.model,
            lane=Lane.INTERACTIVE,
            path=self._headers.path,
            stream=self._headers.stream,
            outcome=outcome,
            status=status,
            queued_at=self._headers.queued_at,
            finished_at=time.time(),
            key=self._headers.key,
            instance=self._instance.instance,
            node=self._instance.node,
            error=error,
            prompt_tokens=meter.prompt_tokens,
            cached_tokens=meter.cached_tokens,
            completion_tokens=meter.completion_tokens,
            queue_ms=self._queue_ms(),
            first_token_ms=round((first - self._headers.queued_at) * 1000, 3) if first else None,
            tokens_per_s=meter.tokens_per_s,
        )
