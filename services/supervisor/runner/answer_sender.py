"""One request from its delivery to its acknowledgement, with exactly one usage record."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

import nats.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.tracing import span
from schemas import subjects
from schemas.base import model_key
from schemas.errors import DeadlineExceeded, ErrorDetail
from schemas.frames import RunningAnswer
from schemas.models import ModelSpec
from schemas.requests import InferHeaders, Outcome, RequestFinished, RequestStarted
from services.supervisor.dialects.base import TokenMeter
from services.supervisor.runner.record import InstanceRecord
from services.supervisor.runner.relay import FrameSender, Relay, fetch_body
from services.supervisor.runner.upstream import Upstream

log = logs.get(__name__)

CLIENT_CLOSED_REQUEST = 499


class AnswerSender:
    """Serves one message of the queue. `run` occupies the slot, `close` publishes the record and acks."""

    def __init__(
        self, bus: Bus, instance: InstanceRecord, upstream: Upstream, spec: ModelSpec, msg: Msg
    ) -> None:
        self.headers = InferHeaders.from_nats(msg.headers or {})
        self.request = self.headers.request
        self.frames = FrameSender(bus, self.headers, msg.metadata.num_delivered or 1)
        self.record: RequestFinished | None = None
        """The usage record, once the outcome is known."""
        self._bus = bus
        self._instance_record = instance
        self._upstream = upstream
        self._spec = spec
        self._msg = msg
        self._instance = instance.instance
        self._model_key = model_key(self._instance.model)
        self._started_at = time.time()
        self._relay = Relay(upstream, self.frames, self._instance.instance, self.headers, spec.parameters)
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._superseded = False
        self._ended = False

    @property
    def meter(self) -> TokenMeter:
        return self._relay.dialect.meter

    def cancel(self) -> None:
        if self._ended or self._cancelled:
            return
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def hand_over(self) -> None:
        """Another runner serves the same request: it publishes the record and acks the message."""
        self._superseded = not self._ended
        self.cancel()

    def running(self) -> RunningAnswer:
        """The progress, for its gateway."""
        return RunningAnswer(
            request=self.request,
            attempt=self.headers.attempt,
            delivery=self.frames.delivery,
            frames=self.frames.count,
        )

    async def extend(self) -> None:
        """Restart the broker's ack timeout."""
        with contextlib.suppress(nats.errors.Error):
            await self._msg.in_progress()

    async def run(self) -> None:
        """Answer, refuse or abort; when it returns, the engine's slot is free."""
        self._task = asyncio.current_task()
        try:
            if not self._cancelled:
                with self._traced():
                    if self._started_at <= self.headers.deadline_at:
                        self._publish_started()
                        result = await self._relay.run(self._body())
                    else:
                        late = DeadlineExceeded("The request waited longer than it was allowed to.")
                        result = await self._relay.fail(late)
                    if result is not None:
                        outcome = Outcome.FAILED if result.error else Outcome.OK
                        self.record = self._finished(outcome, result.status, result.error)
        except asyncio.CancelledError:
            if not self._cancelled or self._task is None:
                raise
            self._task.uncancel()
        finally:
            self._ended = True
        if self._cancelled and self.record is None:
            await self._abort()

    async def close(self) -> None:
        """Publish the usage record, then ack the message; the broker receives them in this order."""
        if self.record is not None:
            await self._bus.publish_with_retry(
                subjects.REQUEST_FINISHED,
                self.record,
                event_id=f"{self.request}.finished",
                model=self._model_key,
                request=self.request,
            )
        elif self._superseded:
            return
        with contextlib.suppress(nats.errors.Error):
            await self._msg.ack()

    @contextlib.contextmanager
    def _traced(self) -> Iterator[None]:
        headers, instance = self.headers, self._instance
        with span(f"engine {headers.path}", headers.traceparent, yard__instance=instance.instance) as traced:
            self._relay.traceparent = traced.traceparent
            yield
            traced.set_attributes(
                gen_ai__response__model=instance.model,
                gen_ai__usage__input_tokens=self.meter.prompt_tokens,
                gen_ai__usage__output_tokens=self.meter.completion_tokens,
                yard__queue_ms=self._queue_ms(),
            )

    async def _body(self) -> bytes:
        parts = self.headers.body_parts
        return await fetch_body(self._bus, self.request, parts) if parts else self._msg.data

    async def _abort(self) -> None:
        """The connection to the engine is closed; occupy the slot until the engine has freed its own."""
        if not await self._upstream.wait_for_slots(self._instance_record.instance.busy - 1):
            log.warning("engine_still_busy", request=self.request)
        if not self._superseded:
            self.record = self._finished(Outcome.CANCELLED, CLIENT_CLOSED_REQUEST, None)

    def _publish_started(self) -> None:
        started = RequestStarted(
            request=self.request,
            model=self._instance.model,
            instance=self._instance.instance,
            node=self._instance.node,
            attempt=self.headers.attempt,
            queue_ms=self._queue_ms(),
        )
        self._bus.publish_batched(
            subjects.REQUEST_STARTED, started, model=self._model_key, request=self.request
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
            mode=self._spec.mode,
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
