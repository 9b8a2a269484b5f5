"""The answer on its way back: numbered frames over core NATS to the gateway that asked."""

import asyncio
import time

import msgspec
import nats.errors

from modelyard.bus import Bus
from schemas.errors import ErrorDetail
from schemas.requests import ALIVE, END, HEAD, AnswerEnd, AnswerHead, StillWanted
from schemas.subjects import ANSWER

CONFIRM_TIMEOUT_S = 2.0
CONFIRM_TRIES = 5
FRAME_BYTES = 1024 * 1024
"""Larger pieces are cut, so that no frame comes near the broker's limit."""


class Frames:
    """Sends the frames of one attempt at one request."""

    def __init__(self, bus: Bus, gateway: str, request: str, attempt: int) -> None:
        self.count = 0
        """Frames of bytes sent so far."""
        self.started_at: float | None = None
        """When the first frame of bytes left, in unix seconds."""
        self._bus = bus
        self._subject = ANSWER(gateway=gateway, request=request, attempt=str(attempt), part="PART")[:-4]

    async def head(self, head: AnswerHead) -> None:
        await self._bus.nc.publish(self._subject + HEAD, msgspec.json.encode(head))

    async def data(self, data: bytes) -> None:
        self.started_at = self.started_at or time.time()
        for start in range(0, len(data), FRAME_BYTES):
            self.count += 1
            await self._bus.nc.publish(self._subject + str(self.count), data[start : start + FRAME_BYTES])

    async def end(self, error: ErrorDetail | None = None) -> None:
        """Send the last frame until the gateway has it or is gone: without it a client would wait on."""
        end = msgspec.json.encode(AnswerEnd(frames=self.count, error=error))
        for _ in range(CONFIRM_TRIES):
            try:
                await self._bus.nc.request(self._subject + END, end, timeout=CONFIRM_TIMEOUT_S)
                return
            except nats.errors.NoRespondersError:
                await asyncio.sleep(0.5)
            except (TimeoutError, nats.errors.Error):
                continue

    async def still_wanted(self) -> bool | None:
        """Whether anybody waits for the answer; None if the gateway cannot be asked now."""
        frames = msgspec.json.encode(AnswerEnd(frames=self.count))
        try:
            msg = await self._bus.nc.request(self._subject + ALIVE, frames, timeout=CONFIRM_TIMEOUT_S)
        except nats.errors.NoRespondersError:
            # Nobody listens: the gateway is gone, or on its way back after the broker was.
            return False if self._bus.connected else None
        except (TimeoutError, nats.errors.Error):
            return None
        return msgspec.json.decode(msg.data, type=StillWanted).wanted
