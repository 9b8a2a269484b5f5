"""Usage on disk: sums, bounds, and each request once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ErrorDetail
from schemas.requests import Lane, ModelUsage, Outcome, RequestFinished, UsageQuery
from services.monitor.usage_store import UsageStore

OK, FAILED, CANCELLED = Outcome.OK, Outcome.FAILED, Outcome.CANCELLED


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[UsageStore]:
    store = UsageStore(path)
    yield store
    store.close()


def record(request: str, model: str = "a", finished_at: float = 10.0, **changes: Any) -> RequestFinished:
    values: dict[str, Any] = {
        "lane": Lane.INTERACTIVE,
        "path": "/v1/chat/completions",
        "stream": True,
        "outcome": OK,
        "status": 200,
        "queued_at": finished_at - 1,
        "prompt_tokens": 7,
        "cached_tokens": 3,
        "completion_tokens": 5,
        **changes,
    }
    return RequestFinished(request=request, model=model, finished_at=finished_at, **values)


def requests(store: UsageStore, **bounds: Any) -> dict[str, int]:
    return {usage.model: usage.requests for usage in store.report(UsageQuery(**bounds)).models}


def recent(store: UsageStore, **bounds: Any) -> list[str]:
    return [finished.request for finished in store.report(UsageQuery(**bounds)).recent]


def test_an_empty_store_reports_nothing(store: UsageStore) -> None:
    report = store.report(UsageQuery(recent=5))
    assert (report.models, report.recent) == ((), ())


def test_requests_outcomes_and_tokens_are_summed_by_model_busiest_first(store: UsageStore) -> None:
    store.add([record("1", "a"), record("2", "b"), record("3", "b", outcome=FAILED, completion_tokens=0)])
    store.add([record("4", "b", outcome=CANCELLED, prompt_tokens=100, cached_tokens=90)])
    b, a = store.report(UsageQuery()).models
    assert a == ModelUsage(
        model="a", requests=1, failed=0, cancelled=0, prompt_tokens=7, cached_tokens=3, completion_tokens=5
    )
    assert b == ModelUsage(
        model="b",
        requests=3,
        failed=1,
        cancelled=1,
        prompt_tokens=114,
        cached_tokens=96,
        completion_tokens=10,
    )


def test_a_record_that_comes_again_counts_once(store: UsageStore) -> None:
    assert store.add([record("1"), record("1"), record("2")]) == 2
    assert store.add([record("2"), record("3")]) == 1
    assert requests(store) == {"a": 3}


def test_bounds_take_the_start_in_and_leave_the_end_out_so_that_periods_add_up(store: UsageStore) -> None:
    store.add([record(str(at), finished_at=at) for at in (10, 20, 30)])
    assert requests(store, since=20) == {"a": 2}
    assert requests(store, until=20) == {"a": 1}
    assert requests(store, since=20, until=30) == {"a": 1}
    assert recent(store, since=20, until=30, recent=9) == ["20"]
    assert requests(store, since=31) == {}


def test_a_model_is_asked_for_by_its_exact_name(store: UsageStore) -> None:
    store.add([record("1", "a"), record("2", "a/b:Q4"), record("3", "%")])
    assert requests(store, model="a/b:Q4") == {"a/b:Q4": 1}
    assert requests(store, model="' OR 1=1 --") == {}
    assert recent(store, model="a", recent=9) == ["1"]


def test_the_newest_records_come_whole_and_newest_first(store: UsageStore) -> None:
    failed = record(
        "2",
        finished_at=20.0,
        outcome=FAILED,
        status=502,
        key="k1",
        error=ErrorDetail(message="It broke.", type="server_error", code="engine_failed"),
    )
    store.add([record("1"), failed, record("3", finished_at=15.0)])
    report = store.report(UsageQuery(recent=2))
    assert [one.request for one in report.recent] == ["2", "3"]
    assert report.recent[0] == failed
    assert recent(store) == []


def test_a_store_that_is_opened_again_still_has_everything(store: UsageStore, path: Path) -> None:
    store.add([record("1")])
    store.close()
    again = UsageStore(path)
    assert again.add([record("1"), record("2")]) == 1
    assert requests(again) == {"a": 2}
    again.close()


def test_a_store_whose_process_was_killed_keeps_what_was_added(store: UsageStore, path: Path) -> None:
    store.add([record("1")])
    # Not closed: the write-ahead log stands beside the file as a kill leaves it.
    other = UsageStore(path)
    assert requests(other) == {"a": 1}
    other.close()


def test_a_token_count_out_of_reason_does_not_break_the_sums(store: UsageStore) -> None:
    store.add([record("1", prompt_tokens=10**30, completion_tokens=-5)])
    (usage,) = store.report(UsageQuery()).models
    assert usage.prompt_tokens == 2**40
    assert usage.completion_tokens == 0
