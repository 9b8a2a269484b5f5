"""Whose energy it is. Pure."""

from collections.abc import Iterable

from schemas.devices import Device
from schemas.instances import Instance
from services.monitor.usage.loaded import IN_MEMORY


def share(device: Device, instances: Iterable[Instance]) -> dict[str, float]:
    """Each instance's part of what a device draws: by busy slots, and evenly while none is busy."""
    there = {
        each.instance: each.busy for each in instances if each.state in IN_MEMORY and _uses(each, device)
    }
    busy = sum(there.values())
    if not busy:
        return {name: 1 / len(there) for name in there}
    return {name: slots / busy for name, slots in there.items() if slots}


def _uses(instance: Instance, device: Device) -> bool:
    return any(
        part.device == device.device and (part.node or instance.node) == device.node
        for part in instance.reserved
    )
