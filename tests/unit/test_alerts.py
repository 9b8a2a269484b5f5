"""Alert rules judged: thresholds, time, hysteresis, missing series, silences, restarts."""

import msgspec
import pytest

from schemas.alerts import Alert, AlertRule, AlertState, Comparison, Missing, Silence
from schemas.metrics import Sample
from services.monitor.alerts.defaults import DEFAULTS
from services.monitor.alerts.evaluate import FORGOTTEN_S, MAX_SERIES, RESOLVED_KEPT_S, evaluate
from services.monitor.alerts.matching import labels_match, past, sentence, series_key

HOT = AlertRule(
    name="hot", metric="temperature", threshold=90, clear=85, for_s=10, sentence="{node}: {value}"
)
THERE = AlertRule(
    name="there", metric="up", threshold=1, comparison=Comparison.BELOW, missing=Missing.FIRE, missing_s=30
)


class Yard:
    """Evaluates again and again, as the keeper does."""

    def __init__(self, *rules: AlertRule) -> None:
        self.rules = list(rules)
        self.states: dict[str, Alert] = {}
        self.silences: list[Silence] = []
        self.told: list[tuple[float, AlertState]] = []

    def at(self, now: float, *samples: Sample) -> list[AlertState]:
        for change in evaluate(self.rules, samples, self.states, now, self.silences):
            if change.after is None:
                del self.states[change.key]
            else:
                self.states[change.key] = change.after
            if change.is_told and change.after is not None:
                self.told.append((now, change.after.state))
        return [alert.state for alert in self.states.values()]

    @property
    def only(self) -> Alert:
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
def test_each_comparison_knows_its_edge(comparison: str, value: float, expected: bool) -> None:
    rule = AlertRule(name="r", metric="m", threshold=90, comparison=Comparison(comparison))
    assert past(rule, value, holding=False) is expected


