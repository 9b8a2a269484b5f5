"""An answer on its way in: frames put in order, handed to whoever waits, given up when nobody does."""

import asyncio
import collections
import time
from collections.abc import AsyncIterator, Callable

from modelyard.bus import logs
from schemas.endpoints import Style
from schemas.errors import EngineFailed, ErrorBody, YardError, from_body
from schemas.frames import AnswerEnd, AnswerHead, Frame, Resend
from schemas.models import ModelSpec
from services.gateway.inference.ask import Ask
from services.gateway.inference.transcript import Transcript

log = logs.get(__name__)

MAX_BUFFERED_BYTES = 8 * 1024 * 1024
"""What a client that reads too slowly may leave lying here before its request is cancelled."""
ASK_AGAIN_S = 0.5
"""A gap is asked for once in this time."""
_CONTINUABLE = frozenset({Style.CHAT, Style.COMPLETION})


class Answer:
    """One answer, from the queue to its last frame, over as many attempts as it takes.

    `broken` is called when a runner says that its engine broke off and somebody else may go on.
    """

    def __init__(self, ask: Ask, spec: ModelSpec, broken: Callable[["Answer"], None]) -> None:
        self.ask = ask
        self.spec = spec
        self.traceparent = ask.traceparent
        """What its runner's span is below of."""
        self.queued_at = time.time()
        self.seq = 0
        """Where it stands in the stream; 0 while the broker has not said."""
        self.attempt = 1
        self.sent = 0
        """How often the present attempt was sent to the broker."""
        self.deaths = 0
        """How many runners or engines died at it."""
        self.by_reference = False
        """Whether its body lies in the broker in pieces."""
        self.instance: str | None = None
        """Who is at it; None while it waits."""
        self.ended = False
        self.by_runner = False
        """Whether the runner ended it, and so wrote the usage record."""
        self.heard_at = self.queued_at
        """When its runner was last heard of, in unix seconds."""
        self.transcript = Transcript() if ask.stream and ask.endpoint.style in _CONTINUABLE else None
        self.error: YardError | None = None
        """Why it ended without being whole."""
        self.on_too_slow: Callable[[], None] | None = None
        """Cuts off a reader who takes nothing any more, and so would hear of no error either."""
        self._broken = broken
        self._delivery = 0
        self._next = 0
        self._asked_again_at = 0.0
        self._head: AnswerHead | None = None
        self._pieces: collections.deque[bytes] = collections.deque()
        self._buffered_bytes = 0
        self._more = asyncio.Event()

    @property
    def waits(self) -> bool:
        """Whether it is still in the queue."""
        return self.instance is None and not self.ended

    @property
    def begun(self) -> bool:
        """Whether the client has something of it."""
        return self._head is not None

    async def head(self) -> AnswerHead:
        """Status and content type; raises what kept the request from being answered."""
        while self._head is None:
            if self.error is not None:
                raise self.error
            await self._wait()
        return self._head

    async def body(self) -> AsyncIterator[bytes]:
        """The bytes as they come, those together that came together; raises if the answer breaks off."""
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

    async def _wait(self) -> None:
        self._more.clear()
        await self._more.wait()

    def on_started(self, instance: str, attempt: int) -> None:
        """A runner took it.

        Not so once it has begun: what is redelivered then, since its runner has vanished, is turned away, and
        the vanished one must stay the one whose silence counts.
        """
        if attempt == self.attempt and self._next == 0:
            self.instance = instance
            self.heard_at = time.time()

    def on_frame(self, frame: Frame, data: bytes) -> Resend | None:
        """Take a frame from the wire; what to ask for again, if some are missing before it."""
        if self.ended or frame.attempt != self.attempt or not self._is_of_this_delivery(frame):
            return None
        self.heard_at = time.time()
        if frame.number > self._next:
            return self.missing()
        if frame.number == self._next:
            self._next += 1
            self._take(frame, data)
        return None

    def _is_of_this_delivery(self, frame: Frame) -> bool:
        """Of two runners at the same attempt the first one heard is believed."""
        if self._next == 0:
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
            log.warning("reader_too_slow", request=self.ask.request, buffered_bytes=self._buffered_bytes)
            self.fail(EngineFailed("The answer was read too slowly and was given up."))
            self._pieces.clear()
            if self.on_too_slow is not None:
                self.on_too_slow()
        elif frame.end is not None:
            self._on_end(frame.end)
        self._more.set()

    def _on_end(self, end: AnswerEnd) -> None:
        if end.again:
            self._broken(self)
        elif end.error is not None:
            self.fail(from_body(ErrorBody(error=end.error)), by_runner=True)
        else:
            self.ended = self.by_runner = True

    def missing(self) -> Resend | None:
        """What to ask its runner for, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._asked_again_at < ASK_AGAIN_S:
            return None
        self._asked_again_at = now
        return Resend(attempt=self.attempt, delivery=self._delivery, number=self._next)

    def has(self, frames: int) -> bool:
        """Whether all `frames` that were sent so far are here."""
        self.heard_at = time.time()
        return self._next >= frames

    def is_at(self, attempt: int, delivery: int) -> bool:
        """Whether that is the attempt we listen to."""
        return attempt == self.attempt and (self._next == 0 or delivery == self._delivery)

    def try_again(self) -> None:
        """Forget the attempt that failed; the next one is asked for by the caller."""
        self.attempt += 1
        self.instance = None
        self.seq = self.sent = self._next = self._delivery = 0
        self.heard_at = time.time()

    def finish(self, last: bytes) -> None:
        """End it as if the runner had, with the piece that was missing."""
        if not self.ended:
            self._pieces.append(last)
            self.ended = True
            self._more.set()

    def fail(self, error: YardError, *, by_runner: bool = False) -> None:
        """End it with an error, for the client that waits."""
        if self.ended:
            return
        self.ended, self.by_runner, self.error = True, by_runner, error
        self._more.set()
