"""The frames of an answer: numbered, sent over core NATS, retained until the gateway has them."""

import collections
import contextlib
import time

import nats.errors

from modelyard.bus.connection import Bus
from schemas.frames import AnswerEnd, AnswerHead, Frame, Resend, encode_frame
from schemas.requests import InferHeaders
from schemas.subjects import ANSWER

FRAME_BYTES = 512 * 1024
"""Larger pieces are split, so that no frame comes near the broker's limit."""
RETAINED_BYTES = 8 * 1024 * 1024
"""The part of one answer that can be resent."""


class FrameSender:
    """Sends the frames of one attempt at one request."""

    def __init__(self, bus: Bus, headers: InferHeaders, delivery: int) -> None:
        self.started_at: float | None = None
        """When the first bytes were sent, in unix seconds."""
        self.delivery = delivery
        self.count = 0
        """Frames sent so far."""
        self._bus = bus
        self._headers = headers
        self._subject = ANSWER(gateway=headers.reply, request=headers.request)
        self._head: AnswerHead | None = None
        self._retained: collections.deque[tuple[int, bytes]] = collections.deque()
        self._retained_bytes = 0

    def set_head(self, head: AnswerHead) -> None:
        """Status and type; they are sent with the first bytes."""
        self._head = head

    async def send(self, data: bytes, end: AnswerEnd | None = None) -> None:
        """Send bytes unchanged; with `end`, they are the last."""
        self.started_at = self.started_at or time.time()
        last = max(len(data) - 1, 0) // FRAME_BYTES * FRAME_BYTES
        for start in range(0, last + 1, FRAME_BYTES):
            await self._send(data[start : start + FRAME_BYTES], end if start == last else None)

    async def send_end(self, end: AnswerEnd) -> None:
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
        self._retained.append((frame.number, message))
        self._retained_bytes += len(message)
        while self._retained_bytes > RETAINED_BYTES and len(self._retained) > 1:
            self._retained_bytes -= len(self._retained.popleft()[1])
        await self._publish(message)

    async def resend(self, resend: Resend) -> None:
        """Send the retained frames that the gateway misses."""
        if resend.attempt != self._headers.attempt or resend.delivery not in (0, self.delivery):
            return
        for number, message in tuple(self._retained):
            if number >= resend.number:
                await self._publish(message)

    async def _publish(self, message: bytes) -> None:
        # The gateway requests the frames that were lost while the broker was away.
        with contextlib.suppress(nats.errors.Error):
            await self._bus.nc.publish(self._subject, message)
