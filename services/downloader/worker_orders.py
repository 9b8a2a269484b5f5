"""What a worker's parent tells it while it works, read by a thread of its own."""

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from io import RawIOBase

from services.downloader.worker_messages import ORDER_DECODER, Go, Limit

OnLimit = Callable[[int | None], None]


class Orders:
    """The lines of stdin after the job. Their end is the end of the parent, and so of this process."""

    def __init__(self, lines: RawIOBase) -> None:
        self._lines = lines
        self._go: queue.SimpleQueue[Go] = queue.SimpleQueue()
        self._limit_bytes_s: int | None = None
        self._tell: OnLimit | None = None
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def wait_for_go(self) -> Go:
        """Block until the parent wants the files."""
        go = self._go.get()
        self._limit_bytes_s = go.limit_bytes_s
        return go

    def follow(self, on_limit: OnLimit) -> None:
        """Call on_limit in the running loop: now, and whenever the parent changes the limit."""
        loop = asyncio.get_running_loop()

        def tell(limit: int | None) -> None:
            loop.call_soon_threadsafe(on_limit, limit)

        self._tell = tell
        on_limit(self._limit_bytes_s)

    def _read(self) -> None:
        for line in self._lines:
            match ORDER_DECODER.decode(line):
                case Go() as go:
                    self._go.put(go)
                case Limit(limit_bytes_s=limit):
                    if self._tell is not None:
                        self._tell(limit)
        os._exit(1)
