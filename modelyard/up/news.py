"""What happens in the yard, a line each, below the banner."""

import time

from modelyard.bus.connection import Bus
from modelyard.up.terminal import Terminal
from schemas import subjects
from schemas.downloads import Download, DownloadState
from schemas.instances import Instance, InstanceState

_TELLING = {
    InstanceState.STARTING: "is being started",
    InstanceState.READY: "is ready",
    InstanceState.STOPPED: "is stopped",
    InstanceState.FAILED: "failed",
}
_DOWNLOAD_TELLING = {
    DownloadState.QUEUED: "is queued for download",
    DownloadState.FINISHED: "is downloaded and registered",
    DownloadState.FAILED: "could not be downloaded",
    DownloadState.CANCELLED: "is not downloaded any further",
}


class News:
    """Prints life cycle events as sentences."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    async def follow(self, bus: Bus) -> None:
        await bus.subscribe(subjects.INSTANCE_CHANGED, self._on_instance)
        await bus.subscribe(subjects.DOWNLOAD_CHANGED, self._on_download)

    async def _on_instance(self, _tokens: dict[str, str], instance: Instance) -> None:
        if (telling := _TELLING.get(instance.state)) is None:
            return
        detail = ""
        if instance.state is InstanceState.READY:
            detail = f" after {instance.load_s:.1f} s, {instance.slots} slots" if instance.load_s else ""
        self._say(instance.model, telling, instance.error or detail)

    async def _on_download(self, _tokens: dict[str, str], download: Download) -> None:
        if (telling := _DOWNLOAD_TELLING.get(download.state)) is not None:
            self._say(download.model, telling, download.error.message if download.error else "")

    def _say(self, subject: str, telling: str, detail: str) -> None:
        clock = time.strftime("%H:%M:%S")
        colon = ": " if detail and not detail.startswith(" ") else ""
        self._terminal.say(f"  {clock}  {subject} {telling}{colon}{detail}")
