"""The usage store: sums, bounds, buckets, and each request once."""

import random
import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from schemas.errors import BadRequest, ErrorDetail
from schemas.requests import Lane, Outcome
from schemas.usage import Dimension, UsageRow, UsageStep
from tests.unit.usage_records import UTC, UsageFile, record, stored_sums, usage_file

OK, FAILED, CANCELLED = Outcome.OK, Outcome.FAILED, Outcome.CANCELLED
D = Dimension
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.sqlite"


@pytest.fixture
def usage(path: Path) -> Iterator[UsageFile]:
    with usage_file(path) as usage:
        yield usage


def at(text: str, tz: ZoneInfo = UTC) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=tz).timestamp()


def recent(usage: UsageFile, **fields: object) -> list[str]:
    return [finished.request for finished in usage.report(**fields).recent]


def test_an_empty_store_has_an_empty_report(usage: UsageFile) -> None:
    report = usage.report(recent=5)
    assert (report.rows, report.recent, report.total.requests) == ((), (), 0)


def test_requests_outcomes_and_tokens_are_summed_by_model_busiest_first(usage: UsageFile) -> None:
    usage.store.add(
        [record("1", "a"), record("2", "b"), record("3", "b", outcome=FAILED, completion_tokens=0)]
    )
    usage.store.add([record("4", "b", outcome=CANCELLED, prompt_tokens=100, cached_tokens=90)])
    b, a = usage.report().rows
    assert a == UsageRow(model="a", requests=1, prompt_tokens=7, cached_tokens=3, completion_tokens=5)
    assert b == UsageRow(
        model="b",
        requests=3,
        failed=1,
        cancelled=1,
        prompt_tokens=114,
        cached_tokens=96,
        completion_tokens=10,
    )


def test_a_duplicate_record_counts_once(usage: UsageFile) -> None:
    assert len(usage.store.add([record("1"), record("1"), record("2")])) == 2
    assert len(usage.store.add([record("2"), record("3")])) == 1
    assert usage.requests() == {"a": 3}


def test_periods_include_their_start_and_exclude_their_end(usage: UsageFile) -> None:
    usage.store.add([record(str(second), finished_at=second) for second in (10, 20, 30)])
    assert usage.requests(since=20) == {"a": 2}
    assert usage.requests(until=20) == {"a": 1}
    assert usage.requests(since=20, until=30) == {"a": 1}
    assert recent(usage, since=20, until=30, recent=9) == ["20"]
    assert usage.requests(since=31) == {}


def test_the_filter_of_models_matches_exact_names(usage: UsageFile) -> None:
    usage.store.add([record("1", "a"), record("2", "a/b:Q4"), record("3", "%")])
    assert usage.requests(model="a/b:Q4") == {"a/b:Q4": 1}
    assert usage.requests(model="' OR 1=1 --") == {}
    assert recent(usage, model="a", recent=9) == ["1"]


def test_usage_is_grouped_and_filtered_by_any_dimension(usage: UsageFile) -> None:
    usage.store.add(
        [
            record("1", key="k1", node="n1", status=200),
            record("2", key="k1", node="n2", status=502, outcome=FAILED),
            record("3", node="n1", lane=Lane.BATCH),
        ]
    )
    by_key = {row.key: row.requests for row in usage.report(by=(D.KEY,)).rows}
    assert by_key == {"k1": 2, "anyone": 1}, "a request without a key belongs to anyone"
    by_both = {(row.node, row.status): row.requests for row in usage.report(by=(D.NODE, D.STATUS)).rows}
    assert by_both == {("n1", 200): 2, ("n2", 502): 1}
    assert usage.report(by=(), outcome=FAILED).total.requests == 1
    assert usage.report(by=(), lane=Lane.BATCH, node="n1").rows[0].requests == 1
    assert usage.report(by=(), key="k1", node="n1").total.requests == 1
    with pytest.raises(BadRequest, match="twice"):
        usage.report(by=(D.KEY, D.KEY))


def test_recent_records_are_complete_and_newest_first(usage: UsageFile) -> None:
    failed = record(
        "2",
        finished_at=20.0,
        outcome=FAILED,
        status=502,
        key="k1",
        error=ErrorDetail(message="It broke.", type="server_error", code="engine_failed"),
    )
    usage.store.add([record("1"), failed, record("3", finished_at=15.0)])
    report = usage.report(recent=2)
    assert [finished.request for finished in report.recent] == ["2", "3"]
    assert report.recent[0] == failed


