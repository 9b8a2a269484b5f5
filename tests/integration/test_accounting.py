"""Accounting on a real broker: prices, budgets, reports, storage."""

import asyncio
import time
from decimal import Decimal

import msgspec
import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.client import Client
from schemas import buckets, subjects
from schemas.base import Role
from schemas.budgets import BudgetLevel, PutBudget
from schemas.errors import BadRequest, Conflict, NotFound, ServiceUnavailable
from schemas.instances import Instance, InstanceState, Reason
from schemas.models import ModelSpec
from schemas.prices import DeletePrice, ListPrices, Price, PriceTier, PricingMethod, PutPrice, Reprice
from schemas.registry import PutModel, RenameModel
from schemas.requests import RequestFinished
from schemas.usage import Period, PutReport, UsageQuery, UsageRow, UsageUnit
from services.monitor.service import USAGE_FILE
from services.supervisor import service as supervisor
from tests.integration.monitor_service import at_least, monitor, usage
from tests.support import Yard, eventually
from tests.unit.usage_records import record

TIMEOUT_S = 20.0
TOKEN = Price(tiers=(PriceTier(input=Decimal(1_000_000), output=Decimal(0)),))


async def finish(bus: Bus, *records: RequestFinished) -> None:
    for finished in records:
        await bus.emit(subjects.REQUEST_FINISHED, finished, model=finished.model, request=finished.request)


