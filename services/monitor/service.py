"""The monitor: what the hardware does, what was used, and what somebody should know of."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.tasks import Tasks
from schemas import subjects
from services.monitor.alerts.commands import AlertCommands
from services.monitor.alerts.gather import Gather
from services.monitor.alerts.keeper import Keeper
from services.monitor.alerts.rules import Rules
from services.monitor.alerts.silences import Silences
from services.monitor.devices.adapter import DeviceAdapter
from services.monitor.devices.host import HostAdapter
from services.monitor.devices.nvml import NvmlAdapter
from services.monitor.sampling import DeviceOutlet, Sampler
from services.monitor.usage import UsageKeeper
from services.monitor.webhooks.hooks import Hooks

USAGE_FILE = "usage.sqlite"


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Start sampling and counting, then answer."""
    adapters: tuple[DeviceAdapter, ...] = (HostAdapter(settings.node), NvmlAdapter(settings.node))
    outlet = DeviceOutlet(bus)
    for adapter in adapters:
        tasks.spawn(Sampler(adapter, outlet).run(), f"sample {adapter.name}")
    # One machine counts, or every one would know a part; it is also the one that looks after alerts.
    usage = None if settings.joined else await UsageKeeper.open(bus, settings.home / USAGE_FILE)
    alerts = None if settings.joined else await _alerts(bus, settings, tasks)
    hooks = None if settings.joined else await Hooks.start(bus, settings, tasks)
    # Last: whoever waits for the monitor takes its announcement as "ready".
    commands = await Commands.start(bus, tasks, "Devices, metrics, usage, alerts and webhooks.")
    if usage is not None:
        tasks.spawn(usage.run(), "usage")
        await commands.add(subjects.USAGE_QUERY, usage.report)
    if alerts is not None and hooks is not None:
        await alerts.add_to(commands)
        await hooks.add_to(commands)
    await bus.nc.flush()


async def _alerts(bus: Bus, settings: Settings, tasks: Tasks) -> AlertCommands:
    rules, silences = await Rules.read(bus), await Silences.read(bus)
    gather = await Gather.start(bus, settings, tasks)
    keeper = Keeper(bus, rules, silences, [gather.samples])
    await keeper.open()
    tasks.spawn(keeper.run(), "alerts")
    return AlertCommands(keeper, rules, silences)
