"""Costs in the usage store: stored usage keeps its cost, time is charged once, and sums are exact."""

import asyncio
import random
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from schemas.budgets import Budget, BudgetAction, BudgetLevel
from schemas.prices import Reprice
from schemas.usage import Dimension, Period, UsageUnit
from services.monitor import storage
from services.monitor.budget_totals import BudgetTotal, budget_samples, level_crossed, load_used
from services.monitor.prices import reprice
from services.monitor.storage import RetentionPolicy
from services.monitor.usage.loaded_time import LoadedInterval, charge_loaded_time, record_intervals
from tests.unit.usage_records import (
    CHEAP,
    DAY_S,
    DEAR,
    HOURLY,
    UTC,
    price_book,
    record,
    stored_sums,
    usage_file,
)


def test_small_costs_add_up_exactly(tmp_path: Path) -> None:
    rng = random.Random(1)
    sizes = [(rng.randrange(10**6), rng.randrange(10**6)) for _ in range(500)]
    with usage_file(tmp_path / "u.sqlite", prices=price_book(a=CHEAP)) as usage:
        usage.store.add(
            record(
                str(n),
                finished_at=1e9 + n * 977,
                prompt_tokens=prompt,
                cached_tokens=0,
                completion_tokens=completion,
            )
            for n, (prompt, completion) in enumerate(sizes)
        )
        expected = sum(
            (Fraction(prompt, 10**12) + Fraction(3 * completion, 10**6) for prompt, completion in sizes),
            Fraction(0),
        )
        assert Fraction(usage.report().total.cost) == expected
        assert sum(Fraction(counted.cost) for counted in usage.page(limit=500).records) == expected