async def test_a_removed_usage_file_is_projected_again(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    await finish(runner, *(record(f"r{n}", finished_at=time.time()) for n in range(20)))
    async with monitor(yard):
        before = await usage(operator, at_least(20))
    for file in yard.settings.home.glob(f"{USAGE_FILE}*"):
        file.unlink()
    async with monitor(yard):
        after = await usage(operator, at_least(20))
        assert after.rows == before.rows
        rebuilt = await Client(operator).accounts.rebuild()
        assert (rebuilt.read, rebuilt.added, rebuilt.kept) == (20, 0, 20)


async def test_prices_have_revisions_and_change_stored_costs_only_by_repricing(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    accounts, began = Client(operator).accounts, time.time()
    async with monitor(yard):
        with pytest.raises(BadRequest, match="gap"):
            await accounts.put_price(
                PutPrice(model="a", price=Price(tiers=(PriceTier(min_prompt_tokens=1),)))
            )
        first = await accounts.put_price(PutPrice(model="a", price=TOKEN, revision=0))
        with pytest.raises(Conflict):
            await accounts.put_price(PutPrice(model="a", price=TOKEN, revision=0))
        # The price applies from now on.
        await finish(runner, record("old", finished_at=began - 5), record("new", finished_at=time.time()))
        report = await usage(operator, at_least(2))
        assert report.total.cost == "7"
        free = Price(method=PricingMethod.FREE, valid_from=began - 60)
        await accounts.put_price(PutPrice(model="a", price=free, revision=first.revision))
        assert (await accounts.usage(UsageQuery())).total.cost == "7"
        dearer = msgspec.structs.replace(TOKEN, valid_from=began - 30)
        again = await accounts.put_price(PutPrice(model="a", price=dearer, retroactive=True))
        assert again.repriced == 1
        assert (await accounts.usage(UsageQuery())).total.cost == "14"
        assert [price.method for price in (await accounts.price("a")).prices] == ["free", "tokens", "tokens"]
        await accounts.delete_price(DeletePrice(model="a"))
        with pytest.raises(NotFound):
            await accounts.price("a")
        assert (await accounts.usage(UsageQuery())).total.cost == "14", "stored usage keeps its cost"
        done = await accounts.reprice(Reprice(since=began - 60))
        assert (done.records, done.before, done.after) == (2, "14", "0")


async def test_the_total_of_a_budget_is_published_and_survives_a_restart(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    accounts = Client(operator).accounts
    order = PutBudget(budget="b", limit=Decimal(36), unit=UsageUnit.TOKENS, period=Period.DAY, key="k")
    async with Tasks() as tasks, asyncio.timeout(2 * TIMEOUT_S):
        spending = await BucketCache.start(operator, buckets.SPENDING, tasks)
        async with monitor(yard):
            await accounts.put_budget(order)
            assert (await accounts.budget("b")).state is not None
            now = time.time()
            await finish(runner, *(record(f"k{n}", finished_at=now, key="k") for n in range(2)))
            await finish(runner, record("other", finished_at=now))
            await spending.until(lambda values: values["b"].used == "24")
        await finish(runner, record("k2", finished_at=now, key="k"), record("k2", finished_at=now, key="k"))
        async with monitor(yard):
            await spending.until(lambda values: values["b"].level is BudgetLevel.EXHAUSTED)
            assert spending.values["b"].used == "36", "with the requests of the downtime, each once"
            (listed,) = (await accounts.budgets()).budgets
            assert listed.state == spending.values["b"]
            with pytest.raises(Conflict):
                await accounts.put_budget(msgspec.structs.replace(order, revision=1_000_000))
            await accounts.delete_budget("b")
            await spending.until(lambda values: not values)


async def test_loaded_time_is_charged(yard: Yard) -> None:
    runner, operator = await yard.bus(Role.RUNNER), await yard.bus()
    accounts, now = Client(operator).accounts, time.time()
    ready = Instance(
        instance="i1",
        model="a",
        node="n",
        engine="e",
        revision=1,
        state=InstanceState.READY,
        reason=Reason.REQUESTED,
        changed_at=now - 3600,
        ready_at=now - 3600,
    )
    async with monitor(yard):
        hourly = Price(method=PricingMethod.HOURLY, per_hour=Decimal("2.5"), valid_from=0.0)
        await accounts.put_price(PutPrice(model="a", price=hourly))
        stopped = msgspec.structs.replace(ready, state=InstanceState.STOPPED, changed_at=now)
        for change in (ready, stopped, ready):
            await runner.emit(subjects.INSTANCE_CHANGED, change, instance="i1", state=change.state)

        async def rows() -> tuple[UsageRow, ...]:
            return (await accounts.usage(UsageQuery())).rows

        (row,) = await eventually(rows, "the loaded time is charged", timeout_s=TIMEOUT_S)
        assert (row.requests, row.loaded_s) == (0, pytest.approx(3600, abs=0.01))
        assert float(row.cost) == pytest.approx(2.5, abs=0.001)


async def test_reports_are_stored_and_usage_of_deleted_models_can_be_removed(yard: Yard) -> None:
    runner, operator, registry = (
        await yard.bus(Role.RUNNER),
        await yard.bus(),
        await yard.bus(Role.SUPERVISOR),
    )
    accounts = Client(operator).accounts
    await BucketStore(registry, buckets.MODELS).put(
        "here", ModelSpec(name="here", path="p", aliases=("nick",))
    )
    async with monitor(yard):
        await finish(runner, *(record(name, name, finished_at=time.time()) for name in ("here", "deleted")))
        await usage(operator, at_least(2))
        query = UsageQuery(by=(), model="nick", period=Period.DAY)
        await accounts.put_report(PutReport(report="mine", query=query, revision=0))
        assert (await accounts.run_report("mine")).total.requests == 1
        with pytest.raises(BadRequest):
            await accounts.put_report(PutReport(report="bad name", query=query))
        with pytest.raises(BadRequest, match="time zone"):
            await accounts.put_report(PutReport(report="x", query=UsageQuery(tz="Nowhere")))
        with pytest.raises(Conflict, match="registry"):
            await accounts.remove_usage("here")
        with pytest.raises(NotFound):
            await accounts.remove_usage("never")
        report = await accounts.storage()
        assert {data.model: data.orphan for data in report.models} == {"here": False, "deleted": True}
        stores = {store.name: store for store in report.stores}
        assert stores["EVENTS"].messages > 2, "the requests and the audit of reports"
        assert stores["EVENTS"].oldest_at == pytest.approx(time.time(), abs=60)
        assert stores["requests"].messages == 2
        assert (await accounts.remove_usage("deleted")).requests == 1
        rebuilt = await accounts.rebuild()
        assert (rebuilt.read, rebuilt.added, rebuilt.kept) == (2, 0, 1)
        done = await accounts.vacuum()
        assert done.after_bytes > 0

        async def has_disks() -> bool:
            return bool((await accounts.storage()).disks)

        await eventually(has_disks, "a disk is sampled", timeout_s=TIMEOUT_S)


async def test_a_joined_node_has_no_accounting(yard: Yard) -> None:
    operator = await yard.bus()
    yard.settings = msgspec.structs.replace(yard.settings, joined=True)
    async with monitor(yard):
        with pytest.raises(ServiceUnavailable):
            await Client(operator).accounts.usage(UsageQuery())


async def test_the_price_list_of_a_model_follows_its_rename(yard: Yard) -> None:
    operator = await yard.bus()
    async with monitor(yard), Tasks() as tasks:
        await supervisor.main(await yard.bus(Role.SUPERVISOR), yard.settings, tasks)
        await operator.call(subjects.MODEL_PUT, PutModel(name="old", path="m.gguf"))
        price = Price(valid_from=1.0, tiers=(PriceTier(input=Decimal(3)),))
        await operator.call(subjects.PRICE_PUT, PutPrice(model="old", price=price))
        await operator.call(subjects.MODEL_RENAME, RenameModel(model="old", name="new"))

        async def renamed() -> bool:
            lists = (await operator.call(subjects.PRICE_LIST, ListPrices())).prices
            return [(prices.model, prices.prices) for prices in lists] == [("new", (price,))]

        await eventually(renamed, "the price list has the new name")
