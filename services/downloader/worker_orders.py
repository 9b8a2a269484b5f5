"""What a worker's parent tells it while it works, read by a thread of its own."""

import os
import queue
import threading
from collections.abc import Callable
from io import RawIOBase
from typing import TYPE_CHECKING

from services.downloader.source import Source
from services.downloader.worker_messages import (
    ORDER_DECODER,
    Go,
    Limit,
    Listing,
    Offer,
    Offers,
    Seek,
    SeekRepo,
)

if TYPE_CHECKING:
    # While the hub is asked there is no loop yet, and none of its memory.
    import asyncio

OnLimit = Callable[[int | None], None]
Send = Callable[[Seek | SeekRepo], None]


class Orders:
    """The lines of stdin after the job. Their end is the end of the parent, and so of this process."""

    def __init__(self, lines: RawIOBase, send: Send) -> None:
        self._lines = lines
        self._send = send
        self._go: queue.SimpleQueue[Go] = queue.SimpleQueue()
        self._listing: queue.SimpleQueue[Listing] = queue.SimpleQueue()
        self._seeking: dict[str, asyncio.Future[Offers]] = {}
        self._limit_bytes_s: int | None = None
        self._limiting = threading.Lock()
        self._tell: OnLimit | None = None
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def wait_for_go(self) -> Go:
        """Block until the parent wants the files."""
        return self._go.get()

    def seek_repo(self, repo: str, revision: str | None) -> Listing:
        """Block until the parent has asked the other nodes."""
        self._send(SeekRepo(repo=repo, revision=revision))
        return self._listing.get()

    async def seek(self, source: Source) -> tuple[Offer, ...]:
        """Which nodes have this file now; one question about a file at a time."""
        import asyncio

        assert source.sha256 is not None
        found: asyncio.Future[Offers] = asyncio.get_running_loop().create_future()
        self._seeking[source.sha256] = found
        self._send(Seek(sha256=source.sha256, size_bytes=source.size_bytes))
        return (await found).offers

    def follow(self, on_limit: OnLimit) -> None:
        """Call on_limit in the running loop: now, and whenever the parent changes the limit."""
        import asyncio

        loop = asyncio.get_running_loop()

        def tell(limit: int | None) -> None:
            loop.call_soon_threadsafe(on_limit, limit)

        with self._limiting:
            self._tell = tell
            on_limit(self._limit_bytes_s)

    def _read(self) -> None:
        for line in self._lines:
            match ORDER_DECODER.decode(line):
                case Go() as go:
                    self._limit(go.limit_bytes_s)
                    self._go.put(go)
                case Limit(limit_bytes_s=limit):
                    self._limit(limit)
                case Listing() as listing:
                    self._listing.put(listing)
                case Offers() as offers:
                    self._found(offers)
        os._exit(1)

    def _limit(self, bytes_per_s: int | None) -> None:
        """Keep the newest for a transfer that has not begun to follow yet."""
        with self._limiting:
            self._limit_bytes_s = bytes_per_s
            if self._tell is not None:
                self._tell(bytes_per_s)

    def _found(self, offers: Offers) -> None:
        if (waiting := self._seeking.pop(offers.sha256, None)) is not None:
            waiting.get_loop().call_soon_threadsafe(_settle, waiting, offers)


def _settle(waiting: "asyncio.Future[Offers]", offers: Offers) -> None:
    if not waiting.done():
        waiting.set_result(offers)
