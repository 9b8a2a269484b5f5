"""The answer on its way back: numbered frames over core NATS, kept until the gateway has them."""

import collections
import contextlib
import time

import nats.errors

from modelyard.bus.connection import Bus
from schemas.frames import AnswerEnd, AnswerHead, Frame, Resend, encode_frame
from schemas.requests import InferHeaders
from schemas.subjects import ANSWER

FRAME_BYTES = 512 * 1024
"""Larger pieces are cut, so that no frame comes near the broker's limit."""
KEPT_BYTES = 8 * 1024 * 1024
"""How much of one answer is kept to be sent again."""


class Frames:
    """Sends the frames of one attempt at one request."""

    def __init__(self, bus: Bus, headers: InferHeaders, delivery: int) -> None:
        self.started_at: float | None = None
        """When the first bytes left, in unix seconds."""
        self.ended = False
        self.delivery = delivery
        self._headers = headers
        self._bus = bus
        self._subject = ANSWER(gateway=headers.reply, request=headers.request)
        self.count = 0
        """Frames sent so far."""
        self._head: AnswerHead | None = None
        self._kept: collections.deque[tuple[int, bytes]] = collections.deque()
        self._kept_bytes = 0

    def head(self, head: AnswerHead) -> None:
        """Status and type; they travel with the first bytes."""
        self._head = head

    async def data(self, data: bytes, end: AnswerEnd | None = None) -> None:
        """Send bytes as they are; with `end`, they are the last."""
        self.started_at = self.started_at or time.time()
        last = max(len(data) - 1, 0) // FRAME_BYTES * FRAME_BYTES
        for start in range(0, last + 1, FRAME_BYTES):
            await self._send(data[start : start + FRAME_BYTES], end if start == last else None)

    async def end(self, end: AnswerEnd) -> None:
        """Send the last frame, without bytes."""
        await self._send(b"", end)

    async def _send(self, data: bytes, end: AnswerEnd | None) -> None:
        frame = Frame(
            attempt=self._headers.attempt,
            delivery=self.delivery,
            number=self.count,
            head=self._head if self.count == 0 else None,
            end=end,
        )
        message = encode_frame(frame, data)
        self.count += 1
        self.ended = end is not None
        self._kept.append((frame.number, message))
        self._kept_bytes += len(message)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popleft()[1])
        await self._publish(message)

    async def resend(self, wanted: Resend) -> None:
        """Send again what the gateway misses. What is not kept any more it will not get."""
        if wanted.attempt != self._headers.attempt or wanted.delivery not in (0, self.delivery):
            return
        for number, message in tuple(self._kept):
            if number >= wanted.number:
                await self._publish(message)

    async def _publish(self, message: bytes) -> None:
        # What the broker does not take while it is away, the gateway will ask for.
        with contextlib.suppress(nats.errors.Error):
            await self._bus.nc.publish(self._subject, message)
