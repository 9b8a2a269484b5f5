"""One request from its pull to its acknowledgement: every way it can go, one usage record."""

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import nats.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.tracing import span
from schemas import subjects
from schemas.base import model_key
from schemas.errors import DeadlineExceeded, EngineFailed, ErrorDetail, InternalError
from schemas.frames import AnswerEnd, RunningAnswer
from schemas.requests import InferHeaders, Outcome, RequestFinished, RequestStarted
from services.supervisor.runner.bodies import fetch_body
from services.supervisor.runner.frames import Frames
from services.supervisor.runner.metering import Meter
from services.supervisor.runner.relay import EngineGone, Relay, Relayed

if TYPE_CHECKING:
    from services.supervisor.runner.desk import Desk

log = logs.get(__name__)

CLIENT_LEFT = 499
DEATH_SHOWS_S = 0.5
"""Within this a connection that broke turns out to be the death of the engine, or not."""


class Answer:
    """Serves one message of the queue. `run` holds the slot, `close` stores what is left to store."""

    def __init__(self, desk: "Desk", msg: Msg) -> None:
        self.headers = InferHeaders.from_nats(msg.headers or {})
        self.request = self.headers.request
        self.frames = Frames(desk.bus, self.headers, msg.metadata.num_delivered or 1)
        self._desk = desk
        self._msg = msg
        self._instance = desk.life.instance
        self._model_key = model_key(self._instance.model)
        self._started_at = time.time()
        self._relay = Relay(
            desk.upstream, self.frames, self._instance.instance, self.headers, desk.parameters
        )
        self.record: RequestFinished | None = None
        """Its usage record, once it is known how it ended."""
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._elsewhere = False
        self._over = False

    @property
    def meter(self) -> Meter:
        """What it used so far."""
        return self._relay.dialect.meter

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self._over or self._cancelled:
            return
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def leave_to_other(self) -> None:
        """Another runner is at the same request: it will record it, and let go of its message."""
        self._elsewhere = not self._over
        self.cancel()

    def running(self) -> RunningAnswer:
        """How far it is, for its gateway."""
        return RunningAnswer(
            request=self.request,
            attempt=self.headers.attempt,
            delivery=self.frames.delivery,
            frames=self.frames.count,
        )

    async def keep(self) -> None:
        """Keep the message ours for a while more."""
        with contextlib.suppress(nats.errors.Error):
            await self._msg.in_progress()

    async def run(self) -> None:
        """Answer, refuse or give up; when it returns, the engine is free again."""
        self._task = asyncio.current_task()
        try:
            if not self._cancelled:
                await self._traced()
        except asyncio.CancelledError:
            if not self._cancelled or self._task is None:
                raise
            self._task.uncancel()
        finally:
            self._over = True
        if self._cancelled and self.record is None:
            await self._give_up()

    async def close(self) -> None:
        """Send the usage record off, then let go of the message; the broker takes them in this order."""
        if self.record is not None:
            await self._desk.bus.publish_with_retry(
                subjects.REQUEST_FINISHED,
                self.record,
                event_id=f"{self.request}.finished",
                model=self._model_key,
                request=self.request,
            )
        elif self._elsewhere:
            return
        with contextlib.suppress(nats.errors.Error):
            await self._msg.ack()

    async def _traced(self) -> None:
        headers, instance = self.headers, self._instance
        with span(f"engine {headers.path}", headers.traceparent, yard__instance=instance.instance) as traced:
            self._relay.traceparent = traced.traceparent
            await self._work()
            meter = self.meter
            traced.set_attributes(
                gen_ai__response__model=instance.model,
                gen_ai__usage__input_tokens=meter.prompt_tokens,
                gen_ai__usage__output_tokens=meter.completion_tokens,
                yard__queue_ms=self._queue_ms(),
            )

    async def _work(self) -> None:
        if self._started_at > self.headers.deadline_at:
            late = DeadlineExceeded("The request waited longer than it was allowed to.")
            await self._fail(late.status, late.body().error)
            return
        self._desk.bus.publish_batched(
            subjects.REQUEST_STARTED, self._started(), model=self._model_key, request=self.request
        )
        try:
            relayed = await self._relay.run(await self._body())
        except EngineGone as error:
            # Whether somebody else may go on is for the gateway to say: it knows what the client has.
            log.warning("engine_broke_off", request=self.request, error=str(error))
            gone = EngineFailed("The engine broke off while it answered; please try again.")
            # If it died, that has to be noticed first: asked again, the request must not come back here.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._desk.engine_ended.wait(), DEATH_SHOWS_S)
            await self.frames.end(AnswerEnd(error=gone.body().error, again=True))
        except EngineFailed as error:
            await self._fail(error.status, error.body().error)
        except Exception:
            # Nobody else would tell the client that nothing more will come.
            log.exception("answer_failed", request=self.request)
            wrong = InternalError("The answer of the engine could not be passed on; the runner's log has it.")
            await self._fail(wrong.status, wrong.body().error)
        else:
            self._note(relayed)

    async def _body(self) -> bytes:
        parts = self.headers.body_parts
        return await fetch_body(self._desk.bus, self.request, parts) if parts else self._msg.data

    def _note(self, relayed: Relayed) -> None:
        outcome = Outcome.FAILED if relayed.error else Outcome.OK
        self.record = self._finished(outcome, relayed.status, relayed.error)

    async def _fail(self, status: int, error: ErrorDetail) -> None:
        await self.frames.end(AnswerEnd(error=error))
        self.record = self._finished(Outcome.FAILED, status, error)

    async def _give_up(self) -> None:
        """The engine's connection is closed; hold the slot until the engine has let go too."""
        if not await self._desk.upstream.settle(self._desk.busy - 1):
            log.warning("engine_still_busy", request=self.request)
        if not self._elsewhere:
            self.record = self._finished(Outcome.CANCELLED, CLIENT_LEFT, None)

    def _started(self) -> RequestStarted:
        return RequestStarted(
            request=self.request,
            model=self._instance.model,
            instance=self._instance.instance,
            node=self._instance.node,
            attempt=self.headers.attempt,
            queue_ms=self._queue_ms(),
        )

    def _queue_ms(self) -> float:
        return round((self._started_at - self.headers.queued_at) * 1000, 3)

    def _finished(self, outcome: Outcome, status: int, error: ErrorDetail | None) -> RequestFinished:
        meter, first = self.meter, self.frames.started_at
        return RequestFinished(
            request=self.request,
            model=self._instance.model,
            lane=self.headers.lane,
            path=self.headers.path,
            stream=self.headers.stream,
            outcome=outcome,
            status=status,
            queued_at=self.headers.queued_at,
            finished_at=time.time(),
            key=self.headers.key,
            mode=self._desk.spec.mode,
            instance=self._instance.instance,
            node=self._instance.node,
            error=error,
            prompt_tokens=meter.prompt_tokens,
            cached_tokens=meter.cached_tokens,
            completion_tokens=meter.completion_tokens,
            queue_ms=self._queue_ms(),
            first_token_ms=round((first - self.headers.queued_at) * 1000, 3) if first else None,
            tokens_per_s=meter.tokens_per_s,
        )
