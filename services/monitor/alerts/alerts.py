"""Alerts of the yard: evaluated periodically, stored before their events are published; the `alert` commands.

An alert is stored, then its event, then a mark that the event is published. A death in between leaves a
record without the mark; the id of the event follows from alert and state, so a repeated one is deduplicated.
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
from modelyard.bus.micro import Commands
from modelyard.bus.reads import read_bucket
from modelyard.bus.records import BucketStore, Records
from modelyard.bus.tasks import Tasks
from schemas import buckets, streams, subjects
from schemas.alerts import (
    Alert,
    AlertList,
    AlertRuleEvaluated,
    AlertState,
    EvaluateAlertRule,
    EvaluatedSeries,
    ListAlerts,
    Silence,
    SilenceAlerts,
)
from schemas.errors import BadRequest, YardError
from schemas.metrics import Sample
from services.monitor.alerts.defaults import DEFAULTS
from services.monitor.alerts.evaluation import (
    MAX_SERIES,
    RESOLVED_RETENTION_S,
    AlertTransition,
    evaluate,
    sentence,
    series_of,
    threshold_exceeded,
)
from services.monitor.alerts.rules import AlertRules, Silences

log = logs.get(__name__)

PERIOD_S = 5.0
REFRESH_S = 30.0
"""The shortest time between two writes of a firing alert whose value changes."""
_TIMEOUT_S = 2.0
_replace = msgspec.structs.replace


class Alerts:
    """The alerts of the whole yard, in the monitor of its first machine."""

    def __init__(
        self,
        bus: Bus,
        rules: AlertRules,
        silences: Silences,
        samples: Callable[[], Iterable[Sample]],
        period_s: float = PERIOD_S,
    ) -> None:
        self._bus = bus
        self.rules = rules
        self._silences = silences
        self._samples = samples
        self._period_s = period_s
        self._store = BucketStore(bus, buckets.ALERT_STATES)
        self._states: dict[str, Alert] = {}
        self._written_at: dict[str, float] = {}
        self._unwritten: collections.deque[AlertTransition] = collections.deque()
        self._wake = asyncio.Event()

    @classmethod
    async def open(
        cls, bus: Bus, tasks: Tasks, samples: Callable[[], Iterable[Sample]], period_s: float = PERIOD_S
    ) -> "Alerts":
        """With the stored states; events that may be missing are published."""
        rules = await Records.start(bus, buckets.ALERTS, tasks, "alert rule", defaults=DEFAULTS)
        silences = await Records.start(bus, buckets.SILENCES, tasks, "silence")
        alerts = cls(bus, AlertRules(rules), Silences(silences), samples, period_s)
        rules.cache.listen(lambda _key, _rule: alerts._wake.set())
        silences.cache.listen(lambda _key, _silence: alerts._wake.set())
        await alerts._restore()
        return alerts

    async def _restore(self) -> None:
        now = time.time()
        stored = await read_bucket(self._bus, buckets.ALERT_STATES)
        # Nothing was sampled during the downtime: a metric counts as missing only from now on.
        self._states = {key: _replace(alert, seen_at=now) for key, alert in stored.items()}
        for key, alert in stored.items():
            if not alert.published:
                await self._publish_if_missing(key, alert)

    async def serve(self, commands: Commands) -> None:
        await commands.add(subjects.ALERT_LIST, self.list)
        await commands.add(subjects.ALERT_PUT, self.rules.put)
        await commands.add(subjects.ALERT_DELETE, self.rules.delete)
        await commands.add(subjects.ALERT_RESET, self.rules.reset)
        await commands.add(subjects.ALERT_SILENCE, self.silence)
        await commands.add(subjects.ALERT_UNSILENCE, self._silences.end)
        await commands.add(subjects.ALERT_TEST, self.test)

    async def run(self) -> None:
        """Evaluate periodically, and at once after a change of rules or silences, until cancelled."""
        while True:
            self._wake.clear()
            await self.evaluate()
            try:
                await asyncio.wait_for(self._wake.wait(), self._period_s)
            except TimeoutError:
                continue

    async def evaluate(self) -> None:
        now, samples = time.time(), self._samples()
        rules = self.rules.all().values()
        for transition in evaluate(rules, samples, self._states, now, self._silences.active()):
            self._apply(transition, now)
        await self._write()

    def _apply(self, transition: AlertTransition, now: float) -> None:
        if transition.after is None:
            self._states.pop(transition.key, None)
            self._written_at.pop(transition.key, None)
        else:
            self._states[transition.key] = transition.after
        if transition.is_significant or self._needs_refresh(transition, now):
            self._unwritten.append(transition)

    def _needs_refresh(self, transition: AlertTransition, now: float) -> bool:
        before, after = transition.before, transition.after
        if before is None or after is None or after.state is not AlertState.FIRING:
            return False
        changed = before.sentence != after.sentence
        return changed and now - self._written_at.get(transition.key, 0.0) > REFRESH_S

    async def _write(self) -> None:
        """Write in order; while the broker is away the transitions wait."""
        while self._unwritten:
            try:
                await self._write_transition(self._unwritten[0])
            except (YardError, TimeoutError, nats.errors.Error) as error:
                reason = error.message if isinstance(error, YardError) else str(error)
                log.warning("alerts_write_failed", transitions=len(self._unwritten), reason=reason)
                return
            self._unwritten.popleft()

    async def _write_transition(self, transition: AlertTransition) -> None:
        self._written_at[transition.key] = time.time()
        if transition.after is None:
            await self._store.delete(transition.key)
            self._written_at.pop(transition.key, None)
        elif transition.is_published:
            await self._put(transition.key, _replace(transition.after, published=False))
            await self._publish(transition.key, transition.after)
        else:
            await self._put(transition.key, transition.after)

    async def _publish(self, key: str, alert: Alert) -> None:
        published = _replace(alert, published=True)
        await self._bus.emit(
            subjects.ALERT_CHANGED,
            published,
            event_id=_event_id(alert),
            timeout_s=_TIMEOUT_S,
            alert=alert.alert,
            state=alert.state,
        )
        await self._put(key, published)
        log.info(f"alert_{alert.state}", rule=alert.rule, alert=alert.alert, sentence=alert.sentence)

    async def _publish_if_missing(self, key: str, alert: Alert) -> None:
        """The broker deduplicates only recent ids, so an older event is searched in the stream."""
        if await self._event_stored(alert):
            await self._put(key, _replace(alert, published=True))
        else:
            await self._publish(key, alert)

    async def _put(self, key: str, alert: Alert) -> None:
        ttl_s = int(RESOLVED_RETENTION_S) if alert.state is AlertState.RESOLVED else None
        await self._store.put(key, alert, ttl_s=ttl_s)

    async def _event_stored(self, alert: Alert) -> bool:
        subject = subjects.ALERT_CHANGED(alert=alert.alert, state=alert.state)
        try:
            last = await self._bus.js.get_last_msg(streams.EVENTS.name, subject, direct=True)
        except nats.js.errors.NotFoundError:
            return False
        return (last.headers or {}).get("ce-id") == _event_id(alert)

    async def list(self, _query: ListAlerts) -> AlertList:
        shown = [alert for alert in self._states.values() if alert.state is not AlertState.WATCHED]
        return AlertList(
            rules=self.rules.list(),
            alerts=tuple(sorted(shown, key=lambda alert: alert.changed_at, reverse=True)),
            silences=self._silences.active(),
        )

    async def silence(self, command: SilenceAlerts) -> Silence:
        """Begin a silence; NotFound for an unknown rule."""
        if command.rule is not None:
            self.rules.find(command.rule)
        return await self._silences.put(command)

    async def test(self, command: EvaluateAlertRule) -> AlertRuleEvaluated:
        """The series that a rule applies to now, each with its result."""
        rule = command.rule or (self.rules.find(command.name) if command.name else None)
        if rule is None:
            raise BadRequest("Name a rule, or give one.", param="name")
        samples = list(series_of(rule, self._samples()))[:MAX_SERIES]
        return AlertRuleEvaluated(
            series=tuple(
                EvaluatedSeries(
                    labels=sample.labels,
                    value=sample.value,
                    holds=threshold_exceeded(rule, sample.value, holding=False),
                    sentence=sentence(rule, sample.labels, sample.value),
                )
                for sample in samples
            )
        )


def _event_id(alert: Alert) -> str:
    """One id for each state; firing with and without a silence are two."""
    return f"{alert.alert}.{alert.state}" + (".silenced" if alert.silenced else "")
