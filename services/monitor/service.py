"""The monitor: devices on every node; metrics, accounting, alerts and webhooks on the first."""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import Any
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
from services.monitor.alerts.alerts import Alerts
from services.monitor.budgets import Budgets
from services.monitor.devices.publisher import DevicePublisher
from services.monitor.metrics.collector import MetricsCollector
from services.monitor.metrics.export import export_metrics
from services.monitor.prices import Prices, reprice
from services.monitor.projector import UsageProjector
from services.monitor.reports import Reports
from services.monitor.storage import RetentionPolicy, Storage
from services.monitor.trends import DiskTrends, forecast
from services.monitor.usage.database import UsageDatabase
from services.monitor.usage.loaded_time import LoadedTimeMeter
from services.monitor.webhooks.webhooks import Webhooks

USAGE_FILE = "usage.sqlite"
CONSUMER, LOADED_CONSUMER = "monitor-usage", "monitor-loaded"


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    started_at = time.time()
    instances: BucketCache[Instance] = await BucketCache.start(bus, buckets.INSTANCES, tasks)
    tasks.spawn(DevicePublisher(bus, settings, instances).run(), "devices")
    if settings.joined:
        # Only the first node counts: several counters would each have a part of the usage.
        await Commands.start(bus, tasks, "Devices.")
    else:
        await _serve_yard(bus, settings, tasks, instances, started_at)
    await bus.flush_subscriptions()


async def _serve_yard(
    bus: Bus, settings: Settings, tasks: Tasks, instances: BucketCache[Instance], started_at: float
) -> None:
    devices: BucketCache[Device] = await BucketCache.start(bus, buckets.DEVICES, tasks)
    accounting = await Accounting.open(bus, settings, tasks, instances, devices)
    metrics = MetricsCollector(bus, settings, instances, devices, started_at)
    metrics.add_source(lambda _now: accounting.budgets.samples())
    metrics.add_source(lambda _now: accounting.disks.samples)
    await metrics.start(tasks)
    tasks.spawn(export_metrics(lambda: metrics.samples), "otlp")
    alerts = await Alerts.open(bus, tasks, lambda: metrics.samples)
    tasks.spawn(alerts.run(), "alerts")
    webhooks = await Webhooks.start(bus, settings, tasks)
    commands = Commands.open(
        bus, tasks, "Devices, metrics, usage, costs, budgets, storage, alerts, webhooks."
    )
    await accounting.serve(tasks, commands)
    await alerts.serve(commands)
    await webhooks.serve(commands)
    await metrics.serve(commands)
    await commands.announce()


@dataclass(frozen=True)
class Accounting:
    """Opened before the monitor announces itself; `serve` starts the projection and the commands."""

    usage: UsageDatabase
    prices: Prices
    budgets: Budgets
    reports: Reports
    meter: LoadedTimeMeter
    disks: DiskTrends
    storage: Storage
    projectors: tuple[UsageProjector[Any], ...]

    @classmethod
    async def open(
        cls,
        bus: Bus,
        settings: Settings,
        tasks: Tasks,
        instances: BucketCache[Instance],
        devices: BucketCache[Device],
    ) -> "Accounting":
        """InternalError with a sentence if the usage file cannot be used."""
        prices = await Prices.open(bus, tasks, settings.currency)
        models: BucketCache[ModelSpec] = await BucketCache.start(bus, buckets.MODELS, tasks)
        usage = await UsageDatabase.open(
            bus,
            settings.home / USAGE_FILE,
            ZoneInfo(settings.time_zone),
            lambda: prices.book,
            settings.currency,
            lambda name: _resolve_name(name, models),
        )
        meter = LoadedTimeMeter(usage, instances, devices)
        disks = DiskTrends(usage, devices, settings.node, tuple(settings.all_stores.values()))
        policy = RetentionPolicy(
            records_days=settings.usage_keep_days,
            records_mib=settings.usage_keep_mib,
            trends_days=settings.trends_keep_days,
        )
        return cls(
            usage=usage,
            prices=prices,
            budgets=await Budgets.open(bus, tasks, usage),
            reports=await Reports.open(bus, tasks, usage),
            meter=meter,
            disks=disks,
            storage=Storage(bus, usage, prices, disks, models, policy),
            projectors=(
                UsageProjector(bus, CONSUMER, subjects.REQUEST_FINISHED, usage.store),
                UsageProjector(bus, LOADED_CONSUMER, subjects.INSTANCE_CHANGED, meter.store),
            ),
        )

    async def serve(self, tasks: Tasks, commands: Commands) -> None:
        for projector in self.projectors:
            if self.usage.new:
                # With a new file, everything that the stream holds is projected again.
                await projector.reset()
            tasks.spawn(projector.run(), "usage projection")
        tasks.spawn(self.meter.run(), "loaded time")
        tasks.spawn(self.budgets.run(), "budgets")
        tasks.spawn(self.disks.run(), "disks")
        tasks.spawn(self.storage.run(), "storage")
        tasks.spawn(_close_at_end(self.usage), "usage file")
        await self._add_commands(commands)

    async def _add_commands(self, commands: Commands) -> None:
        await commands.add(subjects.USAGE_QUERY, self.usage.report)
        await commands.add(subjects.USAGE_RECORDS, self.usage.records)
        await commands.add(subjects.USAGE_REBUILD, self.usage.rebuild)
        await commands.add(subjects.USAGE_FORECAST, partial(forecast, self.usage))
        await commands.add(subjects.USAGE_REMOVE, self.storage.remove)
        await commands.add(subjects.PRICE_PUT, self._put_price)
        await commands.add(subjects.PRICE_GET, self.prices.get)
        await commands.add(subjects.PRICE_LIST, self.prices.list)
        await commands.add(subjects.PRICE_DELETE, self.prices.delete)
        await commands.add(subjects.PRICE_REPRICE, self._reprice)
        await commands.add(subjects.BUDGET_PUT, self.budgets.put)
        await commands.add(subjects.BUDGET_GET, self.budgets.get)
        await commands.add(subjects.BUDGET_LIST, self.budgets.list)
        await commands.add(subjects.BUDGET_DELETE, self.budgets.delete)
        await commands.add(subjects.REPORT_PUT, self.reports.put)
        await commands.add(subjects.REPORT_GET, self.reports.get)
        await commands.add(subjects.REPORT_LIST, self.reports.list)
        await commands.add(subjects.REPORT_DELETE, self.reports.delete)
        await commands.add(subjects.REPORT_RUN, self.reports.run)
        await commands.add(subjects.STORAGE_REPORT, self.storage.report)
        await commands.add(subjects.STORAGE_VACUUM, self.storage.vacuum)

    async def _put_price(self, command: PutPrice) -> PriceStored:
        named = msgspec.structs.replace(command, model=self.usage.resolve_name(command.model))
        stored = await self.prices.put(named)
        since = command.price.valid_from
        if not command.retroactive or since is None or since >= time.time():
            return stored
        # The default price reprices every model; a model's own price still applies before it.
        repriced = await reprice(self.usage, Reprice(since=since, model=named.model))
        return msgspec.structs.replace(stored, repriced=repriced.records)

    async def _reprice(self, command: Reprice) -> Repriced:
        model = None if command.model is None else self.usage.resolve_name(command.model)
        return await reprice(self.usage, msgspec.structs.replace(command, model=model))


def _resolve_name(name: str, models: BucketCache[ModelSpec]) -> str:
    spec = find_model(name, models.values)
    return spec.name if spec else name


async def _close_at_end(usage: UsageDatabase) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        usage.close()
