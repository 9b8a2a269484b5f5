"""Evaluation of alert rules: thresholds, time, hysteresis, missing series, silences, restarts."""

import msgspec
import pytest

from schemas.alerts import AbsencePolicy, Alert, AlertRule, AlertState, Comparison, Silence
from schemas.metrics import Sample
from services.monitor.alerts.defaults import DEFAULTS
from services.monitor.alerts.evaluation import (
    MAX_SERIES,
    MISSING_RETENTION_S,
    RESOLVED_RETENTION_S,
    evaluate,
    labels_match,
    sentence,
    series_key,
    threshold_exceeded,
)

HOT = AlertRule(
    name="hot", metric="temperature", threshold=90, clear=85, for_s=10, sentence="{node}: {value}"
)
UP_EXPECTED = AlertRule(
    name="up-expected",
    metric="up",
    threshold=1,
    comparison=Comparison.BELOW,
    missing=AbsencePolicy.FIRE,
    missing_s=30,
)


class AlertHistory:
    """Evaluates repeatedly and keeps the states, as the service does."""

    def __init__(self, *rules: AlertRule) -> None:
        self.rules = list(rules)
        self.states: dict[str, Alert] = {}
        self.silences: list[Silence] = []
        self.published: list[tuple[float, AlertState]] = []

    def at(self, now: float, *samples: Sample) -> list[AlertState]:
        for transition in evaluate(self.rules, samples, self.states, now, self.silences):
            if transition.after is None:
                del self.states[transition.key]
            else:
                self.states[transition.key] = transition.after
            if transition.is_published and transition.after is not None:
                self.published.append((now, transition.after.state))
        return [alert.state for alert in self.states.values()]

    @property
    def alert(self) -> Alert:
        (alert,) = self.states.values()
        return alert


def hot(value: float, node: str = "a") -> Sample:
    return Sample(name="temperature", value=value, labels={"node": node})


UP = Sample(name="up", value=1.0, labels={"node": "a"})


@pytest.mark.parametrize(
    ("comparison", "value", "expected"),
    [
        (">", 90.0, False),
        (">", 90.1, True),
        (">=", 90.0, True),
        (">=", 89.9, False),
        ("<", 90.0, False),
        ("<", 89.9, True),
        ("<=", 90.0, True),
        ("<=", 90.1, False),
        (">", float("inf"), True),
        ("<", float("-inf"), True),
    ],
)
def test_comparisons_at_the_threshold(comparison: str, value: float, expected: bool) -> None:
    rule = AlertRule(name="r", metric="m", threshold=90, comparison=Comparison(comparison))
    assert threshold_exceeded(rule, value, holding=False) is expected


@pytest.mark.parametrize(
    ("patterns", "labels", "expected"),
    [
        ({}, {"node": "a"}, True),
        ({"node": "a"}, {"node": "a", "device": "cpu"}, True),
        ({"node": "a"}, {"node": "b"}, False),
        ({"node": "a"}, {}, False),
        ({"device": "GPU-*"}, {"device": "GPU-5a1c"}, True),
        ({"device": "!cpu"}, {"device": "GPU-5a1c"}, True),
        ({"device": "!cpu"}, {"device": "cpu"}, False),
        ({"device": "!GPU-*"}, {"device": "GPU-1"}, False),
        ({"model": "a[1]"}, {"model": "a[1]"}, True),
        ({"model": "a[1]"}, {"model": "a1"}, False),
        ({"model": "a?"}, {"model": "ab"}, False),
    ],
)
def test_label_patterns(patterns: dict[str, str], labels: dict[str, str], expected: bool) -> None:
    assert labels_match(patterns, labels) is expected


def test_an_alert_fires_after_for_s_and_resolves_past_clear() -> None:
    history = AlertHistory(HOT)
    assert history.at(0, hot(80)) == []
    assert history.at(1, hot(91)) == [AlertState.PENDING]
    assert history.at(10, hot(92)) == [AlertState.PENDING]
    assert history.at(11, hot(92)) == [AlertState.FIRING]
    assert (history.alert.since, history.alert.fired_at, history.alert.sentence) == (1, 11, "a: 92")
    assert history.at(12, hot(87)) == [AlertState.FIRING], (
        "below the threshold, but not threshold_exceeded clear"
    )
    assert history.at(13, hot(85)) == [AlertState.RESOLVED]
    assert [state for _, state in history.published] == [
        AlertState.PENDING,
        AlertState.FIRING,
        AlertState.RESOLVED,
    ]


