"""A day of samples in bounded memory, and questions about it."""

import math
from array import array

import msgspec
import pytest

from schemas import subjects
from schemas.errors import BadRequest
from schemas.metrics import MetricsAnswer, MetricsQuery, Sample
from services.monitor.metrics.history import FULL_S, MOST_SERIES, SILENT_S, History, merged
from services.monitor.metrics.rings import LEVELS, NAN, Points, Ring, Track

HEAT = "yard_device_temperature_celsius"
COUNT = "yard_requests_total"
DAY = 86_400
NOW = 1_000_000 * 300.0


def heat(value: float, device: str = "d") -> Sample:
    return Sample(name=HEAT, value=value, labels={"node": "n", "device": device})


def ended(value: float) -> Sample:
    return Sample(name=COUNT, value=value, labels={"model": "m", "node": "n", "outcome": "ok"})


def asked(history: History, now: float, **query: object) -> MetricsAnswer:
    return history.query(MetricsQuery(**{"names": (HEAT,), **query}), now)  # type: ignore[arg-type]


def known(values: tuple[float | None, ...]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]


def test_a_step_has_its_smallest_mean_and_largest_value() -> None:
    history = History()
    for second in range(20):
        history.observe(NOW + second, [heat(40.0 + second)])
    answer = asked(history, NOW + 20, since=NOW)
    (series,) = answer.series
    assert (answer.since, answer.step_s) == (NOW, 10.0)
    assert series.labels == {"node": "n", "device": "d"}
    assert known(series.min) == [40.0, 50.0]
    assert known(series.avg) == [44.5, 54.5]
    assert known(series.max) == [49.0, 59.0]


def test_the_step_under_way_shows_as_far_as_it_is() -> None:
    history = History()
    history.observe(NOW + 1, [heat(50.0)])
    for step_s in (10.0, 60.0, 300.0):
        assert known(asked(history, NOW + 2, since=NOW, step_s=step_s).series[0].avg) == [50.0]
    history.observe(NOW + 3, [heat(60.0)])
    for step_s in (10.0, 60.0, 300.0):
        (series,) = asked(history, NOW + 4, since=NOW, step_s=step_s).series
        assert (known(series.avg), known(series.min)) == ([55.0], [50.0]), "a look changes nothing"


def test_longer_steps_say_the_same_as_the_short_ones_they_are_made_of() -> None:
    history = History()
    values = [40 + (7 * second) % 31 for second in range(1200)]
    for second, value in enumerate(values):
        history.observe(NOW + second, [heat(float(value))])
    for step_s in (10, 30, 60, 300, 600):
        (series,) = asked(history, NOW + 1199, since=NOW, step_s=float(step_s)).series
        parts = [values[begin : begin + step_s] for begin in range(0, 1200, step_s)]
        assert known(series.min) == [min(part) for part in parts]
        assert known(series.max) == [max(part) for part in parts]
        assert known(series.avg) == pytest.approx([sum(part) / len(part) for part in parts])


def test_what_was_not_sampled_is_nothing_and_not_zero() -> None:
    history = History()
    history.observe(NOW, [heat(50.0)])
    history.observe(NOW + 35, [heat(60.0)])
    (series,) = asked(history, NOW + 40, since=NOW).series
    encoded = msgspec.json.decode(subjects.METRICS_QUERY.encode_reply(asked(history, NOW + 40, since=NOW)))
    assert encoded["series"][0]["avg"] == [50.0, None, None, 60.0, None]
    assert math.isnan(series.avg[1] or 0.0)


def test_of_a_counter_the_increase_a_second_is_told_also_when_it_begins_anew() -> None:
    history = History()
    for second, total in enumerate([5, 10, 15, 20, 25, 30, 35, 40, 45, 50]):
        history.observe(NOW + second, [ended(float(total))])
    assert known(asked(history, NOW + 10, names=(COUNT,), since=NOW).series[0].avg) == [5.0]
    history.observe(NOW + 10, [ended(3.0)])
    (series,) = asked(history, NOW + 11, names=(COUNT,), since=NOW).series
    assert known(series.avg) == [5.0, 3.0]
    assert min(known(series.min)) >= 0.0


def test_a_counter_that_appears_while_we_look_began_at_zero() -> None:
    history = History()
    history.observe(NOW, [])
    history.observe(NOW + 1, [ended(60.0)])
    assert known(asked(history, NOW + 2, names=(COUNT,), since=NOW).series[0].max) == [60.0]


