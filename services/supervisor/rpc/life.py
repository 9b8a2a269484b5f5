"""The one connection on which a worker and its instance know of each other, and its words.

Every beat of the instance is answered. Who hears none for a while takes the other for gone, as when the
connection ends. A worker that ends by itself says why in its last line.
"""

import asyncio
import contextlib

BEAT_S = 2.0
SILENCE_S = 8.0
"""Without a beat for so long the other side is taken for gone: a machine without power says nothing."""
_BEAT = b"\n"


async def beat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """The instance's side, until the worker is gone; why it is, as far as it said."""
    beating = asyncio.create_task(_beat(writer))
    try:
        while line := await asyncio.wait_for(reader.readline(), SILENCE_S):
            if line != _BEAT:
                return line.decode(errors="replace").strip()
    except TimeoutError:
        return f"it has not answered for {SILENCE_S:.0f} s"
    except (OSError, ValueError):
        # A process that is killed with something unread leaves a reset, no end.
        pass
    finally:
        beating.cancel()
    return "it was killed, or its machine is gone"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The worker's side, until its instance is gone."""
    with contextlib.suppress(OSError, TimeoutError):
        while await asyncio.wait_for(reader.read(64), SILENCE_S):
            writer.write(_BEAT)
            await writer.drain()


def last_word(writer: asyncio.StreamWriter, why: str) -> None:
    """Tell the instance why this worker ends."""
    with contextlib.suppress(OSError):
        writer.write(why.replace("\n", " ").encode() + b"\n")


async def _beat(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while True:
            writer.write(_BEAT)
            await writer.drain()
            await asyncio.sleep(BEAT_S)
