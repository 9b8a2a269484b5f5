"""Reading our own answers where they are said in other words."""

from collections.abc import AsyncIterator


async def data_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of every event of a stream whose events are one line each, cut wherever it may be."""
    rest = b""
    async for piece in pieces:
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            if event.startswith(b"data:"):
                yield event[5:].strip()
