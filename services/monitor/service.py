"""The monitor: what the hardware does, what was used and cost, and what somebody should know of."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.tasks import Tasks
from schemas.metrics import Sample
from services.monitor.alerts.commands import AlertCommands
from services.monitor.alerts.gather import Gather
from services.monitor.alerts.keeper import Keeper
from services.monitor.alerts.rules import Rules
from services.monitor.alerts.silences import Silences
from services.monitor.counting import Counting
from services.monitor.devices.adapter import DeviceAdapter
from services.monitor.devices.host import HostAdapter
from services.monitor.devices.nvml import NvmlAdapter
from services.monitor.sampling import DeviceOutlet, Sampler
from services.monitor.webhooks.hooks import Hooks


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Start sampling and counting, then answer."""
    adapters: tuple[DeviceAdapter, ...] = (HostAdapter(settings.node), NvmlAdapter(settings.node))
    outlet = DeviceOutlet(bus)
    for adapter in adapters:
        tasks.spawn(Sampler(adapter, outlet).run(), f"sample {adapter.name}")
    if settings.joined:
        # One machine counts, or every one would know a part; it is also the one that looks after alerts.
        await Commands.start(bus, tasks, "Devices.")
    else:
        await _serve_all(bus, settings, tasks)
    await bus.nc.flush()


async def _serve_all(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """What one machine does for the whole yard."""
    counting = await Counting.open(bus, settings, tasks)
    alerts = await _alerts(bus, settings, tasks, counting)
    hooks = await Hooks.start(bus, settings, tasks)
    # Last: whoever waits for the monitor takes its announcement as "ready".
    commands = await Commands.start(bus, tasks, "Devices, usage, costs, budgets, storage, alerts, webhooks.")
    await counting.serve(tasks, commands)
    await alerts.add_to(commands)
    await hooks.add_to(commands)


async def _alerts(bus: Bus, settings: Settings, tasks: Tasks, counting: Counting) -> AlertCommands:
    rules, silences = await Rules.read(bus), await Silences.read(bus)
    gather = await Gather.start(bus, settings, tasks)

    async def budgets() -> list[Sample]:
        return counting.budgets.samples()

    keeper = Keeper(bus, rules, silences, [gather.samples, budgets])
    await keeper.open()
    tasks.spawn(keeper.run(), "alerts")
    return AlertCommands(keeper, rules, silences)
