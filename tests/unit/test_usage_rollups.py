"""Rollups: after any change of records, every derived table equals one that is rebuilt."""

import random
import sqlite3
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from schemas.prices import Price, Reprice
from schemas.requests import Outcome
from schemas.usage import Dimension, UsageStep
from services.monitor import storage
from services.monitor.prices import reprice
from services.monitor.storage import RetentionPolicy
from services.monitor.usage.loaded_time import LoadedInterval, charge_loaded_time
from services.monitor.usage.rollup_updates import rebuild_derived
from services.monitor.usage.rollups import (
    ALL_LATENCIES,
    DERIVED,
    DERIVED_LATENCIES,
    QUARTER_S,
    SUMS,
    TimeUnit,
    select_rollups,
    split,
)
from tests.unit.usage_records import (
    CHEAP,
    DAY_S,
    DEAR,
    HOURLY,
    UTC,
    UsageFile,
    price_book,
    record,
    stored_sums,
    usage_file,
)

NOW = 1e9
KATHMANDU = ZoneInfo("Asia/Kathmandu")


@pytest.mark.parametrize(
    ("needed", "tables"),
    [
        (set(), ["blocks", "model_days", "model_hours", "quarters"]),
        ({"model"}, ["blocks", "model_days", "model_hours", "quarters"]),
        ({"model", "key"}, ["blocks", "days", "quarters"]),
        ({"outcome"}, ["blocks", "days", "quarters"]),
    ],
)
def test_the_smallest_sufficient_rollups_are_selected(needed: set[str], tables: list[str]) -> None:
    assert [rollup.table for rollup in select_rollups(SUMS, needed)] == tables


def test_the_smallest_sufficient_latency_rollups_are_selected() -> None:
    assert [rollup.table for rollup in select_rollups(ALL_LATENCIES, {"model"})] == [
        "model_block_latencies",
        "model_latencies",
    ]
    assert [rollup.table for rollup in select_rollups(ALL_LATENCIES, {"key"})] == ["latencies"]


def test_a_period_is_split_with_the_widest_units_in_its_middle() -> None:
    units = (TimeUnit.BLOCK, TimeUnit.DAY, TimeUnit.HOUR, TimeUnit.QUARTER)
    ranges = split(NOW - 100 * DAY_S + 1, NOW + 1, KATHMANDU, units)
    assert {part.unit for part in ranges} == {None, *units}
    assert sum(part.high - part.low for part in ranges if part.unit is None) < 2 * QUARTER_S


def derived_sums(path: Path) -> dict[str, list[tuple[object, ...]]]:
    db = sqlite3.connect(path)
    names = {number: series for number, *series in db.execute("SELECT * FROM series")}
    tables = {}
    for rollup in (*DERIVED, *DERIVED_LATENCIES):
        cursor = db.execute(f"SELECT * FROM {rollup.table}")
        at = [column[0] for column in cursor.description].index("series")
        rows = [(*row[:at], tuple(names[row[at]]), *row[at + 1 :]) for row in cursor]
        tables[rollup.table] = sorted(rows, key=repr)
    db.close()
    return tables


def add_records(usage: UsageFile, rng: random.Random, number: int) -> None:
    usage.store.add(
        record(
            f"{number}-{index}",
            rng.choice("abc"),
            NOW - rng.random() * 90 * DAY_S,
            key=rng.choice(["k1", "k2", None]),
            node=rng.choice(["n1", "n2"]),
            outcome=rng.choice(list(Outcome)),
            first_token_ms=rng.random() * 900,
            prompt_tokens=rng.randrange(10**6),
        )
        for index in range(rng.randrange(60))
    )