def test_a_reopened_store_has_all_records(usage: UsageFile, path: Path) -> None:
    usage.store.add([record("1")])
    # Not closed: the write-ahead log is there, as after a kill.
    with usage_file(path) as reopened:
        assert len(reopened.store.add([record("1"), record("2")])) == 1
        assert reopened.requests() == {"a": 2}


def test_invalid_token_counts_and_times_are_clamped(usage: UsageFile) -> None:
    usage.store.add([record("1", prompt_tokens=10**30, completion_tokens=-5)])
    usage.store.add([record("2", finished_at=1e300), record("3", finished_at=-1e300)])
    usage.store.add([record("4", finished_at=float("nan"))])
    usage.store.add([record("5", finished_at=1e308, queued_at=-1e308, first_token_ms=1e308)])
    (row,) = usage.report().rows
    assert row.requests == 5
    assert row.prompt_tokens == 2**40 + 28
    assert row.completion_tokens == 20


def test_records_of_a_clock_ahead_count_as_used_now(usage: UsageFile) -> None:
    usage.store.add([record("1", finished_at=1e10), record("2", finished_at=time.time() + 86400.0)])
    report = usage.report(step="day", since=time.time() - 86400.0)
    assert sum(row.requests for row in report.rows) == 2
    (now,) = usage.report(last_s=3600.0).rows
    assert now.requests == 2


def test_days_have_23_or_25_hours_where_clocks_change(usage: UsageFile) -> None:
    usage.store.add(
        [
            record("1", finished_at=at("2026-03-28T23:30", BERLIN)),
            record("2", finished_at=at("2026-03-29T00:00", BERLIN)),
            record("3", finished_at=at("2026-03-29T23:59:59", BERLIN)),
            record("4", finished_at=at("2026-03-30T00:00", BERLIN)),
        ]
    )
    since, until = at("2026-03-28", BERLIN), at("2026-03-31", BERLIN)
    report = usage.report(by=(), step=UsageStep.DAY, tz="Europe/Berlin", since=since, until=until)
    assert [(row.at, row.requests) for row in report.rows] == [
        (at("2026-03-28", BERLIN), 1),
        (at("2026-03-29", BERLIN), 2),
        (at("2026-03-30", BERLIN), 1),
    ]
    assert [b - a for a, b in zip(report.buckets, [*report.buckets[1:], until], strict=True)] == [
        86400,
        82800,
        86400,
    ]


def test_buckets_align_to_the_clock_and_are_cut_at_the_bounds(usage: UsageFile) -> None:
    usage.store.add(
        [record(str(minute), finished_at=at(f"2026-05-04T10:{minute:02}:30")) for minute in range(60)]
    )
    since, until = at("2026-05-04T10:10:30"), at("2026-05-04T10:20:30")
    report = usage.report(by=(), step=UsageStep.HOUR, since=since, until=until)
    assert [(row.at, row.requests) for row in report.rows] == [(at("2026-05-04T10:00"), 10)]
    minutes = usage.report(by=(), step=UsageStep.MINUTE, since=since, until=until)
    assert [row.requests for row in minutes.rows] == [1] * 10
    week = usage.report(by=(), step=UsageStep.WEEK, since=since, until=until)
    assert week.buckets == (at("2026-05-04"),), "a Monday"
    with pytest.raises(BadRequest, match="larger step"):
        usage.report(step=UsageStep.MINUTE, since=0)


@pytest.mark.parametrize(
    "tz", ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"]
)
def test_totals_do_not_depend_on_step_or_time_zone(path: Path, tz: str) -> None:
    """For any bounds, single requests, quarters and days cover the period once."""
    rng, start = random.Random(7), at("2026-03-20")
    moments = [start + rng.random() * 20 * 86400 for _ in range(400)]
    with usage_file(path, ZoneInfo(tz)) as usage:
        usage.store.add(record(str(n), finished_at=moment) for n, moment in enumerate(moments))
        for _ in range(40):
            since, until = sorted(start + rng.random() * 20 * 86400 for _ in range(2))
            expected = sum(since <= moment < until for moment in moments)
            for zone in (tz, "America/New_York"):
                for step in (None, UsageStep.HOUR, UsageStep.DAY, UsageStep.WEEK, UsageStep.MONTH):
                    report = usage.report(since=since, until=until, step=step, tz=zone, latency=True)
                    assert report.total.requests == expected, (since, until, step)
            if expected:
                assert report.total.latency is not None
                assert report.total.latency.duration.p50_ms == pytest.approx(1000, rel=0.025)


