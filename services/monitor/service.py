"""The monitor: what the hardware does, what is measured and used, and what somebody should know of."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from schemas import buckets, subjects
from schemas.instances import Instance
from schemas.metrics import Sample
from services.monitor.alerts.commands import AlertCommands
from services.monitor.alerts.gather import NAMES, Gather
from services.monitor.alerts.keeper import Keeper as Alerts
from services.monitor.alerts.rules import Rules
from services.monitor.alerts.silences import Silences
from services.monitor.counting import Counting
from services.monitor.devices.watch import Watch
from services.monitor.metrics.keeper import Keeper
from services.monitor.metrics.otlp import send_metrics
from services.monitor.webhooks.hooks import Hooks


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Start sampling and counting, then answer."""
    instances: Mirror[Instance] = await Mirror.start(bus, buckets.INSTANCES, tasks)
    tasks.spawn(Watch(bus, settings, instances).run(), "devices")
    if settings.joined:
        # One machine counts, or every one would know a part; it is also the one that looks after alerts.
        await Commands.start(bus, tasks, "Devices.")
    else:
        await _serve_all(bus, settings, tasks, instances)
    await bus.nc.flush()


async def _serve_all(bus: Bus, settings: Settings, tasks: Tasks, instances: Mirror[Instance]) -> None:
    """What one machine does for the whole yard."""
    counting = await Counting.open(bus, settings, tasks)
    metrics = Keeper(bus, instances)
    metrics.add(lambda _now: counting.budgets.samples())
    metrics.add(lambda _now: counting.disks.samples)
    await metrics.start(tasks)
    tasks.spawn(send_metrics(lambda: metrics.samples), "otlp")
    alerts = await _alerts(bus, settings, tasks, metrics)
    hooks = await Hooks.start(bus, settings, tasks)
    # Last: whoever waits for the monitor takes its announcement as "ready".
    commands = await Commands.start(bus, tasks, "Devices, metrics, usage, costs, alerts and webhooks.")
    await counting.serve(tasks, commands)
    await commands.add(subjects.METRICS_QUERY, metrics.query)
    await commands.add(subjects.METRICS_NOW, metrics.now)
    await commands.add(subjects.METRICS_EXPOSE, metrics.expose)
    await alerts.add_to(commands)
    await hooks.add_to(commands)


async def _alerts(bus: Bus, settings: Settings, tasks: Tasks, metrics: Keeper) -> AlertCommands:
    rules, silences = await Rules.read(bus), await Silences.read(bus)
    gather = await Gather.start(bus, settings, tasks)

    async def measured() -> list[Sample]:
        return [sample for sample in metrics.samples if sample.name not in NAMES]

    alerts = Alerts(bus, rules, silences, [gather.samples, measured])
    await alerts.open()
    tasks.spawn(alerts.run(), "alerts")
    return AlertCommands(alerts, rules, silences)
