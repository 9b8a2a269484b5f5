"""The history of metrics: downsampling, bounded memory, queries, restore."""

import math
from array import array

import msgspec
import pytest

from schemas import subjects
from schemas.errors import BadRequest
from schemas.metrics import MetricsQuery, MetricsReply, Sample
from services.monitor.metrics.history import (
    EVICTABLE_S,
    FULL_S,
    MAX_SERIES,
    MetricsHistory,
    downsample,
)
from services.monitor.metrics.ring_buffers import NAN, RESOLUTIONS, Points, RingBuffer, SeriesHistory

TEMPERATURE = "yard_device_temperature_celsius"
REQUESTS = "yard_requests_total"
DAY = 86_400
NOW = 1_000_000 * 300.0


def temperature(value: float, device: str = "d") -> Sample:
    return Sample(name=TEMPERATURE, value=value, labels={"node": "n", "device": device})


def requests(value: float) -> Sample:
    return Sample(name=REQUESTS, value=value, labels={"model": "m", "node": "n", "outcome": "ok"})


def run_query(history: MetricsHistory, now: float, **query: object) -> MetricsReply:
    return history.query(MetricsQuery(**{"names": (TEMPERATURE,), **query}), now)  # type: ignore[arg-type]


def values_of(values: tuple[float | None, ...]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]


def test_a_step_has_min_avg_and_max() -> None:
    history = MetricsHistory()
    for second in range(20):
        history.add(NOW + second, [temperature(40.0 + second)])
    answer = run_query(history, NOW + 20, since=NOW)
    (series,) = answer.series
    assert (answer.since, answer.step_s) == (NOW, 10.0)
    assert series.labels == {"node": "n", "device": "d"}
    assert values_of(series.min) == [40.0, 50.0]
    assert values_of(series.avg) == [44.5, 54.5]
    assert values_of(series.max) == [49.0, 59.0]


def test_open_steps_are_included() -> None:
    history = MetricsHistory()
    history.add(NOW + 1, [temperature(50.0)])
    for step_s in (10.0, 60.0, 300.0):
        assert values_of(run_query(history, NOW + 2, since=NOW, step_s=step_s).series[0].avg) == [50.0]
    history.add(NOW + 3, [temperature(60.0)])
    for step_s in (10.0, 60.0, 300.0):
        (series,) = run_query(history, NOW + 4, since=NOW, step_s=step_s).series
        assert (values_of(series.avg), values_of(series.min)) == ([55.0], [50.0]), "a query changes nothing"


def test_longer_steps_agree_with_shorter_ones() -> None:
    history = MetricsHistory()
    values = [40 + (7 * second) % 31 for second in range(1200)]
    for second, value in enumerate(values):
        history.add(NOW + second, [temperature(float(value))])
    for step_s in (10, 30, 60, 300, 600):
        (series,) = run_query(history, NOW + 1199, since=NOW, step_s=float(step_s)).series
        parts = [values[begin : begin + step_s] for begin in range(0, 1200, step_s)]
        assert values_of(series.min) == [min(part) for part in parts]
        assert values_of(series.max) == [max(part) for part in parts]
        assert values_of(series.avg) == pytest.approx([sum(part) / len(part) for part in parts])


def test_steps_without_samples_are_null() -> None:
    history = MetricsHistory()
    history.add(NOW, [temperature(50.0)])
    history.add(NOW + 35, [temperature(60.0)])
    (series,) = run_query(history, NOW + 40, since=NOW).series
    encoded = msgspec.json.decode(
        subjects.METRICS_QUERY.encode_reply(run_query(history, NOW + 40, since=NOW))
    )
    assert encoded["series"][0]["avg"] == [50.0, None, None, 60.0, None]
    assert math.isnan(series.avg[1] or 0.0)


def test_a_counter_has_its_increase_per_second_across_resets() -> None:
    history = MetricsHistory()
    for second, total in enumerate([5, 10, 15, 20, 25, 30, 35, 40, 45, 50]):
        history.add(NOW + second, [requests(float(total))])
    assert values_of(run_query(history, NOW + 10, names=(REQUESTS,), since=NOW).series[0].avg) == [5.0]
    history.add(NOW + 10, [requests(3.0)])
    (series,) = run_query(history, NOW + 11, names=(REQUESTS,), since=NOW).series
    assert values_of(series.avg) == [5.0, 3.0]
    assert min(values_of(series.min)) >= 0.0


def test_a_new_counter_starts_at_zero() -> None:
    history = MetricsHistory()
    history.add(NOW, [])
    history.add(NOW + 1, [requests(60.0)])
    assert values_of(run_query(history, NOW + 2, names=(REQUESTS,), since=NOW).series[0].max) == [60.0]