def test_a_short_peak_does_not_fire() -> None:
    history = AlertHistory(HOT)
    history.at(1, hot(91))
    assert history.at(5, hot(80)) == []
    assert history.at(11, hot(91)) == [AlertState.PENDING], "its time starts again"


def test_without_for_s_an_alert_fires_at_once_and_is_published_once() -> None:
    history = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    for now in (1, 2, 3):
        assert history.at(now, hot(91)) == [AlertState.FIRING]
    assert history.published == [(1, AlertState.FIRING)]


def test_series_are_evaluated_separately() -> None:
    history = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    history.at(1, hot(91, "a"), hot(91, "b"), hot(20, "c"))
    history.at(2, hot(20, "a"), hot(91, "b"), hot(20, "c"))
    states = {alert.labels["node"]: alert.state for alert in history.states.values()}
    assert states == {"a": AlertState.RESOLVED, "b": AlertState.FIRING}


def test_a_new_firing_has_a_new_alert_id() -> None:
    history = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    history.at(1, hot(91))
    first = history.alert.alert
    history.at(2, hot(20))
    assert history.alert.alert == first
    history.at(3, hot(91))
    assert history.alert.alert != first


@pytest.mark.parametrize("value", [float("nan")])
def test_nan_is_not_a_sample(value: float) -> None:
    history = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    history.at(1, hot(91))
    assert history.at(2, hot(value)) == [AlertState.FIRING]
    assert history.at(70, hot(value)) == [AlertState.RESOLVED], "as if the sensor were missing"


def test_a_missing_series_resolves_after_missing_s() -> None:
    history = AlertHistory(msgspec.structs.replace(HOT, for_s=0, missing_s=30))
    history.at(0, hot(91))
    assert history.at(29) == [AlertState.FIRING]
    assert history.at(30) == [AlertState.RESOLVED]
    history = AlertHistory(HOT)
    history.at(0, hot(91))
    assert history.at(100) == [], "a pending one is removed"
    assert [state for _, state in history.published] == [AlertState.PENDING]


def test_a_missing_series_fires_with_missing_fire() -> None:
    history = AlertHistory(UP_EXPECTED)
    assert history.at(0) == [], "a series that never existed is not missing"
    assert history.at(1, UP) == [AlertState.WATCHED]
    assert history.at(30) == [AlertState.WATCHED]
    assert history.at(31) == [AlertState.FIRING]
    assert (history.alert.value, history.alert.sentence) == (None, 'up{node="a"} is not there any more.')
    assert history.at(40, UP) == [AlertState.RESOLVED]
    assert history.at(80) == [AlertState.FIRING], "again"
    assert history.published == [(31, AlertState.FIRING), (40, AlertState.RESOLVED), (80, AlertState.FIRING)]


def test_a_series_missing_for_a_day_resolves_and_expires() -> None:
    history = AlertHistory(UP_EXPECTED)
    history.at(0, UP)
    history.at(31)
    assert history.at(MISSING_RETENTION_S + 1) == [AlertState.RESOLVED]
    assert history.at(MISSING_RETENTION_S + 500) == [AlertState.RESOLVED]
    assert history.at(MISSING_RETENTION_S + RESOLVED_RETENTION_S + 2) == []
    assert len(history.published) == 2


@pytest.mark.parametrize(
    "rules", [[], [msgspec.structs.replace(HOT, enabled=False)]], ids=["deleted", "disabled"]
)
def test_a_deleted_or_disabled_rule_resolves_its_alerts(rules: list[AlertRule]) -> None:
    history = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    history.at(1, hot(91))
    history.rules = rules
    assert history.at(2, hot(91)) == [AlertState.RESOLVED]


def test_a_changed_rule_is_evaluated_at_once() -> None:
    history = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    history.at(1, hot(91))
    history.rules = [msgspec.structs.replace(HOT, threshold=95, clear=94)]
    assert history.at(2, hot(91)) == [AlertState.RESOLVED]


