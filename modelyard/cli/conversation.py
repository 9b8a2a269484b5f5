"""Talking to a model in turns, on a terminal."""

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING

from modelyard.cli.answering import Message, answer, user
from modelyard.cli.keyboard import ask
from modelyard.cli.verbs import complain
from schemas.errors import BrokerUnavailable, ServiceUnavailable, YardError

if TYPE_CHECKING:
    from modelyard.client import Client


async def converse(yard: "Client", model: str, begin: Sequence[Message], *, as_json: bool) -> None:
    """Turn after turn until the person ends it; what went wrong in one turn is told and forgotten."""
    messages = list(begin)
    while (prompt := await ask("> ")) is not None:
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
