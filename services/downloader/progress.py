"""Counting a download's bytes over all its files, and telling it now and then."""

import time
from collections.abc import Callable, Sequence

from services.downloader.worker_messages import Progress

INTERVAL_S = 0.25


class ProgressMeter:
    """Sends a Progress at most every 250 ms, and one whenever a file is done."""

    def __init__(
        self,
        send: Callable[[Progress], None],
        arrived_bytes: Sequence[int],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._now = now
        self._sent_at_s = float("-inf")
        self._bytes = list(arrived_bytes)
        """What is here of each file."""
        self._file = ""
        self._files_done = 0

    def start_file(self, path: str) -> None:
        """From now on on_bytes counts the next file."""
        self._file = path

    def on_bytes(self, file_bytes: int) -> None:
        """So many bytes of the current file are here."""
        self._bytes[self._files_done] = file_bytes
        if self._now() - self._sent_at_s >= INTERVAL_S:
            self._tell()

    def finish_file(self, size_bytes: int) -> None:
        """The current file is complete."""
        self._bytes[self._files_done] = size_bytes
        self._files_done += 1
        self._tell()

    def _tell(self) -> None:
        self._sent_at_s = self._now()
        self._send(Progress(bytes_done=sum(self._bytes), file=self._file, files_done=self._files_done))
