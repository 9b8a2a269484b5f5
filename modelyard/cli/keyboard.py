"""What a person types while the connection lives on."""

import asyncio
import os
import sys

_LINE_BYTES = 65536


async def ask(prompt: str) -> str | None:
    """The next line that is typed; None when there are no more."""
    print(prompt, end="", file=sys.stderr, flush=True)
    typed, loop, keyboard = asyncio.Event(), asyncio.get_running_loop(), sys.stdin.fileno()
    loop.add_reader(keyboard, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(keyboard)
    # A terminal gives a line at a time; not through sys.stdin, whose buffer would hide a second one.
    line = os.read(keyboard, _LINE_BYTES)
    return line.decode(errors="replace").rstrip("\n") if line else None
