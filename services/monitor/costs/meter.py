"""The meter of time and energy: which instances are in memory, and what their devices draw."""

import asyncio
import time
from collections import defaultdict

from modelyard.bus import logs
from modelyard.bus.records import BucketCache
from schemas.devices import Device
from schemas.instances import Instance, InstanceState
from services.monitor.costs.sharing import share
from services.monitor.usage.keeper import UsageKeeper
from services.monitor.usage.loaded import IN_MEMORY, Stay, begin_or_end, pass_time

log = logs.get(__name__)

EVERY_S = 10.0
"""How often time is charged; what a killed monitor may lose is the energy of so long."""
_LONGEST_SAMPLE_S = 5.0
"""Between two samples of a device that are further apart nobody knows what it drew."""
_ENDED = frozenset({InstanceState.STOPPED, InstanceState.FAILED})


class Meter:
    """Charges what is in memory. Events say when an instance came and went; the buckets, that it is there."""

    def __init__(
        self, usage: UsageKeeper, instances: BucketCache[Instance], devices: BucketCache[Device]
    ) -> None:
        self._usage = usage
        self._instances = instances
        self._sampled: dict[str, Device] = {}
        self._energy_mwh: dict[str, float] = defaultdict(float)
        devices.listen(self._on_sample)

    async def take(self, changes: list[Instance]) -> None:
        """Fold what happened to instances; those that never got ready cost nothing."""
        stays = [stay for change in changes if (stay := _stay(change)) is not None]
        await self._usage.tell(await self._usage.write(begin_or_end, stays))

    async def run(self) -> None:
        """Charge until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.charge(time.time())
            except Exception:
                # A full disk, say. The time is charged when it can be, from where it was left.
                log.exception("time_not_charged")

    async def charge(self, now: float) -> None:
        """Charge everything in memory until now."""
        loaded = [each for each in self._instances.values.values() if each.state in IN_MEMORY]
        here = [stay for each in loaded if (stay := _stay(each)) is not None]
        whole = {name: int(energy) for name, energy in self._energy_mwh.items() if energy >= 1}
        for name, energy in whole.items():
            self._energy_mwh[name] -= energy
        await self._usage.tell(await self._usage.write(pass_time, here, now, whole))

    def _on_sample(self, key: str, device: Device | None) -> None:
        if device is None:
            self._sampled.pop(key, None)
            return
        before = self._sampled.get(key)
        self._sampled[key] = device
        if before is None or device.power_w is None:
            return
        passed_s = device.sampled_at - before.sampled_at
        if 0 < passed_s <= _LONGEST_SAMPLE_S:
            energy_mwh = device.power_w * passed_s / 3.6
            for name, part in share(device, self._instances.values.values()).items():
                self._energy_mwh[name] += part * energy_mwh


def _stay(change: Instance) -> Stay | None:
    if change.ready_at is None:
        return None
    until = change.changed_at if change.state in _ENDED else None
    return Stay(
        instance=change.instance, model=change.model, node=change.node, since=change.ready_at, until=until
    )
