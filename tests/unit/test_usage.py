"""Usage on disk: sums, bounds, buckets, and each request once."""

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
from services.monitor.usage import rebuild
from services.monitor.usage.schema import SUM_COLUMNS
from tests.unit.accounts import UTC, Kept, kept, record

OK, FAILED, CANCELLED = Outcome.OK, Outcome.FAILED, Outcome.CANCELLED
D = Dimension
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.sqlite"


@pytest.fixture
def usage(path: Path) -> Iterator[Kept]:
    with kept(path) as usage:
        yield usage


def at(text: str, tz: ZoneInfo = UTC) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=tz).timestamp()


def recent(usage: Kept, **asked: object) -> list[str]:
    return [finished.request for finished in usage.ask(**asked).recent]


def test_an_empty_store_reports_nothing(usage: Kept) -> None:
    report = usage.ask(recent=5)
    assert (report.rows, report.recent, report.total.requests) == ((), (), 0)


def test_requests_outcomes_and_tokens_are_summed_by_model_busiest_first(usage: Kept) -> None:
    usage.store.add(
        [record("1", "a"), record("2", "b"), record("3", "b", outcome=FAILED, completion_tokens=0)]
    )
    usage.store.add([record("4", "b", outcome=CANCELLED, prompt_tokens=100, cached_tokens=90)])
    b, a = usage.ask().rows
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


def test_a_record_that_comes_again_counts_once(usage: Kept) -> None:
    assert len(usage.store.add([record("1"), record("1"), record("2")])) == 2
    assert len(usage.store.add([record("2"), record("3")])) == 1
    assert usage.requests() == {"a": 3}


def test_bounds_take_the_start_in_and_leave_the_end_out_so_that_periods_add_up(usage: Kept) -> None:
    usage.store.add([record(str(second), finished_at=second) for second in (10, 20, 30)])
    assert usage.requests(since=20) == {"a": 2}
    assert usage.requests(until=20) == {"a": 1}
    assert usage.requests(since=20, until=30) == {"a": 1}
    assert recent(usage, since=20, until=30, recent=9) == ["20"]
    assert usage.requests(since=31) == {}


def test_a_model_is_asked_for_by_its_exact_name(usage: Kept) -> None:
    usage.store.add([record("1", "a"), record("2", "a/b:Q4"), record("3", "%")])
    assert usage.requests(model="a/b:Q4") == {"a/b:Q4": 1}
    assert usage.requests(model="' OR 1=1 --") == {}
    assert recent(usage, model="a", recent=9) == ["1"]


def test_usage_is_told_apart_by_anything_and_filtered_by_anything(usage: Kept) -> None:
    usage.store.add(
        [
            record("1", key="k1", node="n1", status=200),
            record("2", key="k1", node="n2", status=502, outcome=FAILED),
            record("3", node="n1", lane=Lane.BATCH),
        ]
    )
    by_key = {row.key: row.requests for row in usage.ask(by=(D.KEY,)).rows}
    assert by_key == {"k1": 2, "anyone": 1}, "a request without a key is anyone's"
    by_both = {(row.node, row.status): row.requests for row in usage.ask(by=(D.NODE, D.STATUS)).rows}
    assert by_both == {("n1", 200): 2, ("n2", 502): 1}
    assert usage.ask(by=(), outcome=FAILED).total.requests == 1
    assert usage.ask(by=(), lane=Lane.BATCH, node="n1").rows[0].requests == 1
    assert usage.ask(by=(), key="k1", node="n1").total.requests == 1
    with pytest.raises(BadRequest, match="twice"):
        usage.ask(by=(D.KEY, D.KEY))


def test_the_newest_records_come_whole_and_newest_first(usage: Kept) -> None:
    failed = record(
        "2",
        finished_at=20.0,
        outcome=FAILED,
        status=502,
        key="k1",
        error=ErrorDetail(message="It broke.", type="server_error", code="engine_failed"),
    )
    usage.store.add([record("1"), failed, record("3", finished_at=15.0)])
    report = usage.ask(recent=2)
    assert [one.request for one in report.recent] == ["2", "3"]
    assert report.recent[0] == failed


def test_a_store_that_is_opened_again_still_has_everything(usage: Kept, path: Path) -> None:
    usage.store.add([record("1")])
    # Not closed: the write-ahead log stands beside the file as a kill leaves it.
    with kept(path) as again:
        assert len(again.store.add([record("1"), record("2")])) == 1
        assert again.requests() == {"a": 2}