async def change(usage: UsageFile, rng: random.Random, number: int) -> None:
    prices: list[Price] = [CHEAP, DEAR, HOURLY]
    at = NOW - rng.random() * 90 * DAY_S
    match rng.choice(["add", "add", "time", "reprice", "remove", "records", "sums", "rebuild", "discard"]):
        case "add":
            add_records(usage, rng, number)
        case "time":
            interval = LoadedInterval(instance=f"i{number}", model="a", node="n1", since=at)
            charge_loaded_time(usage.store, [interval], at + 9e3, {})
        case "reprice":
            usage.prices = price_book(a=rng.choice(prices), b=rng.choice(prices))
            await reprice(usage, Reprice(since=at))  # type: ignore[arg-type]
        case "remove":
            storage.remove_model(usage.store, "c")
        case "records":
            policy = RetentionPolicy(records_days=rng.randrange(70, 90), records_mib=0, trends_days=0)
            storage.move_horizon(usage.store, storage.target_horizon(usage.store, policy, NOW))
            storage.remove_record_batch(usage.store)
        case "sums":
            policy = RetentionPolicy(records_days=0, records_mib=0, trends_days=rng.randrange(70, 90))
            storage.remove_old_sums(usage.store, policy, NOW)
        case kind:
            usage.store.begin_rebuild()
            usage.store.finish_rebuild(at if kind == "discard" else None)


@pytest.mark.parametrize("seed", range(6))
async def test_derived_sums_equal_a_rebuild_after_any_changes(tmp_path: Path, seed: int) -> None:
    rng, path = random.Random(seed), tmp_path / "u.sqlite"
    with usage_file(path, rng.choice([UTC, KATHMANDU]), price_book(a=CHEAP, b=DEAR)) as usage:
        add_records(usage, rng, -1)
        for number in range(15):
            await change(usage, rng, number)
            before = derived_sums(path)
            with usage.store.transaction():
                rebuild_derived(usage.store.db)
            assert derived_sums(path) == before, number


async def test_plain_sums_equal_a_rebuild_from_records(tmp_path: Path) -> None:
    rng, path = random.Random(9), tmp_path / "u.sqlite"
    with usage_file(path, prices=price_book(a=CHEAP)) as usage:
        for number in range(5):
            add_records(usage, rng, number)
            usage.prices = price_book(a=DEAR, b=CHEAP) if number % 2 else price_book(a=CHEAP)
            await reprice(usage, Reprice(since=NOW - 50 * DAY_S))  # type: ignore[arg-type]
        before = stored_sums(path), derived_sums(path)
        usage.store.begin_rebuild()
        usage.store.finish_rebuild(None)
        assert (stored_sums(path), derived_sums(path)) == before


def test_small_and_large_rollups_give_the_same_totals(tmp_path: Path) -> None:
    rng = random.Random(4)
    with usage_file(tmp_path / "u.sqlite") as usage:
        for number in range(10):
            add_records(usage, rng, number)
        for step in (None, UsageStep.HOUR, UsageStep.DAY, UsageStep.MONTH):
            for tz in ("UTC", "Asia/Kathmandu", "America/New_York"):
                query = {"step": step, "tz": tz, "since": NOW - 70 * DAY_S, "until": NOW - 777.7}
                small = usage.report(**query, latency=True)
                large = usage.report(**query, latency=True, by=(Dimension.MODEL, Dimension.OUTCOME))
                assert small.total == large.total
                assert sum(row.failed for row in small.rows) == sum(row.failed for row in large.rows)


def test_a_file_of_version_2_gets_derived_sums(tmp_path: Path) -> None:
    rng, path = random.Random(2), tmp_path / "u.sqlite"
    with usage_file(path, prices=price_book(a=CHEAP)) as usage:
        add_records(usage, rng, 0)
        add_records(usage, rng, 1)
        before, answer = derived_sums(path), usage.report(latency=True)
        for rollup in (*DERIVED, *DERIVED_LATENCIES):
            usage.store.db.execute(f"DROP TABLE {rollup.table}")
        usage.store.db.execute("PRAGMA user_version = 2")
    with usage_file(path) as usage:
        assert derived_sums(path) == before
        assert usage.report(latency=True) == answer
