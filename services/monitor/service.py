"""The monitor: what the hardware does, and what was used."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.tasks import Tasks
from services.monitor.counting import Counting
from services.monitor.devices.adapter import DeviceAdapter
from services.monitor.devices.host import HostAdapter
from services.monitor.devices.nvml import NvmlAdapter
from services.monitor.sampling import DeviceOutlet, Sampler


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Start sampling and counting, then answer."""
    adapters: tuple[DeviceAdapter, ...] = (HostAdapter(settings.node), NvmlAdapter(settings.node))
    outlet = DeviceOutlet(bus)
    for adapter in adapters:
        tasks.spawn(Sampler(adapter, outlet).run(), f"sample {adapter.name}")
    # One machine counts, or every one would know a part.
    counting = None if settings.joined else await Counting.open(bus, settings, tasks)
    # Last: whoever waits for the monitor takes its announcement as "ready".
    commands = await Commands.start(bus, tasks, "Devices, usage, costs, budgets and storage.")
    if counting is not None:
        await counting.serve(tasks, commands)
    await bus.nc.flush()
