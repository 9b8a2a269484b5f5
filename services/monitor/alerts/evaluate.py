"""What follows from rules, samples and what was before. Pure: the clock comes as a number."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from schemas.alerts import Alert, AlertRule, AlertState, Missing, Silence
from schemas.metrics import Sample
from services.monitor.alerts.matching import labels_match, past, sentence, series_key, series_of

MAX_SERIES = 500
"""More series of one rule than this are not looked at."""
RESOLVED_KEPT_S = 24 * 3600.0
"""How long an alert that is over is shown."""
FORGOTTEN_S = 24 * 3600.0
"""A metric that should be there and was not for so long is not expected any more."""
_S = AlertState
_HOLDING = (_S.PENDING, _S.FIRING)
_replace = msgspec.structs.replace


class Change(NamedTuple):
    """One series before and after; None: there is nothing to remember of it."""

    key: str
    before: Alert | None
    after: Alert | None

    @property
    def is_step(self) -> bool:
        """Whether more is different than its value."""
        return _step(self.before) != _step(self.after)

    @property
    def is_told(self) -> bool:
        """Whether it is worth an event: another state, or the end of a silence over it."""
        before, after = self.before, self.after
        if after is None or after.state is _S.WATCHED:
            return False
        same = before is not None and (before.alert, before.state) == (after.alert, after.state)
        return not same or (before is not None and after.announced and not before.announced)


def _step(alert: Alert | None) -> tuple[object, ...]:
    return () if alert is None else (alert.alert, alert.state, alert.silenced, alert.announced)


def evaluate(
    rules: Iterable[AlertRule],
    samples: Iterable[Sample],
    states: Mapping[str, Alert],
    now: float,
    silences: Iterable[Silence] = (),
) -> list[Change]:
    """Every series that is not as it was. `states` has the alerts by the key of their series."""
    active = {rule.name: rule for rule in rules if rule.enabled}
    known = _by_name(samples)
    after: dict[str, Alert | None] = {}
    for rule in active.values():
        for sample in itertools.islice(series_of(rule, known.get(rule.metric, ())), MAX_SERIES):
            key = series_key(rule.name, sample.labels)
            after[key] = _judged(rule, sample, states.get(key), key, now)
    for key, before in states.items():
        if key not in after:
            after[key] = _absent(active.get(before.rule), before, key, now)
    quiet = tuple(silence for silence in silences if silence.until > now)
    changes = [
        Change(key, states.get(key), _hushed(states.get(key), alert, quiet)) for key, alert in after.items()
    ]
    return [change for change in changes if change.before != change.after]


def _by_name(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.name, []).append(sample)
    return found


def _judged(rule: AlertRule, sample: Sample, before: Alert | None, key: str, now: float) -> Alert | None:
    """A series that is there."""
    holding = before is not None and before.state in _HOLDING
    if past(rule, sample.value, holding=holding):
        live = before if before is not None and holding else _begun(rule, sample.labels, key, now)
        return _held(rule, _now(rule, live, sample.value, now), now)
    if before is not None and before.state is _S.FIRING:
        return _ended(_now(rule, before, sample.value, now), now)
    if before is not None and before.state is _S.RESOLVED and not _outdated(before, now):
        return _replace(before, seen_at=now)
    if rule.missing is Missing.FIRE:
        watched = before if before is not None and before.state is _S.WATCHED else None
        watched = watched or _begun(rule, sample.labels, key, now)
        return _replace(_now(rule, watched, sample.value, now), state=_S.WATCHED)
    return None


def _absent(rule: AlertRule | None, before: Alert, key: str, now: float) -> Alert | None:
    """A series that is not there, or whose rule is not."""
    if before.state is _S.RESOLVED and _outdated(before, now):
        return None
    if rule is not None and now - before.seen_at < rule.missing_s:
        return before
    if rule is None or rule.missing is Missing.RESOLVE:
        if before.state is _S.RESOLVED:
            return before
        return _ended(before, now) if before.state is _S.FIRING else None
    if before.value is None:
        forgotten = before.state is _S.FIRING and now - before.seen_at > FORGOTTEN_S
        return _ended(before, now) if forgotten else before
    live = before if before.state in _HOLDING else _begun(rule, before.labels, key, now)
    gone = _replace(live, value=None, sentence=sentence(rule, before.labels, None), seen_at=before.seen_at)
    return _fired(gone, now)


def _begun(rule: AlertRule, labels: dict[str, str], key: str, now: float) -> Alert:
    # The same times give the same id, so that this stays a pure function.
    name = hashlib.sha256(f"{key} {now!r}".encode()).hexdigest()[:16]
    return Alert(
        alert=name,
        rule=rule.name,
        labels=labels,
        state=_S.PENDING,
        severity=rule.severity,
        sentence="",
        value=None,
        since=now,
        changed_at=now,
        seen_at=now,
    )


def _now(rule: AlertRule, alert: Alert, value: float, now: float) -> Alert:
    said = sentence(rule, alert.labels, value)
    return _replace(alert, value=value, sentence=said, severity=rule.severity, seen_at=now)


def _held(rule: AlertRule, alert: Alert, now: float) -> Alert:
    return _fired(alert, now) if now - alert.since >= rule.for_s else alert


def _fired(alert: Alert, now: float) -> Alert:
    if alert.state is _S.FIRING:
        return alert
    return _replace(alert, state=_S.FIRING, fired_at=now, changed_at=now)


def _ended(alert: Alert, now: float) -> Alert:
    return _replace(alert, state=_S.RESOLVED, changed_at=now)


def _outdated(alert: Alert, now: float) -> bool:
    return now - alert.changed_at > RESOLVED_KEPT_S


def _hushed(before: Alert | None, after: Alert | None, silences: tuple[Silence, ...]) -> Alert | None:
    """With the silence that keeps it quiet. The end of what was told is told, whatever is silent by then."""
    if after is None or after.state not in (_S.FIRING, _S.RESOLVED):
        return after
    if after.state is _S.RESOLVED:
        return _replace(after, silenced=None) if after.announced else after
    silence = next((each.silence for each in silences if _covers(each, after)), None)
    # Once told it stays told: a silence that comes later changes only what is shown.
    return _replace(after, silenced=silence, announced=after.announced or silence is None)


def _covers(silence: Silence, alert: Alert) -> bool:
    return silence.rule in (None, alert.rule) and labels_match(silence.labels, alert.labels)
