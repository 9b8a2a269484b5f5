"""Costs on disk: what was counted keeps its cost, time is charged once, and sums are exact."""

import asyncio
import random
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from schemas.budgets import Action, Budget, BudgetLevel
from schemas.prices import Method, Price, Reprice, Tier
from schemas.usage import Dimension, Period, UsageUnit
from services.monitor.budgets.loading import load_used
from services.monitor.budgets.samples import budget_samples
from services.monitor.budgets.totals import add_all, begin, crossed
from services.monitor.costs.reprice import reprice
from services.monitor.storage import retention
from services.monitor.storage.retention import Keep
from services.monitor.usage import rebuild
from services.monitor.usage.loaded import Stay, begin_or_end, pass_time
from tests.unit.accounts import UTC, Kept, book, kept, record
from tests.unit.test_usage import sums_of

DAY_S = 86400.0
ONE = Price(tiers=(Tier(input=Decimal("0.000001"), output=Decimal("3")),))
TWO = Price(tiers=(Tier(input=Decimal("2"), output=Decimal("0.7")),))
HOUR = Price(method=Method.HOURLY, per_hour=Decimal("3.6"))


class Keeper:
    """The part of a UsageKeeper that repricing uses, on a store in this thread."""

    def __init__(self, usage: Kept) -> None:
        self._usage = usage

    async def write(self, call: Any, *arguments: Any) -> Any:
        return call(self._usage.store, *arguments)

    async def tell_recounted(self) -> None:
        return None


def test_costs_add_up_exactly_however_small_they_are(tmp_path: Path) -> None:
    rng = random.Random(1)
    sizes = [(rng.randrange(10**6), rng.randrange(10**6)) for _ in range(500)]
    with kept(tmp_path / "u.sqlite", prices=book(a=ONE)) as usage:
        usage.store.add(
            record(
                str(n),
                finished_at=1e9 + n * 977,
                prompt_tokens=prompt,
                cached_tokens=0,
                completion_tokens=said,
            )
            for n, (prompt, said) in enumerate(sizes)
        )
        expected = sum(
            (Fraction(prompt, 10**12) + Fraction(3 * said, 10**6) for prompt, said in sizes), Fraction(0)
        )
        assert Fraction(usage.ask().total.cost) == expected
        assert sum(Fraction(each.cost) for each in usage.page(limit=500).records) == expected


