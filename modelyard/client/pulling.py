"""Following downloads to their ends, which must not be missed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from schemas import buckets, subjects
from schemas.downloads import ENDED, Download
from schemas.errors import BrokerUnavailable, NotFound

_SILENCE_S = 3.0
"""After this long without news the bucket is read: progress and even an event may be lost on the way."""
_BLIND_READS = 20

_Updates = asyncio.Queue[Download | None]
"""None: look into the bucket."""


@contextlib.asynccontextmanager
async def _listening(bus: Bus) -> AsyncGenerator[_Updates, None]:
    """Every update of every download."""
    updates: _Updates = asyncio.Queue()

    async def on_update(_: dict[str, str], download: Download) -> None:
        updates.put_nowait(download)

    subs = [
        await bus.subscribe(subject, on_update)
        for subject in (subjects.DOWNLOAD_PROGRESS, subjects.DOWNLOAD_CHANGED)
    ]
    forget = bus.on_reconnect(lambda: updates.put_nowait(None))
    try:
        yield updates
    finally:
        forget()
        if bus.connected:
            for sub in subs:
                await sub.unsubscribe()


async def watch(bus: Bus) -> AsyncGenerator[Download, None]:
    """Downloads that have not ended, then every update of any, for ever; what is as before is left out."""
    async with _listening(bus) as updates:
        latest = await read_bucket(bus, buckets.DOWNLOADS)
        for each in [each for each in latest.values() if each.state not in ENDED]:
            yield each
        while True:
            update = await updates.get()
            if update is not None and latest.get(update.download) != update:
                latest[update.download] = update
                yield update


async def follow(
    bus: Bus, begin: Callable[[], Awaitable[Iterable[Download]]]
) -> AsyncGenerator[Download, None]:
    """Begin downloads, or join them, and give every update until all of them have ended."""
    # Listening first: a whole download may be over before the answer to its start is read here.
    async with _listening(bus) as updates:
        latest = {each.download: each for each in await begin()}
        for each in tuple(latest.values()):
            yield each
        while any(each.state not in ENDED for each in latest.values()):
            for update in await _next(bus, updates, latest):
                latest[update.download] = update
                yield update


async def _next(bus: Bus, updates: _Updates, latest: dict[str, Download]) -> list[Download]:
    """The next states of these downloads that differ from the latest ones."""
    blind = 0
    while True:
        update = None
        # Not wait_for: before Python 3.12 it swallows a Ctrl-C that comes together with an update.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SILENCE_S):
                update = await updates.get()
        try:
            found, blind = [update] if update else await _read(bus, latest), 0
        except BrokerUnavailable:
            blind += 1
            if blind == _BLIND_READS:
                raise
            continue
        if fresh := [each for each in found if latest.get(each.download, each) != each]:
            return fresh


async def _read(bus: Bus, latest: dict[str, Download]) -> list[Download]:
    followed = [key for key, each in latest.items() if each.state not in ENDED]
    found = await read_bucket(bus, buckets.DOWNLOADS, followed[0] if len(followed) == 1 else ">")
    for key in followed:
        if key not in found:
            raise NotFound(f"The download {key} is no longer known in the yard.", param="download")
    return [found[key] for key in followed]
