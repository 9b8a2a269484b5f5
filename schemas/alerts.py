"""Alerts: rules over metrics, what they found, and silences.

`revision` in a request is what the caller saw, as in `schemas/registry.py`.
"""

import math
import re
from enum import StrEnum

import msgspec

from schemas.base import Record, check_token

MAX_SILENCE_S = 366 * 24 * 3600.0
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}")
_MAX_SENTENCE = 500


class Severity(StrEnum):
    """The severity of an alert."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Comparison(StrEnum):
    """On which side of its threshold a value is a matter for an alert."""

    ABOVE = ">"
    AT_LEAST = ">="
    BELOW = "<"
    AT_MOST = "<="


class AbsencePolicy(StrEnum):
    """An alert on the absence of a metric that existed before."""

    RESOLVE = "resolve"
    """Resolved: the thing that the alert was about no longer exists."""
    FIRE = "fire"
    """Fire: the metric must be present."""


class AlertState(StrEnum):
    """The state of an alert."""

    WATCHED = "watched"
    """The condition does not hold; stored only for rules on absent metrics."""
    PENDING = "pending"
    """The condition holds, for less than the rule's `for_s`."""
    FIRING = "firing"
    RESOLVED = "resolved"


class AlertRule(Record):
    """When to raise an alert, evaluated for every series of a metric."""

    name: str
    metric: str
    """Name of a sample, `yard_device_temperature_celsius`."""
    threshold: float
    comparison: Comparison = Comparison.ABOVE
    clear: float | None = None
    """Hysteresis: it holds on until the value is past this one; None: until it is past the threshold."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """Which series: each label as it must be; `*` is any text, a `!` before it what it must not be."""
    for_s: float = 0.0
    """How long the condition must hold before the alert fires."""
    severity: Severity = Severity.WARNING
    sentence: str = ""
    """For people; `{value}`, `{percent}` and `{label}` are filled in. Empty: made of the rule."""
    missing: AbsencePolicy = AbsencePolicy.RESOLVE
    missing_s: float = 60.0
    """How long a series must be absent before the alert is pending."""
    enabled: bool = True

    def __post_init__(self) -> None:
        check_token(self.name)
        if not _METRIC.fullmatch(self.metric):
            raise ValueError(f"{self.metric!r} is not the name of a metric")
        if not all(math.isfinite(number) for number in (self.threshold, self.clear or 0.0)):
            raise ValueError("threshold and clear are finite numbers")
        if not (0 <= self.for_s < math.inf and 0 < self.missing_s < math.inf):
            raise ValueError("for_s is 0 or more, missing_s above 0")
        if self.clear is not None and not self._clears():
            raise ValueError("clear must be on the good side of threshold")
        if len(self.sentence) > _MAX_SENTENCE:
            raise ValueError(f"a sentence has at most {_MAX_SENTENCE} characters")

    def _clears(self) -> bool:
        above = self.comparison in (Comparison.ABOVE, Comparison.AT_LEAST)
        clear = self.clear or 0.0
        return clear <= self.threshold if above else clear >= self.threshold


class Alert(Record):
    """The state of a rule for one series."""

    alert: str
    """Id of this one time; the next time of the same series has another."""
    rule: str
    labels: dict[str, str]
    """Labels of the series."""
    state: AlertState
    severity: Severity
    sentence: str
    value: float | None
    """None: the metric is absent."""
    since: float
    """Unix seconds since which the condition holds, or held."""
    changed_at: float
    seen_at: float
    """When the metric was last there."""
    fired_at: float | None = None
    silenced: str | None = None
    """The silence that mutes it."""
    announced: bool = False
    """Its firing was published while no silence matched, so its resolution is published too."""
    published: bool = True
    """The event of its state is stored; False between the two writes."""


class RuleRecord(Record):
    """A rule as it holds now."""

    rule: AlertRule
    revision: int
    """0: as it was shipped."""
    default: bool = False
    """A shipped rule, changed or not; `reset` restores it."""


class Silence(Record):
    """Alerts that are muted for a while; they stay visible."""

    silence: str
    until: float
    """Unix seconds."""
    reason: str
    created_at: float
    rule: str | None = None
    """None: of every rule."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """Labels to match, as in a rule."""


class PutAlertRule(AlertRule):
    """A rule, new or in place of the one of its name."""

    revision: int | None = None


class AlertRuleRef(Record):
    """Which rule."""

    name: str
    revision: int | None = None


class AlertRuleStored(Record):
    """The rule as it is stored or deleted; `revision` 0: the shipped default."""

    name: str
    revision: int


class ListAlerts(Record):
    """All rules, alerts and silences."""


class AlertList(Record):
    """Rules by name, alerts the newest first, silences by their end."""

    rules: tuple[RuleRecord, ...]
    alerts: tuple[Alert, ...]
    silences: tuple[Silence, ...]


class SilenceAlerts(Record):
    """Be quiet about these alerts for `for_s` seconds."""

    for_s: float
    reason: str
    rule: str | None = None
    """Only alerts of this rule; None: of every rule."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """Only alerts with these labels."""


class SilenceRef(Record):
    """Which silence."""

    silence: str


class EvaluateAlertRule(Record):
    """Evaluates a rule now: the stored one of this name, or one that is not stored."""

    name: str | None = None
    rule: AlertRule | None = None


class EvaluatedSeries(Record):
    """One series that the rule is about."""

    labels: dict[str, str]
    value: float
    holds: bool
    """Whether it is past the threshold now."""
    sentence: str


class AlertRuleEvaluated(Record):
    """The series that match the rule now; empty: no such metric exists."""

    series: tuple[EvaluatedSeries, ...]