def test_a_day_is_told_in_about_300_points_and_no_more_than_a_day() -> None:
    history = History()
    for step in range(DAY // 10 + 500):
        history.observe(NOW + 10 * step, [heat(float(step))])
    now = NOW + DAY + 5000
    answer = asked(history, now, since=now - 10 * DAY)
    assert answer.step_s == 300.0
    assert len(answer.series[0].avg) in (288, 289)
    assert len(known(answer.series[0].avg)) >= 288
    assert asked(history, now, since=now - DAY, step_s=60.0).step_s == 60.0
    assert asked(history, now, since=now - DAY, step_s=10.0).step_s == 60.0, (
        "ten seconds are kept for two hours"
    )
    assert asked(history, now, since=now - 3600, step_s=10.0).step_s == 10.0


def test_series_are_chosen_by_their_labels() -> None:
    history = History()
    history.observe(NOW, [heat(1.0, "a"), heat(2.0, "b")])
    (series,) = asked(history, NOW, since=NOW, labels={"device": "b"}).series
    assert series.labels["device"] == "b"
    assert asked(history, NOW, since=NOW, labels={"device": "c"}).series == ()
    assert asked(history, NOW, since=NOW, labels={"nothing": "b"}).series == ()


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({"names": ()}, "at least one"),
        ({"names": ("yard_nothing",)}, "no metric 'yard_nothing'"),
        ({"names": ("yard_info",)}, "no history"),
        ({"since": NOW, "until": NOW - 1}, "before"),
        ({"since": float("nan")}, "before"),
        ({"step_s": 0.0}, "step_s"),
        ({"step_s": float("nan")}, "step_s"),
        ({"step_s": -1.0}, "step_s"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(query: dict[str, object], word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        asked(History(), NOW, **query)


def test_an_answer_that_no_message_could_carry_is_refused() -> None:
    history = History()
    history.observe(NOW, [heat(1.0, f"d{number}") for number in range(100)])
    with pytest.raises(BadRequest, match="longer step"):
        asked(history, NOW, since=NOW - 7000, step_s=10.0)


def test_series_without_end_do_not_fill_the_memory() -> None:
    history = History()
    history.observe(NOW, [heat(1.0, f"d{number}") for number in range(MOST_SERIES + 10)])
    assert len(history) == MOST_SERIES
    later = NOW + SILENT_S + FULL_S + 1
    history.observe(later, [heat(1.0, "new")])
    assert len(history) == MOST_SERIES, "one that is silent made room"
    assert asked(history, later, since=NOW, labels={"device": "new"}).series


def test_a_day_of_silence_is_forgotten() -> None:
    history = History()
    history.observe(NOW, [heat(1.0)])
    history.forget_old(NOW + DAY - 1)
    assert len(history) == 1
    history.forget_old(NOW + DAY + 1)
    assert len(history) == 0
    assert asked(history, NOW, since=NOW).series == ()


def test_another_monitor_takes_the_history_over() -> None:
    first, second = History(), History()
    for at in range(0, 3000, 5):
        first.observe(NOW + at, [heat(float(at % 97)), ended(float(at))])
    for level in reversed(LEVELS[:2]):
        for begin in range(int(NOW), int(NOW) + 3000, 300):
            for chunk in first.chunk(level, begin, begin + 300):
                second.restore(subjects.HISTORY.decode(subjects.HISTORY.encode(chunk)))
    for step_s in (10.0, 60.0, 300.0):
        for name in (HEAT, COUNT):
            one, other = (
                asked(which, NOW + 2999, names=(name,), since=NOW, step_s=step_s) for which in (first, second)
            )
            assert known(other.series[0].min) == known(one.series[0].min)
            assert known(other.series[0].max) == known(one.series[0].max)
            assert known(other.series[0].avg) == pytest.approx(known(one.series[0].avg))


def test_a_chunk_of_another_version_is_passed_over() -> None:
    history = History()
    chunk = msgspec.convert(
        {"since": NOW, "step_s": 17.0, "series": [["yard_gone", {}, [1.0], [1.0], [1.0]]]},
        subjects.HISTORY.payload,
    )
    history.restore(chunk)
    history.restore(msgspec.structs.replace(chunk, step_s=10.0))
    history.observe(NOW, [heat(1.0)])
    assert asked(history, NOW, since=NOW).series


def test_a_longer_step_of_which_a_part_is_missing_says_what_the_others_say() -> None:
    ten = Points(*(array("d", [value, NAN, NAN, NAN, 4.0, 8.0]) for value in (1.0, 2.0, 3.0)))
    twenty = merged(ten, 2)
    assert [kept[0] for kept in twenty] == [1.0, 2.0, 3.0]
    assert [kept[2] for kept in twenty] == [4.0, 6.0, 8.0]
    assert all(math.isnan(kept[1]) for kept in twenty)


def test_a_ring_forgets_what_it_went_round() -> None:
    ring = Ring(LEVELS[2])
    steps = LEVELS[2].steps
    ring.put(1000, 1.0, 1.0, 1.0)
    ring.put(1000 + steps - 1, 2.0, 2.0, 2.0)
    assert ring.read(1000, 1).mean[0] == 1.0
    ring.put(1000 + steps, 3.0, 3.0, 3.0)
    assert math.isnan(ring.read(1000, 1).mean[0])
    assert list(ring.read(1000 + steps - 1, 3).mean)[:2] == [2.0, 3.0]
    ring.put(5, 9.0, 9.0, 9.0)
    assert math.isnan(ring.read(5, 1).mean[0]), "too old to be put"


def test_a_clock_that_goes_back_spoils_nothing() -> None:
    track = Track()
    track.add(NOW, 1.0)
    track.add(NOW - 100, 99.0)
    track.add(NOW + 1, 3.0)
    track.peek()
    assert list(track.rings[0].read(int(NOW) // 10, 1).mean) == [2.0]
    assert NAN != NAN
