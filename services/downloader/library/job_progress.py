"""Progress and cancellation of a job, shared by its thread and the event loop."""

import threading


class JobCancelled(Exception):
    """The job was cancelled."""


class JobProgress:
    """Written by one thread, read by another; single numbers need no lock."""

    def __init__(self) -> None:
        self.bytes_total = 0
        self.bytes_done = 0
        self.file: str | None = None
        self.damaged: list[str] = []
        self.linked = 0
        self.received: dict[str, int] = {}
        """Bytes by source."""
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End the job at its next chunk."""
        self._cancelled.set()

    def add(self, n_bytes: int) -> None:
        """Count bytes that are done; JobCancelled after `cancel()`."""
        self.bytes_done += n_bytes
        if self._cancelled.is_set():
            raise JobCancelled
