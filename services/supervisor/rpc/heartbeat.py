"""The heartbeat connection between a worker and its instance.

Every heartbeat of the instance is answered. Without one for a while, or when the connection ends, the other
side counts as gone. A worker that exits sends the reason as its last line.
"""

import asyncio
import contextlib

INTERVAL_S = 2.0
TIMEOUT_S = 8.0
"""A machine that loses power closes no connection."""
_BEAT = b"\n"


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """The instance's side, until the worker is gone; the reason, as far as the worker sent it."""
    sending = asyncio.create_task(_send_beats(writer))
    try:
        while line := await asyncio.wait_for(reader.readline(), TIMEOUT_S):
            if line != _BEAT:
                return line.decode(errors="replace").strip()
    except TimeoutError:
        return f"it has not answered for {TIMEOUT_S:.0f} s"
    except (OSError, ValueError):
        # A process that is killed with unread data leaves a reset instead of an end.
        pass
    finally:
        sending.cancel()
    return "it was killed, or its machine is gone"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The worker's side, until its instance is gone."""
    with contextlib.suppress(OSError, TimeoutError):
        while await asyncio.wait_for(reader.read(64), TIMEOUT_S):
            writer.write(_BEAT)
            await writer.drain()


def send_exit_reason(writer: asyncio.StreamWriter, reason: str) -> None:
    """The last line of a worker that exits."""
    with contextlib.suppress(OSError):
        writer.write(reason.replace("\n", " ").encode() + b"\n")


async def _send_beats(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while True:
            writer.write(_BEAT)
            await writer.drain()
            await asyncio.sleep(INTERVAL_S)
