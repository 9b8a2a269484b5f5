"""Metering of loaded time and energy: which instances are in memory, and what their devices draw."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable

from modelyard.bus import logs
from modelyard.bus.records import BucketCache
from schemas.devices import Device
from schemas.instances import Instance, InstanceState
from services.monitor.usage.database import UsageDatabase
from services.monitor.usage.loaded_time import (
    IN_MEMORY,
    LoadedInterval,
    charge_loaded_time,
    record_intervals,
)

log = logs.get(__name__)

PERIOD_S = 10.0
"""How often time is charged; a killed monitor loses the energy of at most this long."""
_MAX_SAMPLE_GAP_S = 5.0
"""Between two samples of a device that are further apart its energy is unknown."""
_ENDED = frozenset({InstanceState.STOPPED, InstanceState.FAILED})


class LoadedTimeMeter:
    """Charges instances in memory. Events give their starts and ends, the bucket those that still run."""

    def __init__(
        self, usage: UsageDatabase, instances: BucketCache[Instance], devices: BucketCache[Device]
    ) -> None:
        self._usage = usage
        self._instances = instances
        self._samples: dict[str, Device] = {}
        self._energy_mwh: dict[str, float] = defaultdict(float)
        devices.listen(self._on_sample)

    async def store(self, changes: list[Instance]) -> None:
        """Store changes of instances; those that were never ready cost nothing."""
        intervals = [interval for change in changes if (interval := _interval(change)) is not None]
        await self._usage.notify_increments(await self._usage.write(record_intervals, intervals))

    async def run(self) -> None:
        """Charge until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.charge(time.time())
            except Exception:
                # A full disk, for example. The next charge covers the time since the last.
                log.exception("loaded_time_charge_failed")

    async def charge(self, now: float) -> None:
        """Charge everything in memory until now."""
        instances = [instance for instance in self._instances.values.values() if instance.state in IN_MEMORY]
        intervals = [interval for instance in instances if (interval := _interval(instance)) is not None]
        energy_mwh = {name: int(energy) for name, energy in self._energy_mwh.items() if energy >= 1}
        for name, energy in energy_mwh.items():
            self._energy_mwh[name] -= energy
        increments = await self._usage.write(charge_loaded_time, intervals, now, energy_mwh)
        await self._usage.notify_increments(increments)

    def _on_sample(self, key: str, device: Device | None) -> None:
        if device is None:
            self._samples.pop(key, None)
            return
        before = self._samples.get(key)
        self._samples[key] = device
        if before is None or device.power_w is None:
            return
        passed_s = device.sampled_at - before.sampled_at
        if 0 < passed_s <= _MAX_SAMPLE_GAP_S:
            energy_mwh = device.power_w * passed_s / 3.6
            for name, share in energy_shares(device, self._instances.values.values()).items():
                self._energy_mwh[name] += share * energy_mwh


def energy_shares(device: Device, instances: Iterable[Instance]) -> dict[str, float]:
    """Each instance's share of a device's power: by busy slots, and evenly while none is busy."""
    busy_slots = {
        instance.instance: instance.busy
        for instance in instances
        if instance.state in IN_MEMORY and _uses(instance, device)
    }
    total = sum(busy_slots.values())
    if not total:
        return {name: 1 / len(busy_slots) for name in busy_slots}
    return {name: slots / total for name, slots in busy_slots.items() if slots}


def _uses(instance: Instance, device: Device) -> bool:
    return any(
        part.device == device.device and (part.node or instance.node) == device.node
        for part in instance.reserved
    )


def _interval(change: Instance) -> LoadedInterval | None:
    if change.ready_at is None:
        return None
    return LoadedInterval(
        instance=change.instance,
        model=change.model,
        node=change.node,
        since=change.ready_at,
        until=change.changed_at if change.state in _ENDED else None,
    )
