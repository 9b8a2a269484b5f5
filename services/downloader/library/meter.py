"""How far the thread of a job is, and the word to stop: what it and the event loop share."""

import threading


class Stopped(Exception):
    """Somebody cancelled the job."""


class Meter:
    """Written by one thread, read by another; single numbers need no lock."""

    def __init__(self) -> None:
        self.bytes_total = 0
        self.bytes_done = 0
        self.file: str | None = None
        self.damaged: list[str] = []
        self.linked = 0
        self.received: dict[str, int] = {}
        """Bytes by where they came from."""
        self._stop = threading.Event()

    def stop(self) -> None:
        """Have the thread end soon."""
        self._stop.set()

    def add(self, n_bytes: int) -> None:
        """So many more are done; Stopped if they were the last."""
        self.bytes_done += n_bytes
        if self._stop.is_set():
            raise Stopped
