"""Answers on their way in: frames put in order, handed to whoever waits, given up when nobody does."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec

from modelyard import logging
from schemas.errors import EngineFailed, ErrorBody, YardError, from_body
from schemas.models import ModelSpec
from schemas.requests import END, HEAD, AnswerEnd, AnswerHead

log = logging.get(__name__)

MAX_BUFFERED_BYTES = 16 * 1024 * 1024
"""What a client that reads too slowly may leave lying here before its request is cancelled."""

_head = msgspec.json.Decoder(AnswerHead)
_end = msgspec.json.Decoder(AnswerEnd)


class Answer:
    """One answer, from the first frame to the last. Frames of one attempt only; a gap is an error."""

    def __init__(self, request: str, spec: ModelSpec, queued_at: float) -> None:
        self.request = request
        self.spec = spec
        self.queued_at = queued_at
        self.instance: str | None = None
        """Who answers; None while nobody does yet."""
        self.ended = False
        self.by_runner = False
        """Whether the runner ended it, and so wrote the usage record."""
        self.seq = 0
        """Where it stands in the stream."""
        self.heard_at = queued_at
        """When its runner was last heard of, in unix seconds."""
        self._attempt = ""
        self._next = 1
        self._buffered_bytes = 0
        self._first: asyncio.Future[AnswerHead] = asyncio.get_running_loop().create_future()
        self._pieces: asyncio.Queue[bytes | YardError | None] = asyncio.Queue()

    async def head(self) -> AnswerHead:
        """Status and content type; raises what kept the request from being answered."""
        return await self._first

    async def body(self) -> AsyncIterator[bytes]:
        """The bytes as they come; raises if the answer breaks off."""
        while (piece := await self._pieces.get()) is not None:
            if isinstance(piece, YardError):
                raise piece
            self._buffered_bytes -= len(piece)
            yield piece

    def on_frame(self, attempt: str, part: str, data: bytes) -> None:
        """Take a frame from the wire."""
        if self.ended:
            return
        self.heard_at = time.time()
        if part == HEAD:
            self._on_head(attempt, _head.decode(data))
        elif attempt != self._attempt and not (part == END and self.instance is None):
            return
        elif part == END:
            self._on_end(_end.decode(data))
        else:
            self._on_bytes(int(part), data)

    def sees(self, attempt: str, frames: int) -> bool:
        """Whether this answer has all `frames` that were sent in `attempt` so far; if not, it is failed."""
        self.heard_at = time.time()
        if attempt == self._attempt and frames >= self._next and not self.ended:
            self.fail(_lost())
        return not self.ended

    def _on_head(self, attempt: str, head: AnswerHead) -> None:
        if self.instance is not None:
            self.fail(runner_died())
            return
        self._attempt, self.instance = attempt, head.instance
        if not self._first.done():
            self._first.set_result(head)

    def _on_bytes(self, number: int, data: bytes) -> None:
        if number < self._next:
            return
        if number > self._next:
            self.fail(_lost())
            return
        self._next += 1
        self._buffered_bytes += len(data)
        if self._buffered_bytes > MAX_BUFFERED_BYTES:
            log.warning("reader_too_slow", request=self.request, buffered_bytes=self._buffered_bytes)
            self.fail(EngineFailed("The answer was read too slowly and was given up."))
            return
        self._pieces.put_nowait(data)

    def _on_end(self, end: AnswerEnd) -> None:
        if end.error is not None:
            self.fail(from_body(ErrorBody(error=end.error)), by_runner=True)
        elif end.frames >= self._next:
            self.fail(_lost())
        else:
            self.ended = self.by_runner = True
            self._pieces.put_nowait(None)

    def fail(self, error: YardError, *, by_runner: bool = False) -> None:
        """End it with an error, for the client that waits."""
        if self.ended:
            return
        self.ended, self.by_runner = True, by_runner
        if not self._first.done():
            self._first.set_exception(error)
            # A client that left does not ask any more; that is no reason for a warning.
            self._first.exception()
        self._pieces.put_nowait(error)


def runner_died() -> EngineFailed:
    """What a client is told whose answer broke off."""
    return EngineFailed("The runner died while it answered; please try again.")


def _lost() -> EngineFailed:
    return EngineFailed("Parts of the answer were lost on the way; please try again.")
