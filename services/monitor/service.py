"""The monitor: what the hardware does, and what was used."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from schemas import buckets, subjects
from schemas.instances import Instance
from services.monitor.devices.watch import Watch
from services.monitor.metrics.keeper import Keeper
from services.monitor.metrics.otlp import send_metrics
from services.monitor.usage import UsageKeeper

USAGE_FILE = "usage.sqlite"


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Start sampling and counting, then answer."""
    instances: Mirror[Instance] = await Mirror.start(bus, buckets.INSTANCES, tasks)
    tasks.spawn(Watch(bus, settings, instances).run(), "devices")
    if settings.joined:
        # One machine counts, or every one would know a part.
        await Commands.start(bus, tasks, "Devices.")
        await bus.nc.flush()
        return
    usage = await UsageKeeper.open(bus, settings.home / USAGE_FILE)
    metrics = Keeper(bus, instances)
    await metrics.start(tasks)
    # Last: whoever waits for the monitor takes its announcement as "ready".
    commands = await Commands.start(bus, tasks, "Devices, metrics and usage.")
    tasks.spawn(usage.run(), "usage")
    tasks.spawn(send_metrics(lambda: metrics.samples), "otlp")
    await commands.add(subjects.USAGE_QUERY, usage.report)
    await commands.add(subjects.METRICS_QUERY, metrics.query)
    await commands.add(subjects.METRICS_NOW, metrics.now)
    await commands.add(subjects.METRICS_EXPOSE, metrics.expose)
    await bus.nc.flush()
