"""Pulling work: one pull open for each free slot, so that load balances itself."""

import asyncio
import contextlib

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from modelyard import logging
from modelyard.bus import RETRY_PAUSE_S
from modelyard.tasks import Tasks, cancel
from schemas import streams, subjects
from schemas.grammar import model_key
from schemas.models import ModelSpec
from schemas.requests import Lane
from services.supervisor.runner.answer import Answer
from services.supervisor.runner.workplace import Workplace

log = logging.get(__name__)

ACK_WAIT_S = 6.0
"""A request whose runner said nothing for so long is given to another."""
PULL_S = 5.0
"""A broker's restart loses an open pull; it is asked anew after this."""


class Slots:
    """The slots of one engine, each with its own pull on the model's queue."""

    def __init__(self, workplace: Workplace, tasks: Tasks, spec: ModelSpec) -> None:
        self.workplace = workplace
        self._bus = workplace.bus
        self._tasks = tasks
        self._spec = spec
        self._consumer = f"runner-{model_key(spec.name)}-{Lane.INTERACTIVE}"
        self._draining = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Begin to pull."""
        await self._bus.subscribe(subjects.CANCEL, self.workplace.cancels.on_cancel)
        await self._ensure_consumer()
        for slot in range(self._spec.n_parallel):
            self._loops.append(self._tasks.spawn(self._serve(), f"slot {slot}"))

    async def drain(self) -> None:
        """Take no new work, and return when what runs has ended."""
        self._draining.set()
        # Not gather: who stops waiting must not cancel the answers.
        await asyncio.wait(self._loops)

    async def _ensure_consumer(self) -> None:
        config = api.ConsumerConfig(
            name=self._consumer,
            durable_name=self._consumer,
            filter_subject=subjects.INFER(model=model_key(self._spec.name), lane=Lane.INTERACTIVE),
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_ack_pending=1000,
        )
        await self._bus.js.add_consumer(streams.INFER.name, config)

    async def _serve(self) -> None:
        while not self._draining.is_set():
            try:
                pull = await self._bus.js.pull_subscribe_bind(self._consumer, streams.INFER.name)
            except (TimeoutError, nats.errors.Error):
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            try:
                await self._pull_until_drained(pull)
            finally:
                await self._leave(pull)

    async def _pull_until_drained(self, pull: JetStreamContext.PullSubscription) -> None:
        while not self._draining.is_set():
            try:
                msg = await self._next(pull)
            except (nats.errors.Error, nats.js.errors.Error) as error:
                log.warning("pull_failed", error=str(error))
                await asyncio.sleep(RETRY_PAUSE_S)
                with contextlib.suppress(TimeoutError, nats.errors.Error, nats.js.errors.Error):
                    await self._ensure_consumer()
                return
            if msg is not None:
                await self._take(msg)

    async def _next(self, pull: JetStreamContext.PullSubscription) -> Msg | None:
        """The next request; None when none came for a while or we drain."""
        fetch = asyncio.ensure_future(pull.fetch(1, timeout=PULL_S))
        drain = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({fetch, drain}, return_when=asyncio.FIRST_COMPLETED)
            # Cancelled in the moment in which it has its message, it still gives it to us.
            await cancel(fetch)
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                return fetch.result()[0]
            return None
        finally:
            fetch.cancel()
            drain.cancel()

    async def _leave(self, pull: JetStreamContext.PullSubscription) -> None:
        """Close the pull; a request that came in that moment goes back to the queue at once."""
        with contextlib.suppress(TimeoutError, nats.errors.Error, nats.js.errors.Error):
            while pull.pending_msgs:
                (msg,) = await pull.fetch(1, timeout=0.1)
                await msg.nak()
            await pull.unsubscribe()

    async def _take(self, msg: Msg) -> None:
        if self.workplace.cancels.is_open((msg.headers or {}).get("Nats-Msg-Id", "")):
            # Redelivered after the broker was away, while we are still at it.
            log.info("already_at_work", subject=msg.subject)
            return
        try:
            answer = Answer(self.workplace, msg)
        except (KeyError, ValueError):
            log.exception("request_not_understood", subject=msg.subject)
            await msg.term()
            return
        self.workplace.enter()
        try:
            await answer.run()
        except Exception:
            # Whatever it was, this slot must serve the next one; the request is redelivered.
            log.exception("answer_failed", subject=msg.subject)
        finally:
            self.workplace.leave()