def test_percentiles_are_within_their_error(usage: UsageFile) -> None:
    usage.store.add(
        record(str(ms), finished_at=100.0, queued_at=100.0 - ms / 1000, first_token_ms=ms / 2)
        for ms in range(1, 1001)
    )
    latency = usage.report(by=(), latency=True).total.latency
    assert latency is not None
    for percentiles, scale in ((latency.duration, 1), (latency.first_token, 2)):
        assert percentiles.p50_ms == pytest.approx(500 / scale, rel=0.03)
        assert percentiles.p90_ms == pytest.approx(900 / scale, rel=0.03)
        assert percentiles.p99_ms == pytest.approx(990 / scale, rel=0.03)


def test_pages_have_every_record_once_in_order(usage: UsageFile) -> None:
    usage.store.add(
        record(f"r{n:03}", finished_at=float(n // 4), key="k" if n % 2 else None) for n in range(100)
    )
    requests, after = list[str](), None
    while True:
        page = usage.page(limit=7, after=after, key="k")
        requests += [counted.record.request for counted in page.records]
        if (after := page.next) is None:
            break
    assert requests == [f"r{n:03}" for n in range(1, 100, 2)]
    long = ErrorDetail(message="x" * 100_000, type="server_error", code="engine_failed")
    usage.store.add(record(f"s{n:03}", finished_at=1000.0, error=long, key="long") for n in range(10))
    page = usage.page(key="long")
    assert len(page.records) == 3, "it has to fit into a message"
    assert len(usage.page(key="long", after=page.next).records) == 3
    with pytest.raises(BadRequest, match="after"):
        usage.page(after="nonsense/x")


def test_a_rebuild_restores_the_sums_and_retains_records_missing_from_the_stream(
    usage: UsageFile, path: Path
) -> None:
    rng = random.Random(3)
    records = [
        record(str(n), rng.choice("abc"), 1e9 + rng.random() * 1e6, first_token_ms=rng.random() * 900)
        for n in range(300)
    ]
    usage.store.add(records)
    before = stored_sums(path)
    usage.store.begin_rebuild()
    assert usage.store.rebuild_records(records[100:]) == 0
    assert usage.store.finish_rebuild(None) == 0
    assert stored_sums(path) == before
    usage.store.begin_rebuild()
    usage.store.rebuild_records([*records[100:], record("new", "c", 1e9)])
    assert usage.store.finish_rebuild(2e9) == 100
    assert usage.report(by=()).total.requests == usage.store.count() == 201


def test_days_are_rebuilt_when_the_time_zone_changes(path: Path) -> None:
    moments = [at("2026-06-01T21:30"), at("2026-06-01T22:30"), at("2026-06-02T23:30")]
    with usage_file(path) as usage:
        usage.store.add(record(str(n), finished_at=moment) for n, moment in enumerate(moments))
    with usage_file(path, BERLIN) as usage:
        days = usage.report(
            by=(), step=UsageStep.DAY, since=at("2026-06-01", BERLIN), until=at("2026-06-04", BERLIN)
        )
        assert [row.requests for row in days.rows] == [1, 1, 1]
        by_day = sqlite3.connect(path).execute("SELECT SUM(requests) FROM days GROUP BY day").fetchall()
        assert by_day == [(1,), (1,), (1,)]


def test_a_file_of_version_1_is_migrated(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE usage (request TEXT PRIMARY KEY, record TEXT)")
    old = b'{"request":"old","model":"a","lane":"batch","path":"/v1/x","stream":false,"outcome":"ok",'
    old += b'"status":200,"queued_at":1.0,"finished_at":2.0}'
    db.execute("INSERT INTO usage VALUES ('old', ?)", (old.decode(),))
    db.commit()
    db.close()
    for _ in range(2):
        with usage_file(path) as usage:
            assert usage.requests() == {"a": 1}
            assert not usage.store.new


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"since": 1.0, "last_s": 5.0}, "one of since"),
        ({"last_s": -1.0}, "above 0"),
        ({"tz": "Mars/Olympus"}, "no time zone"),
        ({"tz": "../../etc/passwd"}, "no time zone"),
        ({"since": float("nan")}, "unix seconds"),
        ({"recent": 100_000}, "from 0 to 1000"),
    ],
)
def test_invalid_queries_are_refused(usage: UsageFile, fields: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        usage.report(**fields)
