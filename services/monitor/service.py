"""The monitor: devices on every node; metrics, accounting, alerts and webhooks on the first."""

import time

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets
from schemas.devices import Device
from schemas.instances import Instance
from services.monitor.accounting import Accounting
from services.monitor.alerts.alerts import Alerts
from services.monitor.devices.publisher import DevicePublisher
from services.monitor.metrics.collector import MetricsCollector
from services.monitor.metrics.otlp import export_metrics
from services.monitor.webhooks.webhooks import Webhooks


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Start everything, then announce the service."""
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