def test_a_query_is_limited_to_a_day_of_about_300_points() -> None:
    history = MetricsHistory()
    for step in range(DAY // 10 + 500):
        history.add(NOW + 10 * step, [temperature(float(step))])
    now = NOW + DAY + 5000
    answer = run_query(history, now, since=now - 10 * DAY)
    assert answer.step_s == 300.0
    assert len(answer.series[0].avg) in (288, 289)
    assert len(values_of(answer.series[0].avg)) >= 288
    assert run_query(history, now, since=now - DAY, step_s=60.0).step_s == 60.0
    assert run_query(history, now, since=now - DAY, step_s=10.0).step_s == 60.0, (
        "steps of ten seconds are stored for two hours"
    )
    assert run_query(history, now, since=now - 3600, step_s=10.0).step_s == 10.0


def test_series_are_selected_by_labels() -> None:
    history = MetricsHistory()
    history.add(NOW, [temperature(1.0, "a"), temperature(2.0, "b")])
    (series,) = run_query(history, NOW, since=NOW, labels={"device": "b"}).series
    assert series.labels["device"] == "b"
    assert run_query(history, NOW, since=NOW, labels={"device": "c"}).series == ()
    assert run_query(history, NOW, since=NOW, labels={"nothing": "b"}).series == ()


@pytest.mark.parametrize(
    ("query", "message"),
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
def test_invalid_queries_are_refused(query: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        run_query(MetricsHistory(), NOW, **query)


def test_an_answer_too_large_for_a_message_is_refused() -> None:
    history = MetricsHistory()
    history.add(NOW, [temperature(1.0, f"d{number}") for number in range(100)])
    with pytest.raises(BadRequest, match="longer step"):
        run_query(history, NOW, since=NOW - 7000, step_s=10.0)


def test_the_number_of_series_is_limited() -> None:
    history = MetricsHistory()
    history.add(NOW, [temperature(1.0, f"d{number}") for number in range(MAX_SERIES + 10)])
    assert len(history) == MAX_SERIES
    later = NOW + EVICTABLE_S + FULL_S + 1
    history.add(later, [temperature(1.0, "new")])
    assert len(history) == MAX_SERIES, "a series without samples was evicted"
    assert run_query(history, later, since=NOW, labels={"device": "new"}).series


def test_series_without_samples_for_a_day_are_removed() -> None:
    history = MetricsHistory()
    history.add(NOW, [temperature(1.0)])
    history.remove_old(NOW + DAY - 1)
    assert len(history) == 1
    history.remove_old(NOW + DAY + 1)
    assert len(history) == 0
    assert run_query(history, NOW, since=NOW).series == ()


def test_a_restored_history_is_the_same() -> None:
    first, second = MetricsHistory(), MetricsHistory()
    for at in range(0, 3000, 5):
        first.add(NOW + at, [temperature(float(at % 97)), requests(float(at))])
    for resolution in reversed(RESOLUTIONS[:2]):
        for begin in range(int(NOW), int(NOW) + 3000, 300):
            for chunk in first.chunks(resolution, begin, begin + 300):
                second.restore(subjects.HISTORY.decode(subjects.HISTORY.encode(chunk)))
    for step_s in (10.0, 60.0, 300.0):
        for name in (TEMPERATURE, REQUESTS):
            original, restored = (
                run_query(history, NOW + 2999, names=(name,), since=NOW, step_s=step_s)
                for history in (first, second)
            )
            assert values_of(restored.series[0].min) == values_of(original.series[0].min)
            assert values_of(restored.series[0].max) == values_of(original.series[0].max)
            assert values_of(restored.series[0].avg) == pytest.approx(values_of(original.series[0].avg))


def test_a_chunk_of_another_version_is_ignored() -> None:
    history = MetricsHistory()
    chunk = msgspec.convert(
        {"since": NOW, "step_s": 17.0, "series": [["yard_gone", {}, [1.0], [1.0], [1.0]]]},
        subjects.HISTORY.payload,
    )
    history.restore(chunk)
    history.restore(msgspec.structs.replace(chunk, step_s=10.0))
    history.add(NOW, [temperature(1.0)])
    assert run_query(history, NOW, since=NOW).series


def test_downsampling_ignores_missing_steps() -> None:
    ten = Points(*(array("d", [value, NAN, NAN, NAN, 4.0, 8.0]) for value in (1.0, 2.0, 3.0)))
    twenty = downsample(ten, 2)
    assert [column[0] for column in twenty] == [1.0, 2.0, 3.0]
    assert [column[2] for column in twenty] == [4.0, 6.0, 8.0]
    assert all(math.isnan(column[1]) for column in twenty)


def test_a_ring_buffer_overwrites_its_oldest_steps() -> None:
    buffer = RingBuffer(RESOLUTIONS[2])
    steps = RESOLUTIONS[2].steps
    buffer.put(1000, 1.0, 1.0, 1.0)
    buffer.put(1000 + steps - 1, 2.0, 2.0, 2.0)
    assert buffer.read(1000, 1).mean[0] == 1.0
    buffer.put(1000 + steps, 3.0, 3.0, 3.0)
    assert math.isnan(buffer.read(1000, 1).mean[0])
    assert list(buffer.read(1000 + steps - 1, 3).mean)[:2] == [2.0, 3.0]
    buffer.put(5, 9.0, 9.0, 9.0)
    assert math.isnan(buffer.read(5, 1).mean[0]), "too old to be stored"


def test_samples_of_a_clock_set_back_are_dropped() -> None:
    series = SeriesHistory()
    series.add(NOW, 1.0)
    series.add(NOW - 100, 99.0)
    series.add(NOW + 1, 3.0)
    series.flush_open()
    assert list(series.buffers[0].read(int(NOW) // 10, 1).mean) == [2.0]
    assert NAN != NAN
