"""Counters of events, since the monitor started: finished requests by model, node and key, instances."""

import asyncio
import collections
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import RETRY_PAUSE_S, Bus
from modelyard.bus.reads import stored_messages
from modelyard.bus.tasks import first_of
from schemas import streams, subjects
from schemas.instances import Instance, InstanceState
from schemas.metrics import Sample
from schemas.requests import Outcome, RequestFinished
from services.monitor.metrics.counters import (
    LabeledCounter,
    LabeledHistogram,
    RecentErrorRatio,
    RecentQuantiles,
)
from services.monitor.price_book import clamp_tokens

log = logs.get(__name__)

_MAX_DURATION_S = 1e7
"""No request takes longer; clocks may be wrong."""
_DEDUPLICATED = 4096
"""The newest requests, of which a second report is ignored."""
_ENDED = frozenset({InstanceState.STOPPED, InstanceState.FAILED})


class RequestCounters:
    """Finished requests since the monitor started."""

    def __init__(self) -> None:
        self._counted: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._finished = LabeledCounter("yard_requests_total", "model", "node", "outcome")
        self._errors = LabeledCounter("yard_request_errors_total", "model", "code")
        self._tokens = LabeledCounter("yard_tokens_total", "model", "node", "kind")
        self._key_requests = LabeledCounter("yard_key_requests_total", "key", "outcome")
        self._key_tokens = LabeledCounter("yard_key_tokens_total", "key", "kind")
        self._duration = LabeledHistogram("yard_request_duration_seconds", "model", "node")
        self._first_token = LabeledHistogram("yard_request_first_token_seconds", "model", "node")
        self._queue = LabeledHistogram("yard_request_queue_seconds", "model", "node")
        self._key_duration = LabeledHistogram("yard_key_request_duration_seconds", "key")
        self._recent_duration = RecentQuantiles("yard_request_duration_quantile_seconds", "model")
        self._recent_first_token = RecentQuantiles("yard_request_first_token_quantile_seconds", "model")
        self._recent_errors = RecentErrorRatio("yard_request_error_ratio", "model")
        self._recent_queue = RecentQuantiles("yard_request_queue_quantile_seconds", "model")

    def add(self, record: RequestFinished) -> None:
        """Count a request once, though two sides may report it."""
        if record.request in self._counted:
            return
        self._counted[record.request] = None
        while len(self._counted) > _DEDUPLICATED:
            self._counted.popitem(last=False)
        model, node, outcome = record.model, record.node or "", record.outcome.value
        self._finished.add(model, node, outcome)
        if record.outcome is not Outcome.CANCELLED:
            self._recent_errors.add(model, record.finished_at, failed=record.outcome is Outcome.FAILED)
        if record.error is not None:
            self._errors.add(model, record.error.code)
        for kind, tokens in _tokens(record):
            self._tokens.add(model, node, kind, amount=tokens)
        if record.key is not None:
            self._add_to_key(record.key, record)
        if record.outcome is Outcome.OK:
            duration_s = _duration_s(record)
            self._duration.add(model, node, seconds=duration_s)
            self._recent_duration.add(model, record.finished_at, duration_s)
        if record.first_token_ms is not None:
            first_token_s = _clamped_s(record.first_token_ms / 1000)
            self._first_token.add(model, node, seconds=first_token_s)
            self._recent_first_token.add(model, record.finished_at, first_token_s)
        if record.queue_ms is not None:
            queue_s = _clamped_s(record.queue_ms / 1000)
            self._queue.add(model, node, seconds=queue_s)
            self._recent_queue.add(model, record.finished_at, queue_s)

    def _add_to_key(self, key: str, record: RequestFinished) -> None:
        self._key_requests.add(key, record.outcome.value)
        for kind, tokens in _tokens(record):
            self._key_tokens.add(key, kind, amount=tokens)
        if record.outcome is Outcome.OK:
            self._key_duration.add(key, seconds=_duration_s(record))

    def reset(self) -> None:
        """Restart the totals at 0 with the same series; the values of the last minutes stay."""
        for family in self._totals():
            family.reset()

    def _totals(self) -> tuple[LabeledCounter | LabeledHistogram, ...]:
        counters = (self._finished, self._errors, self._tokens, self._key_requests, self._key_tokens)
        histograms = (self._duration, self._first_token, self._queue, self._key_duration)
        return (*counters, *histograms)

    def samples(self, now: float) -> Iterator[Sample]:
        for family in self._totals():
            yield from family.samples()
        for recent in (self._recent_duration, self._recent_first_token, self._recent_queue):
            yield from recent.samples(now)
        yield from self._recent_errors.samples(now)


