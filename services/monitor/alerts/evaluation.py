"""Evaluation of alert rules: rules, samples and former states to transitions. Pure; the clock is a number."""

import fnmatch
import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from schemas.alerts import AbsencePolicy, Alert, AlertRule, AlertState, Comparison, Silence
from schemas.metrics import Sample

MAX_SERIES = 500
"""Series of one rule beyond this number are not evaluated."""
RESOLVED_RETENTION_S = 24 * 3600.0
"""How long a resolved alert is shown."""
MISSING_RETENTION_S = 24 * 3600.0
"""A metric that is missing for this long is not expected any more."""
_S = AlertState
_HOLDING = (_S.PENDING, _S.FIRING)
_PLACEHOLDER = re.compile(r"\{(\w{1,60})\}")
_MAX_LABEL = 200
_replace = msgspec.structs.replace


class AlertTransition(NamedTuple):
    """One series before and after; None: no state."""

    key: str
    before: Alert | None
    after: Alert | None

    @property
    def is_significant(self) -> bool:
        """Whether more than the value has changed."""
        return _identity(self.before) != _identity(self.after)

    @property
    def is_published(self) -> bool:
        """Whether it is worth an event: another state, or the end of a silence over it."""
        before, after = self.before, self.after
        if after is None or after.state is _S.WATCHED:
            return False
        same = before is not None and (before.alert, before.state) == (after.alert, after.state)
        return not same or (before is not None and after.announced and not before.announced)


def _identity(alert: Alert | None) -> tuple[object, ...]:
    return () if alert is None else (alert.alert, alert.state, alert.silenced, alert.announced)


def evaluate(
    rules: Iterable[AlertRule],
    samples: Iterable[Sample],
    states: Mapping[str, Alert],
    now: float,
    silences: Iterable[Silence] = (),
) -> list[AlertTransition]:
    """Every series whose state changes. `states` has the alerts by the key of their series."""
    enabled = {rule.name: rule for rule in rules if rule.enabled}
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    after: dict[str, Alert | None] = {}
    for rule in enabled.values():
        for sample in itertools.islice(series_of(rule, by_name.get(rule.metric, ())), MAX_SERIES):
            key = series_key(rule.name, sample.labels)
            after[key] = _evaluate_sample(rule, sample, states.get(key), key, now)
    for key, before in states.items():
        if key not in after:
            after[key] = _evaluate_missing(enabled.get(before.rule), before, key, now)
    active = tuple(silence for silence in silences if silence.until > now)
    transitions = [
        AlertTransition(key, states.get(key), _silenced(alert, active)) for key, alert in after.items()
    ]
    return [transition for transition in transitions if transition.before != transition.after]


def _evaluate_sample(
    rule: AlertRule, sample: Sample, before: Alert | None, key: str, now: float
) -> Alert | None:
    holding = before is not None and before.state in _HOLDING
    if threshold_exceeded(rule, sample.value, holding=holding):
        live = before if before is not None and holding else _pending(rule, sample.labels, key, now)
        live = _updated(rule, live, sample.value, now)
        return _fired(live, now) if now - live.since >= rule.for_s else live
    if before is not None and before.state is _S.FIRING:
        return _resolved(_updated(rule, before, sample.value, now), now)
    if before is not None and before.state is _S.RESOLVED and not _expired(before, now):
        return _replace(before, seen_at=now)
    if rule.missing is AbsencePolicy.FIRE:
        watched = before if before is not None and before.state is _S.WATCHED else None
        watched = watched or _pending(rule, sample.labels, key, now)
        return _replace(_updated(rule, watched, sample.value, now), state=_S.WATCHED)
    return None


def _evaluate_missing(rule: AlertRule | None, before: Alert, key: str, now: float) -> Alert | None:
    """A series without a sample, or without a rule."""
    if before.state is _S.RESOLVED and _expired(before, now):
        return None
    if rule is not None and now - before.seen_at < rule.missing_s:
        return before
    if rule is None or rule.missing is AbsencePolicy.RESOLVE:
        if before.state is _S.RESOLVED:
            return before
        return _resolved(before, now) if before.state is _S.FIRING else None
    if before.value is None:
        expired = before.state is _S.FIRING and now - before.seen_at > MISSING_RETENTION_S
        return _resolved(before, now) if expired else before
    live = before if before.state in _HOLDING else _pending(rule, before.labels, key, now)
    text = sentence(rule, before.labels, None)
    return _fired(_replace(live, value=None, sentence=text, seen_at=before.seen_at), now)


