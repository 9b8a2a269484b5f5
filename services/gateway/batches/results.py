"""Answers of a batch as the broker keeps them: one a line, whatever dies in between."""

import asyncio
import contextlib

import msgspec
import nats.errors
import nats.js.errors

from modelyard.bus.connection import Bus
from schemas import streams, subjects
from schemas.batches import LineResult
from schemas.errors import BodyTooLarge, BrokerUnavailable

_THERE_ALREADY = 10077
_AT_ONCE = 16


def fitting(result: LineResult, most_bytes: int) -> LineResult:
    """The result, or an error in its place that has room in a message: asked again it would be no less."""
    size_bytes = len(subjects.RESULT.encode(result))
    if size_bytes <= most_bytes:
        return result
    error = BodyTooLarge(f"The answer has {size_bytes} bytes; at most {most_bytes} of a line are kept.")
    return msgspec.structs.replace(result, status=error.status, body=msgspec.Raw(error.encode()))


class Results:
    """The results of one batch."""

    def __init__(self, bus: Bus, batch: str) -> None:
        self._bus = bus
        self._batch = batch

    async def store(self, result: LineResult) -> LineResult:
        """Keep a result, and say what is kept; a second one for the same line is not needed and not kept."""
        subject = subjects.RESULT(batch=self._batch, line=str(result.line))
        result = fitting(result, self._bus.max_body_bytes)
        try:
            await self._bus.js.publish(subject, subjects.RESULT.encode(result))
        except nats.js.errors.ServiceUnavailableError as error:
            if error.err_code != _THERE_ALREADY:
                raise BrokerUnavailable("A result could not be stored.") from error
        except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            raise BrokerUnavailable("A result could not be stored.") from error
        return result

    async def done(self) -> set[int]:
        """The numbers of the lines that are answered."""
        wanted = subjects.RESULT.matching(batch=self._batch)
        try:
            info = await self._bus.js.stream_info(streams.RESULTS.name, subjects_filter=wanted)
        except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            raise BrokerUnavailable("The results cannot be counted now.") from error
        return {int(subjects.RESULT.parse(subject)["line"]) for subject in info.state.subjects or {}}

    async def all(self) -> list[LineResult]:
        """Every result."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def fetch(line: int) -> LineResult:
            async with gate:
                subject = subjects.RESULT(batch=self._batch, line=str(line))
                msg = await self._bus.js.get_msg(streams.RESULTS.name, subject=subject, direct=True)
                return subjects.RESULT.decode(msg.data or b"")

        try:
            return list(await asyncio.gather(*(fetch(line) for line in await self.done())))
        except (TimeoutError, nats.errors.Error, nats.js.errors.Error, msgspec.DecodeError) as error:
            raise BrokerUnavailable("The results cannot be read now.") from error

    async def forget(self) -> None:
        """They are in the output file now."""
        with contextlib.suppress(TimeoutError, nats.errors.Error, nats.js.errors.Error):
            await self._bus.js.purge_stream(
                streams.RESULTS.name, subject=subjects.RESULT.matching(batch=self._batch)
            )
