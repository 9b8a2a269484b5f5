"""Sums of sums: whatever happens to records, every table is what a recount from below makes of it."""

import random
import sqlite3
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from schemas.prices import Price, Reprice
from schemas.requests import Outcome
from schemas.usage import Dimension, UsageStep
from services.monitor.costs.reprice import reprice
from services.monitor.storage import retention
from services.monitor.storage.retention import Keep
from services.monitor.usage import rebuild
from services.monitor.usage.levels import QUARTER_S, Unit, parts
from services.monitor.usage.loaded import Stay, pass_time
from services.monitor.usage.rollups import DERIVED, DERIVED_LATENCIES, LATENCY, SUMS, chosen
from services.monitor.usage.sums import derive
from tests.unit.accounts import UTC, Kept, book, kept, record
from tests.unit.test_costs_kept import HOUR, ONE, TWO, Keeper
from tests.unit.test_usage import sums_of

DAY_S = 86400.0
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
def test_the_smallest_sums_that_tell_enough_apart_are_asked(needed: set[str], tables: list[str]) -> None:
    assert [rollup.table for rollup in chosen(SUMS, needed)] == tables


def test_latencies_are_asked_of_the_smallest_bins() -> None:
    assert [each.table for each in chosen(LATENCY, {"model"})] == ["model_block_latencies", "model_latencies"]
    assert [each.table for each in chosen(LATENCY, {"key"})] == ["latencies"]


def test_a_period_is_cut_once_with_the_widest_units_in_its_middle() -> None:
    units = (Unit.BLOCK, Unit.DAY, Unit.HOUR, Unit.QUARTER)
    found = parts(NOW - 100 * DAY_S + 1, NOW + 1, KATHMANDU, units)
    assert {part.unit for part in found} == {None, *units}
    assert sum(part.high - part.low for part in found if part.unit is None) < 2 * QUARTER_S


def all_sums(path: Path) -> dict[str, list[tuple[object, ...]]]:
    db = sqlite3.connect(path)
    names = {number: series for number, *series in db.execute("SELECT * FROM series")}
    found = {}
    for rollup in (*DERIVED, *DERIVED_LATENCIES):
        cursor = db.execute(f"SELECT * FROM {rollup.table}")
        at = [column[0] for column in cursor.description].index("series")
        rows = [(*row[:at], tuple(names[row[at]]), *row[at + 1 :]) for row in cursor]
        # Where all was taken away again, a recount has no row.
        found[rollup.table] = sorted(rows, key=repr)
    db.close()
    return found


def add_some(usage: Kept, rng: random.Random, number: int) -> None:
    usage.store.add(
        record(
            f"{number}-{each}",
            rng.choice("abc"),
            NOW - rng.random() * 90 * DAY_S,
            key=rng.choice(["k1", "k2", None]),
            node=rng.choice(["n1", "n2"]),
            outcome=rng.choice(list(Outcome)),
            first_token_ms=rng.random() * 900,
            prompt_tokens=rng.randrange(10**6),
        )
        for each in range(rng.randrange(60))
    )


async def change(usage: Kept, rng: random.Random, number: int) -> None:
    price: list[Price] = [ONE, TWO, HOUR]
    at = NOW - rng.random() * 90 * DAY_S
    match rng.choice(["add", "add", "time", "reprice", "forget", "records", "sums", "rebuild", "discard"]):
        case "add":
            add_some(usage, rng, number)
        case "time":
            pass_time(
                usage.store, [Stay(instance=f"i{number}", model="a", node="n1", since=at)], at + 9e3, {}
            )
        case "reprice":
            usage.prices = book(a=rng.choice(price), b=rng.choice(price))
            await reprice(Keeper(usage), Reprice(since=at))  # type: ignore[arg-type]
        case "forget":
            retention.forget_model(usage.store, "c")
        case "records":
            keep = Keep(records_days=rng.randrange(70, 90), records_mib=0, trends_days=0)
            retention.move_horizon(usage.store, retention.horizon_of(usage.store, keep, NOW))
            retention.remove_some_records(usage.store)
        case "sums":
            keep = Keep(records_days=0, records_mib=0, trends_days=rng.randrange(70, 90))
            retention.remove_old_sums(usage.store, keep, NOW)
        case end:
            rebuild.begin(usage.store)
            rebuild.finish(usage.store, at if end == "discard" else None)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_done_every_sum_is_that_of_a_recount(tmp_path: Path, seed: int) -> None:
    rng, path = random.Random(seed), tmp_path / "u.sqlite"
    with kept(path, rng.choice([UTC, KATHMANDU]), book(a=ONE, b=TWO)) as usage:
        add_some(usage, rng, -1)
        for number in range(15):
            await change(usage, rng, number)
            before = all_sums(path)
            with usage.store.transaction():
                derive(usage.store.db)
            assert all_sums(path) == before, number


async def test_sums_below_are_those_of_the_records(tmp_path: Path) -> None:
    rng, path = random.Random(9), tmp_path / "u.sqlite"
    with kept(path, prices=book(a=ONE)) as usage:
        for number in range(5):
            add_some(usage, rng, number)
            usage.prices = book(a=TWO, b=ONE) if number % 2 else book(a=ONE)
            await reprice(Keeper(usage), Reprice(since=NOW - 50 * DAY_S))  # type: ignore[arg-type]
        before = sums_of(path), all_sums(path)
        rebuild.begin(usage.store)
        rebuild.finish(usage.store, None)
        assert (sums_of(path), all_sums(path)) == before


def test_every_question_is_answered_alike_from_small_sums_and_from_large_ones(tmp_path: Path) -> None:
    rng = random.Random(4)
    with kept(tmp_path / "u.sqlite") as usage:
        for number in range(10):
            add_some(usage, rng, number)
        for step in (None, UsageStep.HOUR, UsageStep.DAY, UsageStep.MONTH):
            for tz in ("UTC", "Asia/Kathmandu", "America/New_York"):
                asked = {"step": step, "tz": tz, "since": NOW - 70 * DAY_S, "until": NOW - 777.7}
                small = usage.ask(**asked, latency=True)
                large = usage.ask(**asked, latency=True, by=(Dimension.MODEL, Dimension.OUTCOME))
                assert small.total == large.total
                assert sum(row.failed for row in small.rows) == sum(row.failed for row in large.rows)


def test_a_file_without_sums_of_sums_gets_them_when_it_is_opened(tmp_path: Path) -> None:
    rng, path = random.Random(2), tmp_path / "u.sqlite"
    with kept(path, prices=book(a=ONE)) as usage:
        add_some(usage, rng, 0)
        add_some(usage, rng, 1)
        before, answer = all_sums(path), usage.ask(latency=True)
        for rollup in (*DERIVED, *DERIVED_LATENCIES):
            usage.store.db.execute(f"DROP TABLE {rollup.table}")
        usage.store.db.execute("PRAGMA user_version = 2")
    with kept(path) as usage:
        assert all_sums(path) == before
        assert usage.ask(latency=True) == answer
