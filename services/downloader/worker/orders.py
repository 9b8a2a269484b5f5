"""The worker's side of stdin: a thread that reads the parent's orders and answers to queries."""

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from io import RawIOBase

from services.downloader.transfer.options import FileSource, PeerOffer
from services.downloader.worker import messages


class OrderReader:
    """The lines of stdin after the job. Their end is the parent's, and ends this process."""

    def __init__(
        self, lines: RawIOBase, send: Callable[[messages.FindFilePeers | messages.FindPeerRepo], None]
    ) -> None:
        self._lines = lines
        self._send = send
        self._go: queue.SimpleQueue[messages.Go] = queue.SimpleQueue()
        self._peer_repo: queue.SimpleQueue[messages.PeerRepo] = queue.SimpleQueue()
        self._queries: dict[str, asyncio.Future[messages.FilePeers]] = {}
        self._limit_bytes_s: int | None = None
        self._limit_lock = threading.Lock()
        self._notify_limit: Callable[[int | None], None] | None = None
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def wait_for_go(self) -> messages.Go:
        """Block until the parent allows the transfer."""
        return self._go.get()

    def find_peer_repo(self, repo: str, revision: str | None) -> messages.PeerRepo:
        """The files of a repository that other nodes have. Blocks."""
        self._send(messages.FindPeerRepo(repo=repo, revision=revision))
        return self._peer_repo.get()

    async def find_file_peers(self, source: FileSource) -> tuple[PeerOffer, ...]:
        """The nodes that have this file now; one query a file at a time."""
        assert source.sha256 is not None
        answer: asyncio.Future[messages.FilePeers] = asyncio.get_running_loop().create_future()
        self._queries[source.sha256] = answer
        self._send(messages.FindFilePeers(sha256=source.sha256, size_bytes=source.size_bytes))
        return (await answer).offers

    def watch_limit(self, on_limit: Callable[[int | None], None]) -> None:
        """Call on_limit in the running loop, now and at each change."""
        loop = asyncio.get_running_loop()

        def notify(limit_bytes_s: int | None) -> None:
            loop.call_soon_threadsafe(on_limit, limit_bytes_s)

        with self._limit_lock:
            self._notify_limit = notify
            on_limit(self._limit_bytes_s)

    def _read(self) -> None:
        for line in self._lines:
            match messages.ORDER_DECODER.decode(line):
                case messages.Go() as go:
                    self._set_limit(go.limit_bytes_s)
                    self._go.put(go)
                case messages.Limit(limit_bytes_s=limit):
                    self._set_limit(limit)
                case messages.PeerRepo() as repo:
                    self._peer_repo.put(repo)
                case messages.FilePeers() as peers:
                    self._answer(peers)
        os._exit(1)

    def _set_limit(self, bytes_per_s: int | None) -> None:
        with self._limit_lock:
            self._limit_bytes_s = bytes_per_s
            if self._notify_limit is not None:
                self._notify_limit(bytes_per_s)

    def _answer(self, peers: messages.FilePeers) -> None:
        if (query := self._queries.pop(peers.sha256, None)) is not None:
            query.get_loop().call_soon_threadsafe(_set_result, query, peers)


def _set_result(query: asyncio.Future[messages.FilePeers], peers: messages.FilePeers) -> None:
    if not query.done():
        query.set_result(peers)
