"""Following a download to its end, which must not be missed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from modelyard.bus import Bus
from modelyard.client.reading import read_bucket
from schemas import buckets, subjects
from schemas.downloads import ENDED, Download, StartDownload
from schemas.errors import BrokerUnavailable, NotFound

_SILENCE_S = 3.0
"""After this long without news the bucket is read: progress and even an event may be lost on the way."""
_BLIND_READS = 20
_START_TIMEOUT_S = 15.0

_Updates = asyncio.Queue[Download | None]
"""None: look into the bucket."""


async def pull(bus: Bus, request: StartDownload) -> AsyncGenerator[Download, None]:
    """Start the download, or join it, and give every update until one says that it ended."""
    updates: _Updates = asyncio.Queue()

    async def on_update(_: dict[str, str], download: Download) -> None:
        updates.put_nowait(download)

    # Before the start: the whole download may be over before its answer is read here.
    subs = [
        await bus.subscribe(subject, on_update)
        for subject in (subjects.DOWNLOAD_PROGRESS, subjects.DOWNLOAD_CHANGED)
    ]
    forget = bus.on_reconnect(lambda: updates.put_nowait(None))
    try:
        latest = await bus.call(subjects.DOWNLOAD_START, request, timeout_s=_START_TIMEOUT_S)
        yield latest
        while latest.state not in ENDED:
            latest = await _next(bus, updates, latest)
            yield latest
    finally:
        forget()
        if bus.connected:
            for sub in subs:
                await sub.unsubscribe()


async def _next(bus: Bus, updates: _Updates, latest: Download) -> Download:
    """The next state of this download that differs from `latest`."""
    blind = 0
    while True:
        update = None
        # Not wait_for: before Python 3.12 it swallows a Ctrl-C that comes together with an update.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SILENCE_S):
                update = await updates.get()
        if update is None:
            try:
                update, blind = await _read(bus, latest.download), 0
            except BrokerUnavailable:
                blind += 1
                if blind == _BLIND_READS:
                    raise
                continue
        if update.download == latest.download and update != latest:
            return update


async def _read(bus: Bus, download: str) -> Download:
    found = await read_bucket(bus, buckets.DOWNLOADS, download)
    if download not in found:
        raise NotFound(f"The download {download} is no longer known in the yard.", param="download")
    return found[download]
