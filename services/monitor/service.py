"""The monitor: what the hardware does, what everything measures, what was used and cost, what to know of."""

import time

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets
from schemas.devices import Device
from schemas.instances import Instance
from services.monitor.alerts.commands import AlertCommands
from services.monitor.alerts.keeper import Keeper
from services.monitor.alerts.rules import Rules
from services.monitor.alerts.silences import Silences
from services.monitor.counting import Counting
from services.monitor.devices.watch import Watch
from services.monitor.metrics.keeper import Keeper as Metrics
from services.monitor.metrics.otlp import send_metrics
from services.monitor.webhooks.hooks import Hooks


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Start sampling and counting, then answer."""
    began_at = time.time()
    instances: BucketCache[Instance] = await BucketCache.start(bus, buckets.INSTANCES, tasks)
    tasks.spawn(Watch(bus, settings, instances).run(), "devices")
    if settings.joined:
        # One machine counts, or every one would know a part; it is also the one that looks after alerts.
        await Commands.start(bus, tasks, "Devices.")
    else:
        await _serve_all(bus, settings, tasks, instances, began_at)
    await bus.flush_subscriptions()


async def _serve_all(
    bus: Bus, settings: Settings, tasks: Tasks, instances: BucketCache[Instance], began_at: float
) -> None:
    """What one machine does for the whole yard."""
    devices: BucketCache[Device] = await BucketCache.start(bus, buckets.DEVICES, tasks)
    counting = await Counting.open(bus, settings, tasks, instances, devices)
    metrics = Metrics(bus, settings, instances, devices, began_at)
    metrics.add(lambda _now: counting.budgets.samples())
    metrics.add(lambda _now: counting.disks.samples)
    await metrics.start(tasks)
    tasks.spawn(send_metrics(lambda: metrics.samples), "otlp")
    alerts = await _alerts(bus, tasks, metrics)
    hooks = await Hooks.start(bus, settings, tasks)
    commands = Commands.open(
        bus, tasks, "Devices, metrics, usage, costs, budgets, storage, alerts, webhooks."
    )
    await counting.serve(tasks, commands)
    await alerts.add_to(commands)
    await hooks.add_to(commands)
    await metrics.serve(commands)
    await commands.announce()


async def _alerts(bus: Bus, tasks: Tasks, metrics: Metrics) -> AlertCommands:
    rules, silences = await Rules.read(bus), await Silences.read(bus)
    keeper = Keeper(bus, rules, silences, lambda: metrics.samples)
    await keeper.open()
    tasks.spawn(keeper.run(), "alerts")
    return AlertCommands(keeper, rules, silences)
