"""Talking to a model in turns, on a terminal."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING

from modelyard.cli.answering import Message, answer, user
from modelyard.cli.verbs import complain
from schemas.errors import BrokerUnavailable, ServiceUnavailable, YardError

if TYPE_CHECKING:
    from modelyard.client import Client

_LINE_BYTES = 65536


async def converse(yard: "Client", model: str, begin: Sequence[Message], *, as_json: bool) -> None:
    """Turn after turn until the person ends it; what went wrong in one turn is told and forgotten."""
    messages = list(begin)
    while (prompt := await _ask()) is not None:
        if not prompt.strip():
            continue
        said: list[str] = []
        try:
            await _turn(answer(yard, model, [*messages, user(prompt)], said, as_json=as_json))
        except (BrokerUnavailable, ServiceUnavailable):
            raise
        except YardError as error:
            complain(error.message)
            continue
        messages += [user(prompt), {"role": "assistant", "content": "".join(said)}]


async def _ask() -> str | None:
    """The next line that is typed; None when there are no more. The connection lives on meanwhile."""
    print("> ", end="", file=sys.stderr, flush=True)
    typed, loop, keyboard = asyncio.Event(), asyncio.get_running_loop(), sys.stdin.fileno()
    loop.add_reader(keyboard, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(keyboard)
    # A terminal gives a line at a time; not through sys.stdin, whose buffer would hide a second one.
    line = os.read(keyboard, _LINE_BYTES)
    return line.decode(errors="replace").rstrip("\n") if line else None


async def _turn(answering: Coroutine[None, None, None]) -> None:
    """One answer; Ctrl-C breaks only this one off."""
    task = asyncio.ensure_future(answering)
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
    if not task.cancelled():
        task.result()
