"""Evaluates now and then, and writes down what it found before it tells it.

An alert is stored, then its event, then that the event is stored. Whoever dies in between leaves a record
which says that its event may be missing; its id is that of the alert and its state, so it is one event.
"""

import asyncio
import collections
import time
from collections.abc import Callable, Iterable

import msgspec
import nats.errors
import nats.js.errors

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from modelyard.bus.records import BucketStore
from schemas import buckets, streams, subjects
from schemas.alerts import Alert, AlertState
from schemas.errors import YardError
from schemas.metrics import Sample
from services.monitor.alerts.evaluate import RESOLVED_KEPT_S, Change, evaluate
from services.monitor.alerts.rules import Rules
from services.monitor.alerts.silences import Silences

log = logs.get(__name__)

PERIOD_S = 5.0
REFRESH_S = 30.0
"""A value that changes while an alert fires is written this often at most."""
_TIMEOUT_S = 2.0
_replace = msgspec.structs.replace


class Keeper:
    """The alerts of the yard. One monitor has it: that of the first machine."""

    def __init__(
        self,
        bus: Bus,
        rules: Rules,
        silences: Silences,
        samples: Callable[[], Iterable[Sample]],
        period_s: float = PERIOD_S,
    ) -> None:
        self._bus = bus
        self._rules = rules
        self._silences = silences
        self.samples = samples
        """What there is to say now."""
        self._period_s = period_s
        self._store = BucketStore(bus, buckets.ALERT_STATES)
        self._states: dict[str, Alert] = {}
        self._written_at: dict[str, float] = {}
        self._unwritten: collections.deque[Change] = collections.deque()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Evaluate now: rules or silences changed."""
        self._wake.set()

    def alerts(self) -> tuple[Alert, ...]:
        """What there is to show, the newest first."""
        shown = [each for each in self._states.values() if each.state is not AlertState.WATCHED]
        return tuple(sorted(shown, key=lambda each: each.changed_at, reverse=True))

    async def open(self) -> None:
        """Take up what was left, and tell what may not have been told."""
        now = time.time()
        known = await read_bucket(self._bus, buckets.ALERT_STATES)
        # Nobody looked while we were away: a metric counts as missing only from now on.
        self._states = {key: _replace(alert, seen_at=now) for key, alert in known.items()}
        for key, alert in known.items():
            if not alert.published:
                await self._tell_once(key, alert)

    async def run(self) -> None:
        """Evaluate until cancelled."""
        while True:
            self._wake.clear()
            await self.round()
            try:
                await asyncio.wait_for(self._wake.wait(), self._period_s)
            except TimeoutError:
                continue

    async def round(self) -> None:
        """Look once, and write down what is different."""
        now, samples = time.time(), self.samples()
        rules = self._rules.all().values()
        for change in evaluate(rules, samples, self._states, now, self._silences.now()):
            self._take(change, now)
        await self._write()

    def _take(self, change: Change, now: float) -> None:
        if change.after is None:
            self._states.pop(change.key, None)
            self._written_at.pop(change.key, None)
        else:
            self._states[change.key] = change.after
        if change.is_step or self._is_stale(change, now):
            self._unwritten.append(change)

    def _is_stale(self, change: Change, now: float) -> bool:
        before, after = change.before, change.after
        if before is None or after is None or after.state is not AlertState.FIRING:
            return False
        return before.sentence != after.sentence and now - self._written_at.get(change.key, 0.0) > REFRESH_S

    async def _write(self) -> None:
        """In their order. While the broker is away they wait."""
        while self._unwritten:
            try:
                await self._write_one(self._unwritten[0])
            except YardError as error:
                log.warning("alerts_wait", changes=len(self._unwritten), reason=error.message)
                return
            except (TimeoutError, nats.errors.Error) as error:
                log.warning("alerts_wait", changes=len(self._unwritten), reason=str(error))
                return
            self._unwritten.popleft()

    async def _write_one(self, change: Change) -> None:
        self._written_at[change.key] = time.time()
        if change.after is None:
            await self._store.delete(change.key)
            self._written_at.pop(change.key, None)
        elif change.is_told:
            await self._put(change.key, _replace(change.after, published=False))
            await self._tell(change.key, change.after)
        else:
            await self._put(change.key, change.after)

    async def _tell(self, key: str, alert: Alert) -> None:
        told = _replace(alert, published=True)
        await self._bus.emit(
            subjects.ALERT_CHANGED,
            told,
            event_id=_event_id(alert),
            timeout_s=_TIMEOUT_S,
            alert=alert.alert,
            state=alert.state,
        )
        await self._put(key, told)
        log.info(f"alert_{alert.state}", rule=alert.rule, alert=alert.alert, sentence=alert.sentence)

    async def _tell_once(self, key: str, alert: Alert) -> None:
        """An event that was stored longer ago than the broker remembers ids is not told a second time."""
        if await self._is_stored(alert):
            await self._put(key, _replace(alert, published=True))
        else:
            await self._tell(key, alert)

    async def _put(self, key: str, alert: Alert) -> None:
        ttl_s = int(RESOLVED_KEPT_S) if alert.state is AlertState.RESOLVED else None
        await self._store.put(key, alert, ttl_s=ttl_s)

    async def _is_stored(self, alert: Alert) -> bool:
        """Whether the stream has its event."""
        subject = subjects.ALERT_CHANGED(alert=alert.alert, state=alert.state)
        try:
            last = await self._bus.js.get_last_msg(streams.EVENTS.name, subject, direct=True)
        except nats.js.errors.NotFoundError:
            return False
        return (last.headers or {}).get("ce-id") == _event_id(alert)


def _event_id(alert: Alert) -> str:
    """One for each state; firing under a silence and without one are two."""
    return f"{alert.alert}.{alert.state}" + (".silenced" if alert.silenced else "")
