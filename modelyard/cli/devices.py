"""`yard devices`."""

import argparse
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import spell_size
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelyard.client import Client
    from schemas.devices import Device

HEADER = ("NODE", "DEVICE", "NAME", ">MEMORY", ">OF", ">BUSY", ">TEMP", ">POWER", ">CLOCK", "USED BY")


def register(verbs: Verbs) -> None:
    parser = verbs.add("devices", "Show processors and graphics cards, and how they are.", _devices)
    parser.add_argument("--node", metavar="NODE", help="only those of this machine")


async def _devices(yard: "Client", arguments: argparse.Namespace) -> None:
    wanted = arguments.node
    devices = [one for one in in_order((await yard.devices()).values()) if wanted in (None, one.node)]
    adapters = [one for one in (await yard.adapters()).values() if wanted in (None, one.node)]
    if arguments.json:
        emit({"devices": devices, "adapters": adapters})
        return
    if devices:
        models = {one.instance: one.model for one in (await yard.instances()).values()}
        table(HEADER, [row_of(one, models) for one in devices])
    else:
        say("No device has reported yet; is the monitor there?")
    for one in adapters:
        if one.problem:
            say(f"\n{one.node}: the adapter {one.adapter} gives no devices: {one.problem}")


def in_order(devices: "Iterable[Device]") -> "list[Device]":
    """Graphics cards before processors, node by node."""
    return sorted(devices, key=lambda one: (one.node, one.kind == "cpu", one.name, one.device))


def row_of(device: "Device", models: dict[str, str]) -> tuple[str, ...]:
    """A sensor that does not answer is `-`."""
    return (
        device.node,
        device.device,
        device.name
        + (" (simulated)" if device.simulated else "")
        + (" (in parts)" if device.partitioned else ""),
        spell_size(device.memory_used_bytes),
        spell_size(device.memory_total_bytes),
        _told(device.utilization_pct, "%"),
        _told(device.temperature_c, "°C"),
        _told(device.power_w, "W") + (f"/{device.power_limit_w:.0f}" if device.power_limit_w else ""),
        _told(device.clock_mhz, "MHz") + ("!" if device.throttled_by else ""),
        ", ".join(tenants(device, models)) or "-",
    )


def tenants(device: "Device", models: dict[str, str]) -> list[str]:
    """The models that have memory of it."""
    found = {models.get(one.instance, one.instance) for one in device.processes if one.instance}
    return sorted(found)


def _told(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.0f} {unit}"
