"""Samples one adapter in a thread of its own, so that one that hangs or fails affects no other."""

import math
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from modelyard.bus import logs
from modelyard.host.settings import Settings
from modelyard.plugins import DeviceAdapter
from schemas.base import check_token
from schemas.devices import Device

log = logs.get(__name__)

PERIOD_S = 1.0
IDLE_S = 10.0
"""The period of an adapter without devices."""
HANG_S = 5.0
"""An adapter that takes longer for a sample counts as hung."""

OnSample = Callable[["Sampler", list[Device]], None]


class Sampler:
    """Samples until stopped. `on_sample` is called in the adapter's thread."""

    def __init__(
        self, adapter: DeviceAdapter, settings: Settings, on_sample: OnSample, period_s: float = PERIOD_S
    ) -> None:
        self.adapter = adapter
        self.failure: str | None = None
        """The error of its last sample."""
        self._settings = settings
        self._on_sample = on_sample
        self._period_s = period_s
        self._called_at: float | None = None
        """Monotonic seconds of the running call."""
        self._stop = threading.Event()
        # A daemon: a hung adapter must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=f"sample-{adapter.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no further sample; does not wait for a running call, which may hang."""
        self._stop.set()

    def problem(self) -> str | None:
        called_at = self._called_at
        if called_at is not None and (hung_s := time.monotonic() - called_at) > HANG_S:
            return f"It has not answered for {hung_s:.0f} s."
        return self.failure

    def _run(self) -> None:
        opened = False
        due = next_tick(time.time(), self._period_s)
        while not self._stop.wait(max(due - time.time(), 0.0)):
            self._called_at = time.monotonic()
            devices: list[Device] = []
            try:
                if not opened:
                    self.adapter.open(self._settings)
                    opened = True
                devices = self._stamped(self.adapter.sample())
                self.failure = None
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything
                self._record_failure(error)
            self._called_at = None
            if not self._stop.is_set():
                self._on_sample(self, devices)
            idle = not devices and self.failure is None
            due = next_due(due, time.time(), max(self._period_s, IDLE_S) if idle else self._period_s)
        if opened:
            self._close()

    def _stamped(self, sampled: Device | Sequence[Device] | None) -> list[Device]:
        """With node and time; TypeError or ValueError for an invalid device."""
        devices = [sampled] if isinstance(sampled, Device) else list(sampled or ())
        simulated, now = self.adapter.simulated, time.time()
        for device in devices:
            if not isinstance(device, Device):
                raise TypeError(f"{device!r} is not a Device.")
            check_token(device.device)
        return [
            msgspec.structs.replace(
                device, node=self._settings.node, sampled_at=now, simulated=device.simulated or simulated
            )
            for device in devices
        ]

    def _record_failure(self, error: BaseException) -> None:
        message = f"{type(error).__name__}: {error}"
        if message != self.failure:
            log.warning("sampling_failed", adapter=self.adapter.name, error=message, exc_info=error)
        self.failure = message

    def _close(self) -> None:
        try:
            self.adapter.close()
        except Exception:
            log.exception("adapter_close_failed", adapter=self.adapter.name)


def next_tick(now: float, period_s: float) -> float:
    """The next multiple of the period: adapters sample together, which wakes the process once."""
    return (math.floor(now / period_s) + 1) * period_s


def next_due(due: float, now: float, period_s: float) -> float:
    """The first tick after `now`; missed ticks are skipped."""
    return due + period_s * max(1, math.ceil((now - due) / period_s))