def _pending(rule: AlertRule, labels: dict[str, str], key: str, now: float) -> Alert:
    # The id follows from key and time, so that this stays a pure function.
    alert_id = hashlib.sha256(f"{key} {now!r}".encode()).hexdigest()[:16]
    return Alert(
        alert=alert_id,
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


def _updated(rule: AlertRule, alert: Alert, value: float, now: float) -> Alert:
    text = sentence(rule, alert.labels, value)
    return _replace(alert, value=value, sentence=text, severity=rule.severity, seen_at=now)


def _fired(alert: Alert, now: float) -> Alert:
    if alert.state is _S.FIRING:
        return alert
    return _replace(alert, state=_S.FIRING, fired_at=now, changed_at=now)


def _resolved(alert: Alert, now: float) -> Alert:
    return _replace(alert, state=_S.RESOLVED, changed_at=now)


def _expired(alert: Alert, now: float) -> bool:
    return now - alert.changed_at > RESOLVED_RETENTION_S


def _silenced(alert: Alert | None, silences: tuple[Silence, ...]) -> Alert | None:
    """With the silence that covers it. The end of an announced alert is published in spite of silences."""
    if alert is None or alert.state not in (_S.FIRING, _S.RESOLVED):
        return alert
    if alert.state is _S.RESOLVED:
        return _replace(alert, silenced=None) if alert.announced else alert
    silence = next((silence.silence for silence in silences if _covers(silence, alert)), None)
    # An announced alert stays announced: a later silence changes only what is shown.
    return _replace(alert, silenced=silence, announced=alert.announced or silence is None)


def _covers(silence: Silence, alert: Alert) -> bool:
    return silence.rule in (None, alert.rule) and labels_match(silence.labels, alert.labels)


def labels_match(patterns: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every label matches its pattern: `*` is any text, a leading `!` negates."""
    return all(_matches(pattern, labels.get(name, "")) for name, pattern in patterns.items())


def _matches(pattern: str, value: str) -> bool:
    plain = pattern.removeprefix("!")
    # Of fnmatch's wildcards only the star: names may contain the others.
    matched = fnmatch.fnmatchcase(value, plain.replace("[", "[[]").replace("?", "[?]"))
    return matched is not pattern.startswith("!")


def series_of(rule: AlertRule, samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples that a rule applies to, without NaN."""
    for sample in samples:
        if (
            sample.name == rule.metric
            and not math.isnan(sample.value)
            and labels_match(rule.labels, sample.labels)
        ):
            yield sample


def series_key(rule: str, labels: Mapping[str, str]) -> str:
    """The key of a series under a rule, also in the bucket."""
    text = "\0".join([rule, *(f"{name}\1{value}" for name, value in sorted(labels.items()))])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def threshold_exceeded(rule: AlertRule, value: float, *, holding: bool) -> bool:
    """Whether the value is past the threshold or, while an alert holds, not yet past `clear`."""
    if holding and rule.clear is not None:
        above = rule.comparison in (Comparison.ABOVE, Comparison.AT_LEAST)
        return value > rule.clear if above else value < rule.clear
    match rule.comparison:
        case Comparison.ABOVE:
            return value > rule.threshold
        case Comparison.AT_LEAST:
            return value >= rule.threshold
        case Comparison.BELOW:
            return value < rule.threshold
        case Comparison.AT_MOST:
            return value <= rule.threshold


def sentence(rule: AlertRule, labels: Mapping[str, str], value: float | None) -> str:
    """The sentence of a rule about one series; `value` None: the metric is missing."""
    if value is None:
        return f"{rule.metric}{format_labels(labels)} is not there any more."
    text = rule.sentence or (
        f"{rule.metric}{format_labels(labels)} is {{value}} ({rule.comparison} {rule.threshold:g})."
    )
    values = {**labels, "value": _number(value), "percent": _number(value * 100)}
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], "?")[:_MAX_LABEL], text)


def _number(value: float) -> str:
    """Three digits: `91.5`, `1234`."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_labels(labels: Mapping[str, str]) -> str:
    """In the notation of Prometheus: `{node="a"}`; empty without labels."""
    parts = ", ".join(f'{name}="{value[:_MAX_LABEL]}"' for name, value in sorted(labels.items()))
    return f"{{{parts}}}" if parts else ""