async def test_a_new_price_changes_stored_costs_only_by_repricing(tmp_path: Path) -> None:
    path = tmp_path / "u.sqlite"
    with usage_file(path, prices=price_book(a=CHEAP, b=CHEAP)) as usage:
        usage.store.add(record(f"{model}{n}", model, 1e9 + n * 3000) for n in range(100) for model in "ab")
        before = usage.report().rows
        usage.prices = price_book(a=DEAR, b=CHEAP)
        assert usage.report().rows == before
        done = await reprice(usage, Reprice(since=1e9 + 50 * 3000, model="a"))  # type: ignore[arg-type]
        assert done.records == 50
        one, two = Fraction(7, 10**12) + Fraction(15, 10**6), Fraction(14 + 7 * 5 // 10, 10**6)
        two = Fraction(7 * 2, 10**6) + Fraction(5 * 7, 10**7)
        assert (Fraction(done.before), Fraction(done.after)) == (50 * one, 50 * two)
        cost = {row.model: Fraction(row.cost) for row in usage.report().rows}
        assert cost == {"a": 50 * one + 50 * two, "b": 100 * one}
        repriced = stored_sums(path)
        usage.store.begin_rebuild()
        usage.store.finish_rebuild(None)
        assert stored_sums(path) == repriced, "the sums are those of the records"
        again = await reprice(usage, Reprice(since=1e9, model="b"))  # type: ignore[arg-type]
        assert again.records == 0


def test_loaded_time_is_charged_once_in_any_order_of_events(tmp_path: Path) -> None:
    began, ended = 1e9, 1e9 + 5400.5
    start = LoadedInterval(instance="i", model="a", node="n", since=began)
    end = LoadedInterval(instance="i", model="a", node="n", since=began, until=ended)
    orders = {"u1": [start, end, end, start], "u2": [end, start], "u3": [start, start, end]}
    for name, intervals in orders.items():
        with usage_file(tmp_path / name, prices=price_book(a=HOURLY)) as usage:
            for number, interval in enumerate(intervals):
                record_intervals(usage.store, [interval])
                charge_loaded_time(
                    usage.store, [start] if number == 0 else [], began + 600 * (number + 1), {}
                )
            total = usage.report(by=(Dimension.MODEL, Dimension.NODE)).rows[0]
            assert (total.model, total.node, total.loaded_s, total.cost) == ("a", "n", 5400.5, "5.4005"), name
            hours = usage.report(by=(), step="hour", since=began - began % 3600, until=ended + 1).rows
            assert sum(row.loaded_s for row in hours) == 5400.5
            assert len(hours) == 3, "it is spread over its hours"


def test_a_lost_instance_is_charged_until_it_was_last_seen(tmp_path: Path) -> None:
    with usage_file(tmp_path / "u.sqlite", prices=price_book(a=HOURLY)) as usage:
        interval = LoadedInterval(instance="i", model="a", node="n", since=1e9)
        for second in (10, 20, 30):
            charge_loaded_time(usage.store, [interval], 1e9 + second, {"i": 1500})
        for second in (60, 100, 200):
            charge_loaded_time(usage.store, [], 1e9 + second, {})
        total = usage.report().total
        assert (total.loaded_s, total.energy_wh) == (30.0, 4.5)
        charge_loaded_time(usage.store, [interval], 1e9 + 300, {})
        assert usage.report().total.loaded_s == 300.0, "a lost instance that returns is charged in full"


def budget(**fields: Any) -> Budget:
    return Budget(
        **{"budget": "b", "limit": Decimal(100), "unit": UsageUnit.TOKENS, "period": Period.DAY, **fields}
    )


def test_running_totals_equal_the_stored_sums(tmp_path: Path) -> None:
    now = 1e9
    specs = [
        budget(unit=UsageUnit.MONEY, budget="money"),
        budget(key="k", budget="key"),
        budget(model="b", unit=UsageUnit.REQUESTS, budget="model"),
        budget(key="anyone", model="a", budget="both"),
        budget(period=Period.MONTH, budget="month"),
    ]
    rng = random.Random(5)
    with usage_file(tmp_path / "u.sqlite", prices=price_book(a=CHEAP, b=DEAR)) as usage:

        def loaded(spec: Budget) -> Any:
            total = BudgetTotal.start(spec, ZoneInfo("Europe/Berlin"), now)
            total.serial, total.used = load_used(usage.store, spec, total.starts_at, total.ends_at)
            return total

        early, late = [loaded(spec) for spec in specs], []
        for number in range(60):
            if number == 30:
                late = [loaded(spec) for spec in specs]
            increments = usage.store.add(
                [
                    record(
                        str(number),
                        rng.choice("ab"),
                        now + rng.uniform(-1, 1) * DAY_S,
                        key=rng.choice(["k", None]),
                    )
                ]
            )
            # Totals loaded after the transaction include its increments already.
            for total in (*early, *late, *(loaded(spec) for spec in specs)):
                for increment in increments:
                    total.add(increment)
        final = [loaded(spec).state() for spec in specs]
        assert [total.state() for total in early] == final
        assert [total.state() for total in late] == final
        assert all(state.ratio > 0 for state in final)


def test_levels_are_crossed_when_reached_and_at_the_start_of_a_period() -> None:
    total = BudgetTotal.start(budget(action=BudgetAction.REFUSE), UTC, 1e9)
    within = total.state()
    total.used = Decimal(80)
    warned = total.state()
    total.used = Decimal(100)
    exhausted = total.state()
    assert [state.level for state in (within, warned, exhausted)] == list(BudgetLevel)
    fresh = BudgetTotal.start(budget(), UTC, 1e9 + DAY_S).state()
    assert [level_crossed(*pair) for pair in ((None, within), (within, warned), (warned, warned))] == [
        False,
        True,
        False,
    ]
    assert level_crossed(None, exhausted)
    assert level_crossed(exhausted, fresh), "refused keys are admitted again"
    assert not level_crossed(within, fresh)
    names = {sample.name: sample.value for sample in budget_samples(warned)}
    assert names == {"yard_budget_used_ratio": 0.8, "yard_budget_used": 80.0, "yard_budget_limit": 100.0}


def test_retention_removes_records_and_retains_sums(tmp_path: Path) -> None:
    now, path = 1e9, tmp_path / "u.sqlite"
    with usage_file(path, prices=price_book(a=CHEAP)) as usage:
        records = [record(str(n), finished_at=now - n * DAY_S / 4) for n in range(400)]
        usage.store.add(records)
        before = usage.report(by=(), latency=True)
        policy = RetentionPolicy(records_days=30, records_mib=0, trends_days=0)
        storage.move_horizon(usage.store, storage.target_horizon(usage.store, policy, now))
        while storage.remove_record_batch(usage.store):
            pass
        assert 118 <= usage.store.count() <= 122
        assert usage.report(by=(), latency=True) == before
        # The stream may redeliver removed records; the sums include them.
        assert usage.store.add(records) == []
        usage.store.begin_rebuild()
        usage.store.finish_rebuild(None)
        assert usage.report(by=(), latency=True) == before
        storage.remove_old_sums(
            usage.store, RetentionPolicy(records_days=30, records_mib=0, trends_days=50), now
        )
        assert usage.report(by=()).total.requests == pytest.approx(200, abs=4)
        storage.vacuum(usage.store)


def test_retention_by_size_removes_the_oldest_days(tmp_path: Path) -> None:
    now = 1e9
    with usage_file(tmp_path / "u.sqlite") as usage:
        usage.store.add(record(str(n), finished_at=now - n * 60) for n in range(6000))
        size = storage.used_bytes(usage.store) / 2**20
        policy = RetentionPolicy(records_days=0, records_mib=size / 2, trends_days=0)
        storage.move_horizon(usage.store, storage.target_horizon(usage.store, policy, now))
        while storage.remove_record_batch(usage.store):
            pass
        assert storage.used_bytes(usage.store) / 2**20 < size / 2 * 1.1
        assert usage.report(by=()).total.requests == 6000
        assert usage.store.count() > 1000


def test_a_removed_model_is_not_restored_from_the_stream(tmp_path: Path) -> None:
    with usage_file(tmp_path / "u.sqlite") as usage:
        usage.store.add([record("1", "deleted"), record("2", "here")])
        assert storage.remove_model(usage.store, "deleted") == 1
        assert usage.store.add([record("1", "deleted")]) == []
        assert usage.requests() == {"here": 1}
        assert len(usage.store.add([record("3", "deleted", finished_at=4e9)])) == 1


async def test_repricing_in_several_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.monitor.prices._BATCH", 7)
    with usage_file(tmp_path / "u.sqlite", prices=price_book(a=CHEAP)) as usage:
        usage.store.add(record(str(n), finished_at=1e9 + n // 3) for n in range(50))
        usage.prices = price_book(a=DEAR)
        async with asyncio.timeout(5):
            assert (await reprice(usage, Reprice(since=1e9))).records == 50  # type: ignore[arg-type]
