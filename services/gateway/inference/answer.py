"""An answer as it arrives: frames put in order over all attempts, read by one client."""

import asyncio
import collections
import time
from collections.abc import AsyncIterator, Callable

from modelyard.bus import logs
from schemas.errors import EngineFailed, ErrorBody, YardError, from_body
from schemas.frames import AnswerEnd, AnswerHead, Frame, Resend
from schemas.models import ModelSpec
from schemas.requests import Style
from services.gateway.inference.request import InferRequest
from services.gateway.inference.retry import Transcript

log = logs.get(__name__)

MAX_BUFFERED_BYTES = 8 * 1024 * 1024
"""What a client that reads too slowly may leave buffered before its request is cancelled."""
RESEND_INTERVAL_S = 0.5
"""The least time between two requests for missing frames."""
_CONTINUABLE = frozenset({Style.CHAT, Style.COMPLETION})


class AnswerReceiver:
    """One answer, from the queue to its last frame, over as many attempts as it takes.

    `on_engine_failure` is called when a runner reports that its engine broke off and another may continue.
    """

    def __init__(
        self, request: InferRequest, spec: ModelSpec, on_engine_failure: Callable[["AnswerReceiver"], None]
    ) -> None:
        self.request = request
        self.spec = spec
        self.traceparent = request.traceparent
        """The parent of the runner's span."""
        self.queued_at = time.time()
        self.sequence = 0
        """Its sequence in the stream; 0 until the broker has acknowledged it."""
        self.attempt = 1
        self.publish_count = 0
        """How often the present attempt was published."""
        self.failed_attempts = 0
        self.body_stored = False
        """Whether its body is in the stream of bodies."""
        self.instance: str | None = None
        """The instance that answers; None while it is queued."""
        self.ended = False
        self.ended_by_runner = False
        """Whether the runner ended it, and so wrote the usage record."""
        self.last_seen_at = self.queued_at
        """When the last sign of its runner came, in unix seconds."""
        self.transcript = Transcript() if request.stream and request.endpoint.style in _CONTINUABLE else None
        self.error: YardError | None = None
        """Why it ended early."""
        self.on_reader_too_slow: Callable[[], None] | None = None
        """Aborts the connection of a client that does not read, and so would not get an error either."""
        self._on_engine_failure = on_engine_failure
        self._delivery = 0
        self._next_frame = 0
        self._resend_requested_at = 0.0
        self._head: AnswerHead | None = None
        self._pieces: collections.deque[bytes] = collections.deque()
        self._buffered_bytes = 0
        self._changed = asyncio.Event()

    @property
    def queued(self) -> bool:
        """Whether no runner has taken it yet."""
        return self.instance is None and not self.ended

    @property
    def begun(self) -> bool:
        """Whether the client has a part of it."""
        return self._head is not None

    async def head(self) -> AnswerHead:
        """Status and content type; raises the error of a request without an answer."""
        while self._head is None:
            if self.error is not None:
                raise self.error
            await self._wait()
        return self._head

    async def body(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive, joined where several frames are buffered; raises if it ends early."""
        while True:
            if self._pieces:
                data = b"".join(self._pieces)
                self._pieces.clear()
                self._buffered_bytes = 0
                yield data
            elif self.error is not None:
                raise self.error
            elif self.ended:
                return
            else:
                await self._wait()

    async def read_all(self) -> bytes:
        return b"".join([piece async for piece in self.body()])

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def on_started(self, instance: str, attempt: int) -> None:
        """A runner took the request.

        Ignored once frames have come: what is redelivered then, since its runner has vanished, is superseded,
        and the silence of the vanished runner must still count.
        """
        if attempt == self.attempt and self._next_frame == 0:
            self.instance = instance
            self.last_seen_at = time.time()

    def on_frame(self, frame: Frame, data: bytes) -> Resend | None:
        """Take a frame; the request for frames that are missing before it, if it is due."""
        if self.ended or frame.attempt != self.attempt or not self._is_current_delivery(frame):
            return None
        self.last_seen_at = time.time()
        if frame.number > self._next_frame:
            return self.resend_request()
        if frame.number == self._next_frame:
            self._next_frame += 1
            self._take(frame, data)
        return None

    def _is_current_delivery(self, frame: Frame) -> bool:
        # Of two runners with the same attempt the one whose frame comes first counts.
        if self._next_frame == 0:
            self._delivery = frame.delivery
        return frame.delivery == self._delivery

    def _take(self, frame: Frame, data: bytes) -> None:
        if frame.head is not None:
            self.instance = frame.head.instance
            self._head = self._head or frame.head
        if data:
            self._pieces.append(data)
            self._buffered_bytes += len(data)
            if self.transcript is not None:
                self.transcript.add(data)
        if self._buffered_bytes > MAX_BUFFERED_BYTES:
            self._give_up_reader()
        elif frame.end is not None:
            self._on_end(frame.end)
        self._changed.set()

    def _give_up_reader(self) -> None:
        log.warning("reader_too_slow", request=self.request.id, buffered_bytes=self._buffered_bytes)
        self.fail(EngineFailed("The answer was read too slowly and was given up."))
        self._pieces.clear()
        if self.on_reader_too_slow is not None:
            self.on_reader_too_slow()

    def _on_end(self, end: AnswerEnd) -> None:
        if end.may_retry:
            self._on_engine_failure(self)
        elif end.error is not None:
            self.fail(from_body(ErrorBody(error=end.error)), by_runner=True)
        else:
            self.ended = self.ended_by_runner = True

    def resend_request(self) -> Resend | None:
        """The request for missing frames, unless one was sent a moment ago."""
        now = time.monotonic()
        if now - self._resend_requested_at < RESEND_INTERVAL_S:
            return None
        self._resend_requested_at = now
        return Resend(attempt=self.attempt, delivery=self._delivery, number=self._next_frame)

    def has_received(self, frames: int) -> bool:
        """Whether all `frames` that its runner has sent are here."""
        self.last_seen_at = time.time()
        return self._next_frame >= frames

    def is_current(self, attempt: int, delivery: int) -> bool:
        """Whether frames of this attempt and delivery count."""
        return attempt == self.attempt and (self._next_frame == 0 or delivery == self._delivery)

    def begin_retry(self) -> None:
        """Drop the state of the failed attempt; the caller publishes the next one."""
        self.attempt += 1
        self.instance = None
        self.sequence = self.publish_count = self._next_frame = self._delivery = 0
        self.last_seen_at = time.time()

    def finish(self, last: bytes) -> None:
        """End it as its runner would have, with the piece that is missing."""
        if not self.ended:
            self._pieces.append(last)
            self.ended = True
            self._changed.set()

    def fail(self, error: YardError, *, by_runner: bool = False) -> None:
        """End it with an error for the client; the first end counts."""
        if self.ended:
            return
        self.ended, self.ended_by_runner, self.error = True, by_runner, error
        self._changed.set()
