"""One adapter on its own rhythm and thread, so that one which hangs or fails stops no other."""

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
NOTHING_S = 10.0
"""An adapter that finds no device is asked so seldom."""
HANGS_S = 5.0
"""One that takes longer for a sample is said to hang."""

Take = Callable[["Sampler", list[Device]], None]


class Sampler:
    """Samples until told to stop. `take` is called in the adapter's thread."""

    def __init__(
        self, adapter: DeviceAdapter, settings: Settings, take: Take, period_s: float = PERIOD_S
    ) -> None:
        self.adapter = adapter
        self.failure: str | None = None
        """Why its last sample did not come, in a sentence."""
        self._settings = settings
        self._take = take
        self._period_s = period_s
        self._begun_at: float | None = None
        """Monotonic seconds of the call under way."""
        self._stop = threading.Event()
        # A daemon: one that hangs must not keep the process from its end.
        self._thread = threading.Thread(target=self._run, name=f"sample-{adapter.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No sample is taken after this one; does not wait, since it may hang."""
        self._stop.set()

    def problem(self) -> str | None:
        """Why it gives nothing now."""
        begun_at = self._begun_at
        if begun_at is not None and (silent_s := time.monotonic() - begun_at) > HANGS_S:
            return f"It has not answered for {silent_s:.0f} s."
        return self.failure

    def _run(self) -> None:
        opened = False
        due = _beat(time.time(), self._period_s)
        while not self._stop.wait(max(due - time.time(), 0.0)):
            self._begun_at = time.monotonic()
            found: list[Device] = []
            try:
                if not opened:
                    self.adapter.open(self._settings)
                    opened = True
                found = self._stamped(self.adapter.sample())
                self.failure = None
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's adapter may raise anything
                self._note(error)
            self._begun_at = None
            if not self._stop.is_set():
                self._take(self, found)
            rests = not found and self.failure is None
            due = next_due(due, time.time(), max(self._period_s, NOTHING_S) if rests else self._period_s)
        if opened:
            self._close()

    def _stamped(self, sampled: Device | Sequence[Device] | None) -> list[Device]:
        """With node and time; TypeError or ValueError if they are no devices."""
        devices = [sampled] if isinstance(sampled, Device) else list(sampled or ())
        simulated, now = self.adapter.simulated, time.time()
        for device in devices:
            if not isinstance(device, Device):
                raise TypeError(f"{device!r} is no Device.")
            check_token(device.device)
        return [
            msgspec.structs.replace(
                device,
                node=self._settings.node,
                sampled_at=now,
                simulated=device.simulated or simulated,
            )
            for device in devices
        ]

    def _note(self, error: BaseException) -> None:
        said = f"{type(error).__name__}: {error}"
        if said != self.failure:
            log.warning("sampling_failed", adapter=self.adapter.name, error=said, exc_info=error)
        self.failure = said

    def _close(self) -> None:
        try:
            self.adapter.close()
        except Exception:
            log.exception("adapter_not_closed", adapter=self.adapter.name)


def _beat(now: float, period_s: float) -> float:
    """The next moment at which all of this period sample: together they wake the process once."""
    return (math.floor(now / period_s) + 1) * period_s


def next_due(due: float, now: float, period_s: float) -> float:
    """The first beat after `now`; beats that were missed are not made up for."""
    return due + period_s * max(1, math.ceil((now - due) / period_s))
