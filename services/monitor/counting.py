"""What one machine of a yard does for all: usage, costs, budgets, trends, and keeping them."""

import asyncio
import time
from zoneinfo import ZoneInfo

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.devices import Device
from schemas.instances import Instance
from schemas.models import ModelSpec, find_model
from schemas.prices import PriceStored, PutPrice, Reprice, Repriced
from schemas.usage import Forecast, ForecastQuery
from services.monitor.budgets.budgets import Budgets
from services.monitor.costs.meter import Meter
from services.monitor.costs.prices import Prices
from services.monitor.costs.reprice import reprice
from services.monitor.folding import Folder
from services.monitor.reports.reports import Reports
from services.monitor.storage.retention import Keep
from services.monitor.storage.storage import Storage
from services.monitor.trends.trends import Disks, forecast
from services.monitor.usage.keeper import UsageKeeper

USAGE_FILE = "usage.sqlite"
CONSUMER, LOADED_CONSUMER = "monitor-usage", "monitor-loaded"


class Counting:
    """Opened before the monitor announces itself; `serve` begins to fold and to answer."""

    def __init__(
        self, bus: Bus, usage: UsageKeeper, prices: Prices, meter: Meter, disks: Disks, storage: Storage
    ) -> None:
        self.usage = usage
        self.disks = disks
        self.budgets: Budgets
        self._bus = bus
        self._prices = prices
        self._meter = meter
        self._storage = storage
        self._reports: Reports
        self._folding = Folder(bus, CONSUMER, subjects.REQUEST_FINISHED, usage.take)
        self._loading = Folder(bus, LOADED_CONSUMER, subjects.INSTANCE_CHANGED, meter.take)

    @classmethod
    async def open(
        cls,
        bus: Bus,
        settings: Settings,
        tasks: Tasks,
        instances: BucketCache[Instance],
        devices: BucketCache[Device],
    ) -> "Counting":
        """InternalError with a sentence if the file cannot be used."""
        prices = await Prices.open(bus, tasks, settings.currency)
        models = await BucketCache.start(bus, buckets.MODELS, tasks)
        usage = await UsageKeeper.open(
            bus,
            settings.home / USAGE_FILE,
            ZoneInfo(settings.time_zone),
            lambda: prices.book,
            settings.currency,
        )
        usage.know_names(lambda name: _name_of(name, models))
        disks = Disks(usage, devices, settings.node, tuple(settings.all_stores.values()))
        keep = Keep(
            records_days=settings.usage_keep_days,
            records_mib=settings.usage_keep_mib,
            trends_days=settings.trends_keep_days,
        )
        storage = Storage(bus, usage, prices, disks, models, keep)
        counting = cls(bus, usage, prices, Meter(usage, instances, devices), disks, storage)
        counting.budgets = await Budgets.open(bus, tasks, usage)
        counting._reports = await Reports.open(bus, tasks, usage)
        return counting

    async def serve(self, tasks: Tasks, commands: Commands) -> None:
        """Fold from now on, and answer."""
        if self.usage.new:
            # The file was thrown away, or never was: all that the stream holds comes again.
            await self._folding.restart()
            await self._loading.restart()
        tasks.spawn(self._folding.run(), "usage")
        tasks.spawn(self._loading.run(), "loaded time")
        tasks.spawn(self._meter.run(), "meter")
        tasks.spawn(self.budgets.run(), "budgets")
        tasks.spawn(self.disks.run(), "disks")
        tasks.spawn(self._storage.run(), "storage")
        tasks.spawn(_close_at_end(self.usage), "usage file")
        await self._answer(commands)

    async def _answer(self, commands: Commands) -> None:
        usage, prices, budgets = self.usage, self._prices, self.budgets
        reports, storage = self._reports, self._storage
        await commands.add(subjects.USAGE_QUERY, usage.report)
        await commands.add(subjects.USAGE_RECORDS, usage.records)
        await commands.add(subjects.USAGE_REBUILD, usage.rebuild)
        await commands.add(subjects.USAGE_FORECAST, self._forecast)
        await commands.add(subjects.USAGE_REMOVE, storage.remove)
        await commands.add(subjects.PRICE_PUT, self._put_price)
        await commands.add(subjects.PRICE_GET, prices.get)
        await commands.add(subjects.PRICE_LIST, prices.all)
        await commands.add(subjects.PRICE_DELETE, prices.delete)
        await commands.add(subjects.PRICE_REPRICE, self._reprice)
        await commands.add(subjects.BUDGET_PUT, budgets.put)
        await commands.add(subjects.BUDGET_GET, budgets.get)
        await commands.add(subjects.BUDGET_LIST, budgets.all)
        await commands.add(subjects.BUDGET_DELETE, budgets.delete)
        await commands.add(subjects.REPORT_PUT, reports.put)
        await commands.add(subjects.REPORT_GET, reports.get)
        await commands.add(subjects.REPORT_LIST, reports.all)
        await commands.add(subjects.REPORT_DELETE, reports.delete)
        await commands.add(subjects.REPORT_RUN, reports.run)
        await commands.add(subjects.STORAGE_REPORT, storage.report)
        await commands.add(subjects.STORAGE_VACUUM, storage.vacuum)

    async def _put_price(self, asked: PutPrice) -> PriceStored:
        named = msgspec.structs.replace(asked, model=self.usage.name_of(asked.model))
        stored = await self._prices.put(named)
        if not asked.retroactive or asked.price.valid_from is None or asked.price.valid_from >= time.time():
            return stored
        # A default price concerns every model, and each model's own goes before it.
        again = await reprice(self.usage, Reprice(since=asked.price.valid_from, model=named.model))
        return msgspec.structs.replace(stored, repriced=again.records)

    async def _reprice(self, asked: Reprice) -> Repriced:
        model = None if asked.model is None else self.usage.name_of(asked.model)
        return await reprice(self.usage, msgspec.structs.replace(asked, model=model))

    async def _forecast(self, asked: ForecastQuery) -> Forecast:
        return await forecast(self.usage, asked)


def _name_of(name: str, models: BucketCache[ModelSpec]) -> str:
    spec = find_model(name, models.values)
    return spec.name if spec else name


async def _close_at_end(usage: UsageKeeper) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        usage.close()