def test_resolved_alerts_are_shown_for_a_day() -> None:
    history = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    history.at(0, hot(91))
    history.at(1, hot(20))
    assert history.at(RESOLVED_RETENTION_S, hot(20)) == [AlertState.RESOLVED]
    assert history.at(RESOLVED_RETENTION_S + 2, hot(20)) == []


def test_alert_ids_are_deterministic() -> None:
    """A repeated evaluation after a crash publishes the same event."""
    (first,) = evaluate([HOT], [hot(91)], {}, 5.0)
    (second,) = evaluate([HOT], [hot(91)], {}, 5.0)
    assert first == second


def silence(**more: object) -> Silence:
    fields = {"silence": "s1", "until": 100.0, "reason": "r", "created_at": 0.0, **more}
    return msgspec.convert(fields, Silence)


@pytest.mark.parametrize(
    ("given", "silenced"),
    [
        (silence(rule="hot"), True),
        (silence(rule="other"), False),
        (silence(labels={"node": "a"}), True),
        (silence(labels={"node": "b"}), False),
        (silence(rule="hot", labels={"node": "!b"}), True),
        (silence(rule="hot", until=1.0), False),
    ],
)
def test_a_silence_covers_its_rule_and_labels(given: Silence, silenced: bool) -> None:
    history = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    history.silences = [given]
    history.at(2, hot(91))
    assert (history.alert.silenced == "s1", history.alert.announced) == (silenced, not silenced)


def test_an_alert_firing_at_the_end_of_a_silence_is_published() -> None:
    history = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    history.silences = [silence(rule="hot")]
    history.at(1, hot(91))
    history.at(50, hot(91))
    history.at(101, hot(91))
    assert history.published == [(1, AlertState.FIRING), (101, AlertState.FIRING)]
    assert (history.alert.silenced, history.alert.announced) == (None, True)


def test_the_end_of_an_alert_is_published_if_its_start_was() -> None:
    announced = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    announced.at(1, hot(91))
    announced.silences = [silence(rule="hot")]
    announced.at(2, hot(91))
    assert (announced.alert.silenced, announced.published) == ("s1", [(1, AlertState.FIRING)]), (
        "a new silence is no event"
    )
    announced.at(3, hot(20))
    assert announced.alert.silenced is None
    silenced = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    silenced.silences = [silence(rule="hot")]
    silenced.at(1, hot(91))
    silenced.at(2, hot(20))
    assert silenced.alert.silenced == "s1"


def test_the_series_of_a_rule_are_limited() -> None:
    history = AlertHistory(msgspec.structs.replace(HOT, for_s=0))
    history.at(1, *(hot(91, f"n{number}") for number in range(MAX_SERIES + 50)))
    assert len(history.states) == MAX_SERIES


@pytest.mark.parametrize("rule", DEFAULTS.values(), ids=DEFAULTS)
def test_shipped_rules_have_sentences(rule: AlertRule) -> None:
    labels = dict.fromkeys(("node", "device", "path", "model", "budget"), "x")
    text = sentence(rule, labels, 0.5)
    assert "?" not in text
    assert "{" not in text
    assert text.endswith(".")


def test_placeholders_are_not_evaluated() -> None:
    rule = AlertRule(
        name="r", metric="m", threshold=1, sentence="{node.__class__} {value:>99999} {other} {a}"
    )
    assert sentence(rule, {"a": "{value}"}, 2) == "{node.__class__} {value:>99999} ? {value}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"metric": "a b"},
        {"threshold": float("nan")},
        {"for_s": -1},
        {"missing_s": 0},
        {"clear": 91},
        {"comparison": "<", "clear": 89},
        {"comparison": "=="},
        {"sentence": "x" * 501},
    ],
)
def test_invalid_rules_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "r", "metric": "m", "threshold": 90, **wrong}, AlertRule)


def test_series_keys_are_unique() -> None:
    keys = {
        series_key("r", {"a": "b"}),
        series_key("r", {"a": "c"}),
        series_key("r", {"ab": ""}),
        series_key("ra", {"b": ""}),
        series_key("r", {}),
    }
    assert len(keys) == 5
    assert series_key("r", {"a": "1", "b": "2"}) == series_key("r", {"b": "2", "a": "1"})