async def test_a_new_price_leaves_the_past_alone_until_it_is_asked_to_change_it(tmp_path: Path) -> None:
    path = tmp_path / "u.sqlite"
    with kept(path, prices=book(a=ONE, b=ONE)) as usage:
        usage.store.add(record(f"{model}{n}", model, 1e9 + n * 3000) for n in range(100) for model in "ab")
        before = usage.ask().rows
        usage.prices = book(a=TWO, b=ONE)
        assert usage.ask().rows == before
        done = await reprice(Keeper(usage), Reprice(since=1e9 + 50 * 3000, model="a"))  # type: ignore[arg-type]
        assert done.records == 50
        one, two = Fraction(7, 10**12) + Fraction(15, 10**6), Fraction(14 + 7 * 5 // 10, 10**6)
        two = Fraction(7 * 2, 10**6) + Fraction(5 * 7, 10**7)
        assert (Fraction(done.before), Fraction(done.after)) == (50 * one, 50 * two)
        cost = {row.model: Fraction(row.cost) for row in usage.ask().rows}
        assert cost == {"a": 50 * one + 50 * two, "b": 100 * one}
        repriced = sums_of(path)
        rebuild.begin(usage.store)
        rebuild.finish(usage.store, None)
        assert sums_of(path) == repriced, "the sums are those of the records"
        again = await reprice(Keeper(usage), Reprice(since=1e9, model="b"))  # type: ignore[arg-type]
        assert again.records == 0


def test_time_is_charged_once_whatever_order_the_news_comes_in(tmp_path: Path) -> None:
    began, ended = 1e9, 1e9 + 5400.5
    stay = Stay(instance="i", model="a", node="n", since=began)
    over = Stay(instance="i", model="a", node="n", since=began, until=ended)
    for name, news in {"u1": [stay, over, over, stay], "u2": [over, stay], "u3": [stay, stay, over]}.items():
        with kept(tmp_path / name, prices=book(a=HOUR)) as usage:
            for number, each in enumerate(news):
                begin_or_end(usage.store, [each])
                pass_time(usage.store, [stay] if number == 0 else [], began + 600 * (number + 1), {})
            total = usage.ask(by=(Dimension.MODEL, Dimension.NODE)).rows[0]
            assert (total.model, total.node, total.loaded_s, total.cost) == ("a", "n", 5400.5, "5.4005"), name
            hours = usage.ask(by=(), step="hour", since=began - began % 3600, until=ended + 1).rows
            assert sum(row.loaded_s for row in hours) == 5400.5
            assert len(hours) == 3, "it is spread over the time it took"


def test_an_instance_that_vanishes_is_charged_until_it_was_seen_last(tmp_path: Path) -> None:
    with kept(tmp_path / "u.sqlite", prices=book(a=HOUR)) as usage:
        stay = Stay(instance="i", model="a", node="n", since=1e9)
        for second in (10, 20, 30):
            pass_time(usage.store, [stay], 1e9 + second, {"i": 1500})
        for second in (60, 100, 200):
            pass_time(usage.store, [], 1e9 + second, {})
        total = usage.ask().total
        assert (total.loaded_s, total.energy_wh) == (30.0, 4.5)
        pass_time(usage.store, [stay], 1e9 + 300, {})
        assert usage.ask().total.loaded_s == 300.0, "it was only out of sight"


def budget(**fields: Any) -> Budget:
    return Budget(
        **{"budget": "b", "limit": Decimal(100), "unit": UsageUnit.TOKENS, "period": Period.DAY, **fields}
    )


def test_a_running_total_is_what_the_sums_say_whenever_it_was_begun(tmp_path: Path) -> None:
    now = 1e9
    specs = [
        budget(unit=UsageUnit.MONEY, budget="money"),
        budget(key="k", budget="key"),
        budget(model="b", unit=UsageUnit.REQUESTS, budget="model"),
        budget(key="anyone", model="a", budget="both"),
        budget(period=Period.MONTH, budget="month"),
    ]
    rng = random.Random(5)
    with kept(tmp_path / "u.sqlite", prices=book(a=ONE, b=TWO)) as usage:

        def loaded(spec: Budget) -> Any:
            total = begin(spec, ZoneInfo("Europe/Berlin"), now)
            total.serial, total.used = load_used(usage.store, spec, total.starts_at, total.ends_at)
            return total

        early, late = [loaded(spec) for spec in specs], []
        for number in range(60):
            if number == 30:
                late = [loaded(spec) for spec in specs]
            counted = usage.store.add(
                [
                    record(
                        str(number),
                        rng.choice("ab"),
                        now + rng.uniform(-1, 1) * DAY_S,
                        key=rng.choice(["k", None]),
                    )
                ]
            )
            add_all(early, counted)
            add_all(late, counted)
            # What was loaded after it was counted, and is told late, has it already.
            add_all([loaded(spec) for spec in specs], counted)
        final = [loaded(spec).state() for spec in specs]
        assert [total.state() for total in early] == final
        assert [total.state() for total in late] == final
        assert all(state.ratio > 0 for state in final)


def test_levels_are_told_when_they_are_reached_and_when_a_period_begins() -> None:
    total = begin(budget(action=Action.REFUSE), UTC, 1e9)
    within = total.state()
    total.used = Decimal(80)
    warned = total.state()
    total.used = Decimal(100)
    exhausted = total.state()
    assert [state.level for state in (within, warned, exhausted)] == list(BudgetLevel)
    fresh = begin(budget(), UTC, 1e9 + DAY_S).state()
    assert [crossed(*pair) for pair in ((None, within), (within, warned), (warned, warned))] == [
        False,
        True,
        False,
    ]
    assert crossed(None, exhausted)
    assert crossed(exhausted, fresh), "those who were refused may come again"
    assert not crossed(within, fresh)
    names = {sample.name: sample.value for sample in budget_samples([warned])}
    assert names == {"yard_budget_used_ratio": 0.8, "yard_budget_used": 80.0, "yard_budget_limit": 100.0}


def test_old_records_go_and_their_sums_stay(tmp_path: Path) -> None:
    now, path = 1e9, tmp_path / "u.sqlite"
    with kept(path, prices=book(a=ONE)) as usage:
        records = [record(str(n), finished_at=now - n * DAY_S / 4) for n in range(400)]
        usage.store.add(records)
        before = usage.ask(by=(), latency=True)
        keep = Keep(records_days=30, records_mib=0, trends_days=0)
        retention.move_horizon(usage.store, retention.horizon_of(usage.store, keep, now))
        while retention.remove_some_records(usage.store):
            pass
        assert 118 <= rebuild.count(usage.store) <= 122
        assert usage.ask(by=(), latency=True) == before
        # The stream may bring again what went; it is in the sums already.
        assert usage.store.add(records) == []
        rebuild.begin(usage.store)
        rebuild.finish(usage.store, None)
        assert usage.ask(by=(), latency=True) == before
        retention.remove_old_sums(usage.store, Keep(records_days=30, records_mib=0, trends_days=50), now)
        assert usage.ask(by=()).total.requests == pytest.approx(200, abs=4)
        retention.vacuum(usage.store)


def test_a_file_that_is_too_large_gives_up_its_oldest_days(tmp_path: Path) -> None:
    now = 1e9
    with kept(tmp_path / "u.sqlite") as usage:
        usage.store.add(record(str(n), finished_at=now - n * 60) for n in range(6000))
        size = retention.used_bytes(usage.store) / 2**20
        keep = Keep(records_days=0, records_mib=size / 2, trends_days=0)
        retention.move_horizon(usage.store, retention.horizon_of(usage.store, keep, now))
        while retention.remove_some_records(usage.store):
            pass
        assert retention.used_bytes(usage.store) / 2**20 < size / 2 * 1.1
        assert usage.ask(by=()).total.requests == 6000
        assert rebuild.count(usage.store) > 1000


def test_a_model_that_is_forgotten_does_not_come_back_from_the_stream(tmp_path: Path) -> None:
    with kept(tmp_path / "u.sqlite") as usage:
        usage.store.add([record("1", "gone"), record("2", "here")])
        assert retention.forget_model(usage.store, "gone") == 1
        assert usage.store.add([record("1", "gone")]) == []
        assert usage.requests() == {"here": 1}
        assert len(usage.store.add([record("3", "gone", finished_at=4e9)])) == 1


async def test_repricing_takes_more_than_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.monitor.costs.reprice._BATCH", 7)
    with kept(tmp_path / "u.sqlite", prices=book(a=ONE)) as usage:
        usage.store.add(record(str(n), finished_at=1e9 + n // 3) for n in range(50))
        usage.prices = book(a=TWO)
        async with asyncio.timeout(5):
            assert (await reprice(Keeper(usage), Reprice(since=1e9))).records == 50  # type: ignore[arg-type]