def _duration_s(record: RequestFinished) -> float:
    return _clamped_s(record.finished_at - record.queued_at)


def _clamped_s(seconds: float) -> float:
    # Sums of durations never fall and never overflow.
    return min(max(seconds, 0.0), _MAX_DURATION_S)


def _tokens(record: RequestFinished) -> Iterator[tuple[str, int]]:
    by_kind = (
        ("prompt", record.prompt_tokens),
        ("cached", record.cached_tokens),
        ("completion", record.completion_tokens),
    )
    return ((kind, clamp_tokens(tokens)) for kind, tokens in by_kind if tokens > 0)


class InstanceCounters:
    """Starts and ends of instances since the monitor started, from their records."""

    def __init__(self) -> None:
        self._states: dict[str, InstanceState] = {}
        self._starts = LabeledCounter("yard_model_starts_total", "model", "node")
        self._stops = LabeledCounter("yard_model_stops_total", "model", "node", "reason")
        self._failures = LabeledCounter("yard_model_failures_total", "model", "node", "reason")

    def add_existing(self, instance: Instance) -> None:
        """Add an instance from before the monitor started: its start is not counted, its end will be."""
        self._states[instance.instance] = instance.state

    def on_change(self, key: str, instance: Instance | None) -> None:
        """Count the change of a record; None: it was deleted."""
        if instance is None:
            self._states.pop(key, None)
            return
        before = self._states.get(key)
        self._states[key] = instance.state
        if before is None and instance.state not in _ENDED:
            self._starts.add(instance.model, instance.node)
        if instance.state in _ENDED and before is not None and before not in _ENDED:
            ends = self._failures if instance.state is InstanceState.FAILED else self._stops
            ends.add(instance.model, instance.node, instance.reason.value)

    def samples(self) -> Iterator[Sample]:
        for family in (self._starts, self._stops, self._failures):
            yield from family.samples()


class RequestConsumer:
    """Calls `on_request` with every usage record that is stored from now on."""

    def __init__(self, bus: Bus, on_request: Callable[[RequestFinished], None]) -> None:
        self._bus = bus
        self._on_request = on_request
        self._since: float | None = time.time()
        self._cursor: int | None = None
        """The stream sequence of the last record."""
        self._rebuild = asyncio.Event()

    async def catch_up(self, since: float, on_time: Callable[[float], None]) -> None:
        """Consume what was stored since then; `on_time` is called with the time before every record."""
        self._since = since
        async with aclosing(self._messages(follow=False)) as messages:
            async for msg in messages:
                on_time(msg.metadata.timestamp.timestamp())
                self._handle(msg)

    async def run(self) -> None:
        """Follow until cancelled; a reconnect makes a new consumer: the old one can end silently."""
        unsubscribe = self._bus.on_reconnect(self._rebuild.set)
        try:
            while True:
                self._rebuild.clear()
                try:
                    await first_of(self._follow(), self._rebuild.wait())
                except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
                    log.warning("request_consumer_failed", error=str(error) or type(error).__name__)
                await asyncio.sleep(RETRY_PAUSE_S)
        finally:
            unsubscribe()

    async def _follow(self) -> None:
        async with aclosing(self._messages(follow=True)) as messages:
            async for msg in messages:
                self._handle(msg)

    def _messages(self, *, follow: bool) -> AsyncGenerator[Msg, None]:
        wildcard = subjects.REQUEST_FINISHED.wildcard
        since = None if self._cursor is not None else self._since
        return stored_messages(
            self._bus, streams.EVENTS, wildcard, since=since, after=self._cursor, follow=follow
        )

    def _handle(self, msg: Msg) -> None:
        self._cursor = msg.metadata.sequence.stream
        try:
            self._on_request(subjects.REQUEST_FINISHED.decode(msg.data))
        except (msgspec.DecodeError, RecursionError) as error:
            log.warning("request_decode_failed", subject=msg.subject, error=str(error))
