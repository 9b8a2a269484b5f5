"""The monitor: what the hardware does, what everything measures, and what was used and what it costs."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from schemas import buckets, subjects
from schemas.instances import Instance
from services.monitor.counting import Counting
from services.monitor.devices.watch import Watch
from services.monitor.metrics.keeper import Keeper
from services.monitor.metrics.otlp import send_metrics


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Start sampling and counting, then answer."""
    instances: Mirror[Instance] = await Mirror.start(bus, buckets.INSTANCES, tasks)
    tasks.spawn(Watch(bus, settings, instances).run(), "devices")
    if settings.joined:
        # One machine counts, or every one would know a part.
        await Commands.start(bus, tasks, "Devices.")
    else:
        await _count(bus, settings, tasks, instances)
    await bus.nc.flush()


async def _count(bus: Bus, settings: Settings, tasks: Tasks, instances: Mirror[Instance]) -> None:
    counting = await Counting.open(bus, settings, tasks)
    metrics = Keeper(bus, instances)
    metrics.add(lambda _now: counting.budgets.samples())
    metrics.add(lambda _now: counting.disks.samples)
    await metrics.start(tasks)
    tasks.spawn(send_metrics(lambda: metrics.samples), "otlp")
    # Last: whoever waits for the monitor takes its announcement as "ready".
    commands = await Commands.start(bus, tasks, "Devices, metrics, usage, costs, budgets and storage.")
    await counting.serve(tasks, commands)
    await commands.add(subjects.METRICS_QUERY, metrics.query)
    await commands.add(subjects.METRICS_NOW, metrics.now)
    await commands.add(subjects.METRICS_EXPOSE, metrics.expose)