def test_a_token_count_or_a_time_out_of_reason_does_not_break_the_sums(usage: Kept) -> None:
    usage.store.add([record("1", prompt_tokens=10**30, completion_tokens=-5)])
    usage.store.add([record("2", finished_at=1e300), record("3", finished_at=-1e300)])
    usage.store.add([record("4", finished_at=float("nan"))])
    usage.store.add([record("5", finished_at=1e308, queued_at=-1e308, first_token_ms=1e308)])
    (row,) = usage.ask().rows
    assert row.requests == 5
    assert row.prompt_tokens == 2**40 + 28
    assert row.completion_tokens == 20


def test_what_a_clock_that_is_ahead_says_was_used_now(usage: Kept) -> None:
    usage.store.add([record("1", finished_at=1e10), record("2", finished_at=time.time() + 86400.0)])
    report = usage.ask(step="day", since=time.time() - 86400.0)
    assert sum(row.requests for row in report.rows) == 2
    (now,) = usage.ask(last_s=3600.0).rows
    assert now.requests == 2


def test_days_of_a_time_zone_have_23_and_25_hours_where_clocks_change(usage: Kept) -> None:
    usage.store.add(
        [
            record("1", finished_at=at("2026-03-28T23:30", BERLIN)),
            record("2", finished_at=at("2026-03-29T00:00", BERLIN)),
            record("3", finished_at=at("2026-03-29T23:59:59", BERLIN)),
            record("4", finished_at=at("2026-03-30T00:00", BERLIN)),
        ]
    )
    since, until = at("2026-03-28", BERLIN), at("2026-03-31", BERLIN)
    report = usage.ask(by=(), step=UsageStep.DAY, tz="Europe/Berlin", since=since, until=until)
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


def test_buckets_are_aligned_to_the_clock_and_cut_at_the_bounds(usage: Kept) -> None:
    usage.store.add(
        [record(str(minute), finished_at=at(f"2026-05-04T10:{minute:02}:30")) for minute in range(60)]
    )
    since, until = at("2026-05-04T10:10:30"), at("2026-05-04T10:20:30")
    report = usage.ask(by=(), step=UsageStep.HOUR, since=since, until=until)
    assert [(row.at, row.requests) for row in report.rows] == [(at("2026-05-04T10:00"), 10)]
    minutes = usage.ask(by=(), step=UsageStep.MINUTE, since=since, until=until)
    assert [row.requests for row in minutes.rows] == [1] * 10
    week = usage.ask(by=(), step=UsageStep.WEEK, since=since, until=until)
    assert week.buckets == (at("2026-05-04"),), "a Monday"
    with pytest.raises(BadRequest, match="larger step"):
        usage.ask(step=UsageStep.MINUTE, since=0)


@pytest.mark.parametrize(
    "tz", ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"]
)
def test_every_way_to_add_up_comes_to_the_same(path: Path, tz: str) -> None:
    """Whatever the bounds: single requests, quarters and days must cover the period once."""
    rng, start = random.Random(7), at("2026-03-20")
    moments = [start + rng.random() * 20 * 86400 for _ in range(400)]
    with kept(path, ZoneInfo(tz)) as usage:
        usage.store.add(record(str(n), finished_at=moment) for n, moment in enumerate(moments))
        for _ in range(40):
            since, until = sorted(start + rng.random() * 20 * 86400 for _ in range(2))
            expected = sum(since <= moment < until for moment in moments)
            for zone in (tz, "America/New_York"):
                for step in (None, UsageStep.HOUR, UsageStep.DAY, UsageStep.WEEK, UsageStep.MONTH):
                    report = usage.ask(since=since, until=until, step=step, tz=zone, latency=True)
                    assert report.total.requests == expected, (since, until, step)
            if expected:
                assert report.total.latency is not None
                assert report.total.latency.duration.p50_ms == pytest.approx(1000, rel=0.025)


def test_percentiles_are_within_their_word(usage: Kept) -> None:
    usage.store.add(
        record(str(ms), finished_at=100.0, queued_at=100.0 - ms / 1000, first_token_ms=ms / 2)
        for ms in range(1, 1001)
    )
    latency = usage.ask(by=(), latency=True).total.latency
    assert latency is not None
    for percentiles, scale in ((latency.duration, 1), (latency.first_token, 2)):
        assert percentiles.p50_ms == pytest.approx(500 / scale, rel=0.03)
        assert percentiles.p90_ms == pytest.approx(900 / scale, rel=0.03)
        assert percentiles.p99_ms == pytest.approx(990 / scale, rel=0.03)