@pytest.mark.parametrize(
    ("wanted", "labels", "expected"),
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
def test_labels_match_as_they_are_written(
    wanted: dict[str, str], labels: dict[str, str], expected: bool
) -> None:
    assert labels_match(wanted, labels) is expected


def test_it_fires_after_its_time_and_resolves_past_clear_only() -> None:
    yard = Yard(HOT)
    assert yard.at(0, hot(80)) == []
    assert yard.at(1, hot(91)) == [AlertState.PENDING]
    assert yard.at(10, hot(92)) == [AlertState.PENDING]
    assert yard.at(11, hot(92)) == [AlertState.FIRING]
    assert (yard.only.since, yard.only.fired_at, yard.only.sentence) == (1, 11, "a: 92")
    assert yard.at(12, hot(87)) == [AlertState.FIRING], "below the threshold, but not past clear"
    assert yard.at(13, hot(85)) == [AlertState.RESOLVED]
    assert [state for _, state in yard.told] == [AlertState.PENDING, AlertState.FIRING, AlertState.RESOLVED]


def test_a_peak_that_passes_fires_nothing() -> None:
    yard = Yard(HOT)
    yard.at(1, hot(91))
    assert yard.at(5, hot(80)) == []
    assert yard.at(11, hot(91)) == [AlertState.PENDING], "its time begins anew"


def test_without_for_it_fires_at_once_and_is_told_once() -> None:
    yard = Yard(msgspec.structs.replace(HOT, for_s=0))
    for now in (1, 2, 3):
        assert yard.at(now, hot(91)) == [AlertState.FIRING]
    assert yard.told == [(1, AlertState.FIRING)]


def test_every_series_is_judged_by_itself() -> None:
    yard = Yard(msgspec.structs.replace(HOT, for_s=0))
    yard.at(1, hot(91, "a"), hot(91, "b"), hot(20, "c"))
    yard.at(2, hot(20, "a"), hot(91, "b"), hot(20, "c"))
    states = {alert.labels["node"]: alert.state for alert in yard.states.values()}
    assert states == {"a": AlertState.RESOLVED, "b": AlertState.FIRING}


def test_the_next_time_is_another_alert() -> None:
    yard = Yard(msgspec.structs.replace(HOT, for_s=0))
    yard.at(1, hot(91))
    first = yard.only.alert
    yard.at(2, hot(20))
    assert yard.only.alert == first
    yard.at(3, hot(91))
    assert yard.only.alert != first


@pytest.mark.parametrize("value", [float("nan")])
def test_what_is_not_a_number_is_no_sample(value: float) -> None:
    yard = Yard(msgspec.structs.replace(HOT, for_s=0))
    yard.at(1, hot(91))
    assert yard.at(2, hot(value)) == [AlertState.FIRING]
    assert yard.at(70, hot(value)) == [AlertState.RESOLVED], "as if the sensor were gone"


def test_a_series_that_vanishes_resolves_after_a_while() -> None:
    yard = Yard(msgspec.structs.replace(HOT, for_s=0, missing_s=30))
    yard.at(0, hot(91))
    assert yard.at(29) == [AlertState.FIRING]
    assert yard.at(30) == [AlertState.RESOLVED]
    yard = Yard(HOT)
    yard.at(0, hot(91))
    assert yard.at(100) == [], "one that only pends is forgotten"
    assert [state for _, state in yard.told] == [AlertState.PENDING]


def test_a_series_that_must_not_vanish_fires() -> None:
    yard = Yard(THERE)
    assert yard.at(0) == [], "one that was never there is not missed"
    assert yard.at(1, UP) == [AlertState.WATCHED]
    assert yard.at(30) == [AlertState.WATCHED]
    assert yard.at(31) == [AlertState.FIRING]
    assert (yard.only.value, yard.only.sentence) == (None, 'up{node="a"} is not there any more.')
    assert yard.at(40, UP) == [AlertState.RESOLVED]
    assert yard.at(80) == [AlertState.FIRING], "again"
    assert yard.told == [(31, AlertState.FIRING), (40, AlertState.RESOLVED), (80, AlertState.FIRING)]


def test_what_is_gone_for_good_is_forgotten_and_stays_so() -> None:
    yard = Yard(THERE)
    yard.at(0, UP)
    yard.at(31)
    assert yard.at(FORGOTTEN_S + 1) == [AlertState.RESOLVED]
    assert yard.at(FORGOTTEN_S + 500) == [AlertState.RESOLVED]
    assert yard.at(FORGOTTEN_S + RESOLVED_KEPT_S + 2) == []
    assert len(yard.told) == 2


@pytest.mark.parametrize("rules", [[], [msgspec.structs.replace(HOT, enabled=False)]], ids=["gone", "off"])
def test_a_rule_that_is_gone_or_off_ends_its_alerts(rules: list[AlertRule]) -> None:
    yard = Yard(msgspec.structs.replace(HOT, for_s=0))
    yard.at(1, hot(91))
    yard.rules = rules
    assert yard.at(2, hot(91)) == [AlertState.RESOLVED]


def test_a_rule_that_is_changed_judges_anew() -> None:
    yard = Yard(msgspec.structs.replace(HOT, for_s=0))
    yard.at(1, hot(91))
    yard.rules = [msgspec.structs.replace(HOT, threshold=95, clear=94)]
    assert yard.at(2, hot(91)) == [AlertState.RESOLVED]


def test_what_is_over_is_shown_for_a_day() -> None:
    yard = Yard(msgspec.structs.replace(HOT, for_s=0))
    yard.at(0, hot(91))
    yard.at(1, hot(20))
    assert yard.at(RESOLVED_KEPT_S, hot(20)) == [AlertState.RESOLVED]
    assert yard.at(RESOLVED_KEPT_S + 2, hot(20)) == []


def test_the_same_times_give_the_same_alert() -> None:
    """Who evaluates again what another died over tells the same event."""
    (one,) = evaluate([HOT], [hot(91)], {}, 5.0)
    (other,) = evaluate([HOT], [hot(91)], {}, 5.0)
    assert one == other


def silence(**more: object) -> Silence:
    fields = {"silence": "s1", "until": 100.0, "reason": "r", "created_at": 0.0, **more}
    return msgspec.convert(fields, Silence)


@pytest.mark.parametrize(
    ("given", "quiet"),
    [
        (silence(rule="hot"), True),
        (silence(rule="other"), False),
        (silence(labels={"node": "a"}), True),
        (silence(labels={"node": "b"}), False),
        (silence(rule="hot", labels={"node": "!b"}), True),
        (silence(rule="hot", until=1.0), False),
    ],
)
def test_a_silence_covers_what_it_names(given: Silence, quiet: bool) -> None:
    yard = Yard(msgspec.structs.replace(HOT, for_s=0))
    yard.silences = [given]
    yard.at(2, hot(91))
    assert (yard.only.silenced == "s1", yard.only.announced) == (quiet, not quiet)


def test_what_still_fires_when_a_silence_ends_is_told_then() -> None:
    yard = Yard(msgspec.structs.replace(HOT, for_s=0))
    yard.silences = [silence(rule="hot")]
    yard.at(1, hot(91))
    yard.at(50, hot(91))
    yard.at(101, hot(91))
    assert yard.told == [(1, AlertState.FIRING), (101, AlertState.FIRING)]
    assert (yard.only.silenced, yard.only.announced) == (None, True)


def test_the_end_is_told_to_who_heard_the_beginning_and_to_nobody_else() -> None:
    told = Yard(msgspec.structs.replace(HOT, for_s=0))
    told.at(1, hot(91))
    told.silences = [silence(rule="hot")]
    told.at(2, hot(91))
    assert (told.only.silenced, told.told) == ("s1", [(1, AlertState.FIRING)]), "silencing is no news"
    told.at(3, hot(20))
    assert told.only.silenced is None
    quiet = Yard(msgspec.structs.replace(HOT, for_s=0))
    quiet.silences = [silence(rule="hot")]
    quiet.at(1, hot(91))
    quiet.at(2, hot(20))
    assert quiet.only.silenced == "s1"


def test_a_metric_with_too_many_series_costs_a_bounded_effort() -> None:
    yard = Yard(msgspec.structs.replace(HOT, for_s=0))
    yard.at(1, *(hot(91, f"n{number}") for number in range(MAX_SERIES + 50)))
    assert len(yard.states) == MAX_SERIES


@pytest.mark.parametrize("rule", DEFAULTS.values(), ids=DEFAULTS)
def test_every_shipped_rule_says_a_sentence(rule: AlertRule) -> None:
    labels = dict.fromkeys(("node", "device", "path", "model", "budget"), "x")
    said = sentence(rule, labels, 0.5)
    assert "?" not in said
    assert "{" not in said
    assert said.endswith(".")


def test_a_sentence_is_no_program() -> None:
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
def test_a_rule_that_makes_no_sense_is_none(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "r", "metric": "m", "threshold": 90, **wrong}, AlertRule)


def test_series_are_told_apart() -> None:
    keys = {
        series_key("r", {"a": "b"}),
        series_key("r", {"a": "c"}),
        series_key("r", {"ab": ""}),
        series_key("ra", {"b": ""}),
        series_key("r", {}),
    }
    assert len(keys) == 5
    assert series_key("r", {"a": "1", "b": "2"}) == series_key("r", {"b": "2", "a": "1"})
