"""Where adapters come from: Python entry points, ours among them, and YARD_HOME/plugins/devices."""

from pathlib import Path

from modelyard.plugins import Found, Sort
from services.monitor.devices.adapter import DeviceAdapter, checked

BUILT_IN = {
    "host": "services.monitor.devices.host:HostAdapter",
    "nvml": "services.monitor.devices.nvml:NvmlAdapter",
    "amd": "services.monitor.devices.amd:AmdAdapter",
    "intel": "services.monitor.devices.intel:IntelAdapter",
    "simulated": "services.monitor.devices.simulated:SimulatedAdapter",
}
GROUP = "modelyard.devices"
_ADAPTERS: Sort[DeviceAdapter] = Sort("adapter", GROUP, BUILT_IN, DeviceAdapter, checked)


def find(folder: Path) -> Found[DeviceAdapter]:
    """What there is now."""
    return _ADAPTERS.find(folder)