def test_pages_give_every_record_once_in_order(usage: Kept) -> None:
    usage.store.add(
        record(f"r{n:03}", finished_at=float(n // 4), key="k" if n % 2 else None) for n in range(100)
    )
    seen, after = list[str](), None
    while True:
        page = usage.page(limit=7, after=after, key="k")
        seen += [each.record.request for each in page.records]
        if (after := page.next) is None:
            break
    assert seen == [f"r{n:03}" for n in range(1, 100, 2)]
    long = ErrorDetail(message="x" * 100_000, type="server_error", code="engine_failed")
    usage.store.add(record(f"s{n:03}", finished_at=1000.0, error=long, key="long") for n in range(10))
    page = usage.page(key="long")
    assert len(page.records) == 3, "it has to fit into a message"
    assert len(usage.page(key="long", after=page.next).records) == 3
    with pytest.raises(BadRequest, match="after"):
        usage.page(after="nonsense/x")


def sums_of(path: Path) -> list[list[tuple[object, ...]]]:
    db = sqlite3.connect(path)
    found = [
        db.execute(f"SELECT {unit}, series, {', '.join(SUM_COLUMNS)} FROM {table} ORDER BY 1, 2").fetchall()
        for table, unit in (("quarters", "quarter"), ("days", "day"))
    ]
    found.append(db.execute("SELECT * FROM latencies ORDER BY 1, 2, 3, 4").fetchall())
    db.close()
    return found


def test_a_rebuild_comes_to_the_sums_that_were_there_and_keeps_what_the_stream_lost(
    usage: Kept, path: Path
) -> None:
    rng = random.Random(3)
    records = [
        record(str(n), rng.choice("abc"), 1e9 + rng.random() * 1e6, first_token_ms=rng.random() * 900)
        for n in range(300)
    ]
    usage.store.add(records)
    before = sums_of(path)
    rebuild.begin(usage.store)
    assert rebuild.add(usage.store, records[100:]) == 0
    assert rebuild.finish(usage.store, None) == 0
    assert sums_of(path) == before
    rebuild.begin(usage.store)
    rebuild.add(usage.store, [*records[100:], record("new", "c", 1e9)])
    assert rebuild.finish(usage.store, 2e9) == 100
    assert usage.ask(by=()).total.requests == rebuild.count(usage.store) == 201


def test_a_file_counts_the_days_of_another_time_zone_from_its_next_opening(path: Path) -> None:
    moments = [at("2026-06-01T21:30"), at("2026-06-01T22:30"), at("2026-06-02T23:30")]
    with kept(path) as usage:
        usage.store.add(record(str(n), finished_at=moment) for n, moment in enumerate(moments))
    with kept(path, BERLIN) as usage:
        days = usage.ask(
            by=(), step=UsageStep.DAY, since=at("2026-06-01", BERLIN), until=at("2026-06-04", BERLIN)
        )
        assert [row.requests for row in days.rows] == [1, 1, 1]
        by_day = sqlite3.connect(path).execute("SELECT SUM(requests) FROM days GROUP BY day").fetchall()
        assert by_day == [(1,), (1,), (1,)]


def test_records_of_a_file_of_before_are_taken_over(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE usage (request TEXT PRIMARY KEY, record TEXT)")
    old = b'{"request":"old","model":"a","lane":"batch","path":"/v1/x","stream":false,"outcome":"ok",'
    old += b'"status":200,"queued_at":1.0,"finished_at":2.0}'
    db.execute("INSERT INTO usage VALUES ('old', ?)", (old.decode(),))
    db.commit()
    db.close()
    for _ in range(2):
        with kept(path) as usage:
            assert usage.requests() == {"a": 1}
            assert not usage.store.new


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"since": 1.0, "last_s": 5.0}, "one of since"),
        ({"last_s": -1.0}, "above 0"),
        ({"tz": "Mars/Olympus"}, "no time zone"),
        ({"tz": "../../etc/passwd"}, "no time zone"),
        ({"since": float("nan")}, "unix seconds"),
        ({"recent": 100_000}, "from 0 to 1000"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(usage: Kept, asked: dict[str, object], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        usage.ask(**asked)
