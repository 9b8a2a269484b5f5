"""The monitor: what the hardware does, and what was used."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from schemas import buckets
from schemas.devices import Device
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
        await bus.nc.flush()
        return
    devices: Mirror[Device] = await Mirror.start(bus, buckets.DEVICES, tasks)
    counting = await Counting.open(bus, settings, tasks, instances, devices)
    metrics = Keeper(bus, instances, devices)
    metrics.add(counting.samples)
    await metrics.start(tasks)
    # Last: whoever waits for the monitor takes its announcement as "ready".
    commands = await Commands.start(bus, tasks, "Devices, metrics, usage, costs, budgets and storage.")
    await counting.serve(tasks, commands)
    await metrics.serve(commands)
    tasks.spawn(send_metrics(lambda: metrics.samples), "otlp")
    await bus.nc.flush()
